"""The classifier on embeddings that stands beside every specialist whose calls have few, known answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from hetero_agents import EngineError, OneOf, Slot, slot
from hetero_agents.bindings import SpecialistId
from hetero_agents.contract import sha256_of
from hetero_agents.distill.classifier import classified
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.measure import contest
from hetero_agents.slots import App, registry

from .conftest import OpenApp
from .support import FakeEngines, answers, lock_entry

WORDS = ["cash", "post", "talk"]


def choose_slot() -> Slot[[str, list[str]], str]:
    @slot(name="classifier.choose")
    async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
        """Choose."""
        ...

    return choose


def vector(text: str) -> list[float]:
    assert "tool" not in text, "what may be answered is not looked at"
    return [float(word in text) for word in WORDS]


async def embed(texts: Sequence[str]) -> list[list[float]]:
    return [vector(text) for text in texts]


def example(request: str, output: str, *tools: str) -> Example:
    values = {"request": request, "tools": list(tools)}
    return Example(sha256_of(values), values, output, "big", False, "", "")


TRAIN = [
    example(f"{word} {n}", f"tool_{word}", "tool_cash", "tool_post", "tool_talk") for n in range(4) for word in WORDS
]


def said(test: list[Example]) -> list[Any]:
    return [p.output for p in asyncio.run(classified(embed, choose_slot().contract, TRAIN, test))]


def test_the_likeliest_of_the_options_that_a_call_has_is_taken() -> None:
    assert said([example("cash please", "?", "tool_post", "tool_cash")]) == ["tool_cash"]
    assert said([example("cash please", "?", "tool_post", "tool_new")]) == ["tool_post"], "an unknown one is no guess"


def test_answers_that_are_not_few_and_known_have_no_classifier() -> None:
    @slot(name="classifier.write")
    async def write(request: str) -> str:
        """Write."""
        ...

    assert asyncio.run(classified(embed, write.contract, TRAIN, [example("cash", "?")])) == []


def contestants(app: App, folder: Path) -> dict[str, list[Any]]:
    """What everybody answers to one held-out call."""

    @slot(name="classifier.label")
    async def label(request: str) -> Literal["tool_cash", "tool_post", "tool_talk"]:
        """Label it."""
        ...

    def plain(e: Example) -> Example:
        values = {"request": e.input["request"]}
        return Example(sha256_of(values), values, e.output, "big", False, "", "")

    test = [plain(example("post it", "tool_post"))]
    dataset = Dataset({"train": list(map(plain, TRAIN)), "select": [], "certify": [], "test": test}, "", {})
    found: dict[str, list[Any]] = {}

    async def every() -> None:
        config, entry = app.workspace.model("small"), lock_entry(label.id, label.contract.sha256)
        made = contest(
            app,
            label,
            dataset,
            config,
            SpecialistId("classifier.label@1"),
            entry,
            folder,
            lambda step, done, total: None,
        )
        async for prediction in made:
            found.setdefault(prediction.phase, []).append(prediction.output)

    asyncio.run(every())
    return found


def opened(open_app: OpenApp) -> FakeEngines:
    model = answers("tool_talk")
    app = open_app({"fake:small": model, "fake:big": model, "classifier.label@1": model})
    assert isinstance(app.engines, FakeEngines)
    app.engines.vector = vector
    return app.engines


def test_it_answers_the_test_part_once_beside_plain_code(open_app: OpenApp, tmp_path: Path) -> None:
    engines = opened(open_app)
    first = contestants(registry.app, tmp_path)
    assert first["embedding_classifier"] == ["tool_post"]
    assert list(first)[:4] == ["teacher", "word_overlap", "most_frequent", "embedding_classifier"]

    def never(text: str) -> list[float]:
        raise AssertionError("asked again")

    engines.vector = never
    assert contestants(registry.app, tmp_path) == first, "answers are kept"


def test_without_embeddings_it_is_left_out_and_one_sentence_says_so(
    open_app: OpenApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def none(text: str) -> list[float]:
        raise EngineError("There is no embedder.")

    opened(open_app).vector = none
    assert "embedding_classifier" not in contestants(registry.app, tmp_path)
    (record,) = caplog.records
    assert record.message.startswith(
        "No classifier on embeddings is measured beside the specialist of classifier.label:"
    )
