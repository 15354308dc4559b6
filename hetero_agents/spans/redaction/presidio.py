# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What finds personal values: Presidio with a spaCy model, its recognizers, and those that it lacks.

The spaCy model only names entities here: nothing that it could do besides is asked for, which makes it several
times as fast. Nothing reaches for the network: of the public suffixes, the list inside tldextract is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from spacy.tokens import Doc

from .recognizers import pattern_recognizer, recognizers
from .redactor import Found
from .worker import MODELS

THRESHOLD: Final = 0.4
"""Presidio's score from which a value counts."""

_LABELS = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
"""Presidio's names of what the spaCy model names."""
_PROSE = 6
"""Words from which a text's language is asked for: of fewer it cannot be told."""
_WORD = re.compile(r"(?<![\w.\-/])[^\W\d_]{2,}(?![\w\-/]|\.\w)")
"""A word of prose: no part of an id, a path or a dotted name."""
_SURE = 0.95
"""Probability from which a text counts as one in another language."""


class PresidioDetector:
    """Finds values in the texts of one vault."""

    def __init__(self, language: str = "en", rules: Mapping[str, str] | None = None) -> None:
        """Load the model.

        Args:
            language: what is spoken, one of `MODELS`.
            rules: own regular expressions, by the name of the kind of value that they find.
        """
        self._language = language
        self._nlp = spacy.load(
            MODELS[language], exclude=["tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
        )
        self._engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": MODELS[language]}])
        self._engine.nlp = {language: self._nlp}
        own = [pattern_recognizer(kind, {kind: (rule, 0.9)}) for kind, rule in (rules or {}).items()]
        registry = RecognizerRegistry(recognizers=[*recognizers(), *own], supported_languages=[language])
        self._analyzer = AnalyzerEngine(registry=registry, nlp_engine=self._engine, supported_languages=[language])

    def find(self, texts: Sequence[str]) -> list[list[Found] | None]:
        """Return the values of each text; None for a text in a language that is not spoken."""
        found: list[list[Found] | None] = []
        read = self._nlp.pipe(texts, batch_size=256)
        for text, document in zip(texts, read, strict=True):
            if not self._speaks(text):
                found.append(None)
                continue
            results = self._analyzer.analyze(
                text, self._language, nlp_artifacts=self._artifacts(document), score_threshold=THRESHOLD
            )
            # Of two kinds for one place, the surer one: an address in the net is no person.
            kinds = {(r.start, r.end): r.entity_type for r in sorted(results, key=lambda r: r.score)}
            found.append([Found(start, end, kind) for (start, end), kind in kinds.items()])
        return found

    def _artifacts(self, document: Doc) -> NlpArtifacts:
        """What Presidio's recognizers know of a text; words in place of lemmas, which do for the words that it looks for around a value."""
        entities = [entity for entity in document.ents if entity.label_ in _LABELS]
        for entity in entities:
            entity.label_ = _LABELS[entity.label_]
        words = [token.lower_ for token in document]
        return NlpArtifacts(entities, document, [token.idx for token in document], words, self._engine, self._language)

    def _speaks(self, text: str) -> bool:
        """Whether all of a text is in the language that is spoken, as far as its sentences are long enough to tell."""
        for sentence in re.split(r"\n+|(?<=[.!?])\s+", text):
            letters = [c for c in sentence if c.isalpha()]
            # All models read Latin letters; where most letters are others, a classifier is not needed.
            if sum(ord(c) > 0x24F for c in letters) > len(letters) / 2:
                return False
            if len(_WORD.findall(sentence)) >= _PROSE:
                language, probability = _IDENTIFIER.classify(sentence)
                if language != self._language and probability >= _SURE:
                    return False
        return True


_IDENTIFIER = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
