# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Scores of parts of the test part, so that a good average hides no bad corner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ..bindings import Score
from ..contract import compact_json
from .curate import MOST_CLASSES
from .evaluate import Prediction, score

FEWEST = 10
"""Answers below which a slice says nothing."""


@dataclass(frozen=True)
class Slice:
    """One part of the test part."""

    kind: Literal["length", "answer", "topic"]
    name: str
    score: Score
    weak: bool
    """The whole test part's score lies above this slice's interval."""


def slices(predictions: Sequence[Prediction], texts: Sequence[str]) -> list[Slice]:
    """Return a contestant's scores by length of the input, by true answer where there are few, and by topic.

    Topics are clusters (k-means on TF-IDF of words), named by the words that are theirs.

    Args:
        predictions: one contestant's, with their values.
        texts: what each input is about, for the topics; as many.
    """
    if not predictions:
        return []
    lengths = sorted(len(compact_json(p.input)) for p in predictions)
    short, long = lengths[len(lengths) // 3], lengths[2 * len(lengths) // 3]

    def length(p: Prediction) -> str:
        count = len(compact_json(p.input))
        return f"to {short} characters" if count <= short else f"to {long}" if count <= long else f"above {long}"

    found = [*_by("length", predictions, list(map(length, predictions)))]
    answers = [compact_json(p.target) for p in predictions]
    if len(set(answers)) <= MOST_CLASSES:
        found += _by("answer", predictions, answers)
    return found + _by("topic", predictions, topics(texts))


def topics(texts: Sequence[str]) -> list[str]:
    """Return each text's topic, named by the three words that tell it from the others; one topic where there are few texts."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    count = min(8, len(texts) // (2 * FEWEST))
    if count < 2:
        return ["all"] * len(texts)
    vectorizer = TfidfVectorizer(stop_words="english", max_df=0.5, sublinear_tf=True)
    try:
        vectors: Any = vectorizer.fit_transform(texts)
    except ValueError:  # no words
        return ["all"] * len(texts)
    clusters: Any = cast(Any, KMeans)(count, n_init=4, random_state=0).fit(vectors)
    words: list[str] = vectorizer.get_feature_names_out().tolist()
    names = [" ".join(words[i] for i in centre.argsort()[::-1][:3]) for centre in clusters.cluster_centers_]
    return [names[label] for label in clusters.labels_]


def _by(
    kind: Literal["length", "answer", "topic"], predictions: Sequence[Prediction], names: Sequence[str]
) -> list[Slice]:
    whole, counts = score(predictions).score, Counter(names)
    named = [
        (name, score([p for p, other in zip(predictions, names, strict=True) if other == name]))
        for name, count in counts.most_common()
        if FEWEST <= count < len(predictions)
    ]
    return [Slice(kind, name, found, found.high < whole) for name, found in named]
