"""What can move: counterfactual replay of stored answers, plain code, the bound of a workflow."""

import asyncio
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from hetero_agents import code_agent, slot
from hetero_agents.bindings import Score, SpecialistId
from hetero_agents.contract import Sha256, SlotId, sha256_of
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.evaluate import Prediction, prediction_line
from hetero_agents.rollout import slot_report, whole, workflows
from hetero_agents.slots import App, Slot

from .conftest import OpenApp
from .support import TOML, answers, lock_entry
from .test_budget import certificate

ID = SlotId("movable.name")
ONE = SpecialistId(f"{ID}@1")
BUDGET = f'[slots."{ID}"]\nerror_budget = 0.1\naudit = 0\n'


def named() -> Slot[[str], str]:
    @slot(name=ID)
    async def name(text: str) -> str:
        """Name it."""
        ...

    return name


def example(number: int) -> Example:
    values = {"text": f"text {number}"}
    return Example(
        sha256_of(values), values, "a", "big", False, f"{number:032x}", f"{number:016x}", cluster=f"{number}"
    )


def distilled(
    app: App, name: Slot[[str], str], *, parts_answered: tuple[str, ...] = ("select", "certify", "test")
) -> None:
    """Put a data set, its specialist and the specialist's answers where `hetero distill` does; the surer, the more often right."""
    rng = random.Random(0)
    some = [example(number) for number in range(800)]
    data = Dataset(
        {"train": some[:100], "select": some[100:250], "certify": some[250:550], "test": some[550:]}, "input", {}
    )
    folder = app.workspace.ensure_state_dir() / "distill" / ID / "0123"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(data.to_json())
    lines: list[str] = []
    for part, examples in data.parts.items():
        for e in examples if part in parts_answered else ():
            product = -rng.expovariate(0.5)
            right = rng.random() < 1 / (1 + math.exp(-(5 + product)))
            said = Prediction("specialist", e.key, e.input, "a" if right else "b", True, "a", ONE, 10, 2, None)
            lines.append(prediction_line(replace(said, signals={"product": product})))
    (folder / "predictions.jsonl").write_text("".join(lines))
    entry = lock_entry(ID, name.contract.sha256).model_copy(update={"dataset_sha256": data.sha256})
    app.workspace.add_specialist(ONE, entry)


def test_what_can_move_is_certified_at_each_budget_and_grows_with_it(open_app: OpenApp) -> None:
    name = named()
    app = open_app({"fake:big": answers("a")}, TOML + BUDGET)
    for text in ("x", "y", "x"):
        name.sync(text)
    app.tracing.flush()
    distilled(app, name)
    found = asyncio.run(slot_report(app, name))
    assert (found.calls, found.repeated, found.constant, found.kept) == (3, 1, 3, 0)
    assert (found.specialist, found.why) == (ONE, None)
    by = {movable.error_budget: movable for movable in found.movable}
    assert list(by) == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert not by[0.01].certified
    assert by[0.01].missing
    assert by[0.1].certified
    assert by[0.05].share.score <= by[0.1].share.score <= by[0.2].share.score
    assert found.curve[-1][0] == 1.0
    assert [share for share, _ in found.curve] == sorted(share for share, _ in found.curve)
    assert sum(b.n for b in found.reliability) == 250
    assert found.calibration_error is not None
    assert found.calibration_error < 0.1
    total = whole([found], {ID: 0.1})
    assert total is not None
    assert (total.score, total.n) == (by[0.1].share.score, 250)
    assert whole([found], {}) is None


def test_answers_that_nobody_gave_are_not_made_up(open_app: OpenApp) -> None:
    name = named()
    app = open_app({"fake:big": answers("a")}, TOML + BUDGET)
    distilled(app, name, parts_answered=("test",))
    found = asyncio.run(slot_report(app, name))
    assert found.movable == []
    assert "was not asked for the calls that certify" in (found.why or "")


def test_a_data_set_that_is_elsewhere_is_said(open_app: OpenApp) -> None:
    name = named()
    app = open_app({"fake:big": answers("a")}, TOML + BUDGET)
    app.workspace.add_specialist(ONE, lock_entry(ID, name.contract.sha256))
    assert "is not here" in (asyncio.run(slot_report(app, name)).why or "")


@pytest.mark.parametrize(
    ("toml", "bound", "without"),
    [(TOML + BUDGET, 0.2, []), (TOML, 0.0, [ID]), (TOML + BUDGET.replace("0.1", "0.6"), 1.0, [])],
)
def test_budgets_of_a_workflow_add_up(open_app: OpenApp, toml: str, bound: float, without: list[str]) -> None:
    name = named()

    @code_agent(name="movable.twice")
    async def twice(texts: list[str]) -> str:
        return "".join([await name(text) for text in texts])

    app = open_app({"fake:big": answers("a"), ONE: answers("a")}, toml)
    for texts in (["x"], ["x", "y"]):
        asyncio.run(twice(texts))
    app.tracing.flush()
    (nobody,) = workflows(app)
    assert (nobody.runs, nobody.calls, nobody.bound) == (2, {ID: 2}, 0.0)
    shown = certificate(checks_sha256=name.checks_sha256)
    entry = lock_entry(ID, name.contract.sha256).model_copy(update={"certificate": shown})
    app.workspace.add_specialist(ONE, entry)
    app.workspace.activate(ID, ONE)
    (found,) = workflows(app)
    assert (found.name, found.bound, found.without_budget) == ("movable.twice", pytest.approx(bound), without)


def test_the_interval_of_all_calls_weighs_slots_by_their_calls(open_app: OpenApp) -> None:
    name = named()
    app = open_app({"fake:big": answers("a")}, TOML + BUDGET)
    name.sync("x")
    app.tracing.flush()
    distilled(app, name)
    found = asyncio.run(slot_report(app, name))
    idle = replace(found, slot="movable.other", calls=3, movable=[])
    both = whole([found, idle], {ID: 0.1})
    alone = whole([found], {ID: 0.1})
    assert isinstance(both, Score)
    assert isinstance(alone, Score)
    assert both.score == pytest.approx(alone.score / 4)


def test_a_stored_data_set_has_its_clusters(tmp_path: Path) -> None:
    data = Dataset({"train": [example(1)], "select": [], "certify": [], "test": []}, "input", {})
    assert Dataset.from_json(data.to_json()) == data
    old = json.loads(data.to_json())
    del old["parts"]["train"][0]["cluster"]
    assert Dataset.from_json(json.dumps(old)).parts["train"][0].cluster == ""
    assert Sha256(data.sha256) == Dataset.from_json(json.dumps(old)).sha256
