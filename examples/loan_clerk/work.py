"""The clerk's work: `ner_finance` of the package evals (MIT), its first 800 sentences, each once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hetero_agents.contract import Sha256
from hetero_agents.engines.catalog import Progress, fetch

SOURCE = "pypi:evals==3.0.1.post1"
FILE = ("ner_finance/samples.jsonl", Sha256("7ffffeec797366ad631b7b57f404c73e437a15e38351895b3f71d1b030f69430"))
SENTENCES = 800
"""The sentences after these are not used."""


@dataclass(frozen=True)
class Sentence:
    """A sentence and its entities."""

    text: str
    entities: list[dict[str, str]]


def load_sentences(progress: Progress | None = None) -> list[Sentence]:
    """Return the sentences, fetched once; of equal ones the first."""
    found: dict[str, Sentence] = {}
    for line in fetch(SOURCE, *FILE, progress).read_text("utf-8").splitlines()[:SENTENCES]:
        sample = json.loads(line)
        text = sample["input"][-1]["content"]
        found.setdefault(text, Sentence(text, _entities(sample["ideal"])))
    return list(found.values())


def answer_lines(sentences: Sequence[Sentence]) -> Iterator[dict[str, Any]]:
    """Give the answer key."""
    for sentence in sentences:
        values = {"sentence": sentence.text}
        yield {"slot": "clerk.entities", "input": values, "output": sentence.entities}
        yield {"slot": "clerk.names_anyone", "input": values, "output": bool(sentence.entities)}


def entity_f1(found: Sequence[list[dict[str, str]]], true: Sequence[list[dict[str, str]]]) -> float:
    """Micro-averaged F1 of (name, type) pairs, each counted as often as it stands."""
    right = predicted = wanted = 0
    for mine, theirs in zip(found, true, strict=True):
        a, b = (Counter((e["name"], e["type"]) for e in side) for side in (mine, theirs))
        right, predicted, wanted = right + (a & b).total(), predicted + a.total(), wanted + b.total()
    return 2 * right / (predicted + wanted) if predicted + wanted else 1.0


def _entities(ideal: str) -> list[dict[str, str]]:
    """Read `[NAME - TYPE, NAME - TYPE]`; names may hold commas and hyphens."""
    pairs = re.findall(
        r"\s*(.+?) - (PERSON|ORGANIZATION|LOCATION)(?:,|$)", ideal.strip().removeprefix("[").removesuffix("]")
    )
    return [{"name": name.strip(), "type": kind} for name, kind in pairs]
