# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Step S3, as far as the split needs it: which inputs are near-duplicates of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..errors import MissingExtraError

NEAR = 0.7
"""Cosine similarity of character 3- and 4-grams (TF-IDF) from which two texts count as near-duplicates."""


def near_duplicates(texts: Sequence[str], near: float = NEAR) -> list[int]:
    """Return a cluster number for each text; texts that are linked by near-duplicates share one.

    Args:
        texts: n texts.
        near: cosine similarity, 0 to 1, from which two texts are linked.
    """
    try:
        from scipy.sparse.csgraph import connected_components
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.neighbors import radius_neighbors_graph
    except ImportError as error:
        raise MissingExtraError("Distilling", "distill") from error
    if len(texts) < 2:
        return [0] * len(texts)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4)).fit_transform(texts)
    links = radius_neighbors_graph(cast(Any, vectors), radius=1 - near, metric="cosine")
    return [int(label) for label in connected_components(links, directed=False)[1]]


def joined(clusters: Sequence[int], owners: Sequence[str]) -> list[int]:
    """Return clusters of which those that share an owner are one.

    Args:
        clusters: a cluster number for each of n texts.
        owners: whom each text belongs to.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    size = max(clusters, default=-1) + 1
    ends = list(clusters), [size + number[owner] for owner in owners]
    links = coo_array(([1] * len(owners), ends), shape=(size + len(number),) * 2)
    labels = connected_components(links, directed=False)[1]
    return [int(labels[cluster]) for cluster in clusters]
