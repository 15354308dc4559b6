"""Whether inputs have become others since a specialist was trained: the test, what it looks at, and what follows from it."""

import asyncio
import json
import math
import random
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from hetero_agents import EngineError, Slot
from hetero_agents.distill.curate import Dataset
from hetero_agents.rollout import iterate as iterating
from hetero_agents.rollout import slot_report
from hetero_agents.rollout.inputs import BLOCK, FEWEST, Inputs, evidence, inputs_of
from hetero_agents.slots import App
from hetero_agents.testing import MemoryVault

from .conftest import OpenApp
from .support import TOML, FakeEngines, answers, call_span, lock_entry
from .test_budget import certificate
from .test_movable import BUDGET, ID, ONE, example, named
from .test_router import silent

TRAINED = int(datetime.fromisoformat(lock_entry(ID).created).timestamp() * 1e9)


def faces(n: int, rng: random.Random, share: float = 0.0) -> list[list[float]]:
    """Return unit vectors around one point, and a share of them around another."""
    found: list[list[float]] = []
    for _ in range(n):
        place = 1 if rng.random() < share else 0
        vector = [rng.gauss(0, 0.25) + (number == place) for number in range(8)]
        length = math.sqrt(sum(v * v for v in vector))
        found.append([v / length for v in vector])
    return found


def test_other_inputs_are_noticed() -> None:
    rng = random.Random(0)
    assert evidence(faces(200, rng), faces(100, rng, 0.5)) > 20


def test_a_late_change_is_noticed_by_a_later_gambler() -> None:
    rng = random.Random(0)
    before, since = faces(200, rng), [*faces(5 * BLOCK, rng), *faces(BLOCK, rng, 0.6)]
    assert evidence(before, since) > 20
    assert evidence(before, since[4 * BLOCK :], first=4) > 20, "earlier runs need not be looked at any more"


def test_what_was_noticed_stays_so() -> None:
    """One may look after every run: the evidence is the most that there ever was."""
    rng = random.Random(0)
    before, since = faces(400, rng), [*faces(40, rng, 0.2), *faces(120, rng)]
    seen = [evidence(before, since[:n]) for n in range(20, 161, 10)]
    assert seen == sorted(seen)
    assert seen[-1] < 20, "else it would be sorted anyway"


def test_no_change_is_rarely_taken_for_one() -> None:
    """Of 100 streams a true 5 % gives 11 alarms or more once in a hundred; the random numbers are fixed."""
    rng = random.Random(0)
    alarms = sum(evidence(faces(120, rng), faces(150, rng)) >= 20 for _ in range(100))
    assert alarms <= 10


# -- what is looked at -----------------------------------------------------------------------------


def workspace(
    open_app: OpenApp, before: int, since: int, text: str = "another", **more: Any
) -> tuple[App, Slot[[str], str]]:
    """Return a workspace with runs before and after the training of a specialist."""
    name = named()
    app = open_app({"fake:big": answers("a")}, TOML + BUDGET)
    shown = certificate(checks_sha256=name.checks_sha256)
    entry = lock_entry(ID, name.contract.sha256).model_copy(update={"certificate": shown})
    app.workspace.add_specialist(ONE, entry)
    app.workspace.activate(ID, ONE)
    rng = random.Random(0)
    assert isinstance(app.engines, FakeEngines)
    app.engines.vector = lambda text: faces(1, rng, "another" in text)[0]
    logged(app, name, before, -1000, "text")
    logged(app, name, since, 1000, text, specialist=ONE, **more)
    return app, name


def logged(app: App, name: Slot[[str], str], count: int, offset: int, text: str, **more: Any) -> None:
    """Write runs of one call each, so many nanoseconds from the training on."""
    assert isinstance(app.vault, MemoryVault)
    for number in range(count):
        given: dict[str, Any] = {
            "slot": ID,
            "contract": name.contract.sha256,
            "output": '"a"',
            "trainable": True,
            **more,
        }
        trace = f"{'b' if offset < 0 else 'c'}{number:06d}"
        asked = json.dumps({"text": f"{text} {number}"})
        span = call_span(trace, TRAINED + offset + number, input=asked, **given)
        app.vault.write([{**span, "span_id": f"{trace}01"}])


def compared(app: App, name: Slot[[str], str]) -> Inputs | str:
    return asyncio.run(inputs_of(app, name, app.workspace.lock.specialists[ONE]))


def test_calls_count_whoever_answered_them(open_app: OpenApp) -> None:
    found = compared(*workspace(open_app, 100, 80))
    assert isinstance(found, Inputs)
    assert (found.before, found.since, found.changed) == (100, 80, True)


def test_the_same_inputs_are_no_change(open_app: OpenApp) -> None:
    found = compared(*workspace(open_app, 100, 80, "text"))
    assert isinstance(found, Inputs)
    assert not found.changed
    assert found.told.startswith("no sign that they have changed (80 runs since, 100 before; e-value ")


def test_a_run_counts_once(open_app: OpenApp) -> None:
    app, name = workspace(open_app, 100, 80)
    logged(app, name, 80, 2000, "another")  # the same traces again
    found = compared(app, name)
    assert isinstance(found, Inputs)
    assert found.since == 80


def test_calls_of_another_contract_are_not_compared(open_app: OpenApp) -> None:
    told = compared(*workspace(open_app, 100, 80, contract="of before"))
    assert told == f"100 runs before the training and 0 since are in the vault, and it takes {FEWEST} of each"


# -- what follows ----------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The slots for which a training was begun, which fails at once."""
    found: list[str] = []

    async def distill(app: App, slot: Slot[..., Any], *, progress: Any, **how: Any) -> Any:
        found.append(slot.id)
        raise iterating.DistillError("no training here")

    monkeypatch.setattr(iterating, "distill", distill)
    return found


def iterated(app: App, name: Slot[[str], str], monkeypatch: pytest.MonkeyPatch, now: int) -> iterating.Round:
    """Do a round for a specialist that was trained on 100 examples, of which there are so many now."""

    def data(count: int) -> Dataset:
        some = [replace(example(number), output=f"{number % 2}") for number in range(count)]
        return Dataset({"train": some, "select": [], "certify": [], "test": []}, "input", {})

    folder = app.workspace.ensure_state_dir() / "distill" / ID / "0123"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(data(100).to_json())
    entry = app.workspace.lock.specialists[ONE].model_copy(update={"dataset_sha256": data(100).sha256})
    app.workspace.add_specialist(ONE, entry)

    def curated(app: App, slot: Slot[..., Any]) -> Dataset:
        return data(now)

    monkeypatch.setattr(iterating, "curated", curated)
    return asyncio.run(iterating.iterate(app, name, progress=silent))


@pytest.mark.parametrize(
    ("text", "now", "trains"), [("another", 110, True), ("another", 100, False), ("text", 110, False)]
)
def test_other_inputs_are_a_reason_to_train_where_there_are_examples_of_them(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, begun: list[str], text: str, now: int, trains: bool
) -> None:
    app, name = workspace(open_app, 100, 80, text)
    iterated(app, name, monkeypatch, now)
    assert begun == ([ID] if trains else [])


@pytest.mark.parametrize(
    ("until", "since", "now", "trains"),
    [
        (None, "first@2", 110, True),
        ("first@1", "first@2", 110, True),
        ("first@2", "first@2", 110, False),
        (None, None, 110, False),
        (None, "first@2", 100, False),
    ],
)
def test_another_specialist_of_a_slot_before_it_is_a_reason_to_certify_anew(
    open_app: OpenApp,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[str],
    until: str | None,
    since: str | None,
    now: int,
    trains: bool,
) -> None:
    app, name = workspace(open_app, 100, 80, "text")
    assert isinstance(app.vault, MemoryVault)
    when = TRAINED - 2000, TRAINED + 900
    for trace, start, specialist in zip(("b000001", "c000001"), when, (until, since), strict=True):
        who: dict[str, Any] = {"specialist": specialist} if specialist else {}
        app.vault.write([{**call_span(trace, start, slot="first.slot", **who), "span_id": f"{trace}02"}])
    done = iterated(app, name, monkeypatch, now)
    assert begun == ([ID] if trains else [])
    assert trains or "not enough is new" in done.why


def test_who_answers_after_it_or_in_other_runs_is_no_reason(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, begun: list[str]
) -> None:
    app, name = workspace(open_app, 100, 80, "text")
    assert isinstance(app.vault, MemoryVault)
    for trace, start in (("c000001", TRAINED + 5000), ("other01", TRAINED + 900)):
        last = call_span(trace, start, slot="other.slot", specialist="other@1")
        app.vault.write([{**last, "span_id": f"{trace}02"}])
    iterated(app, name, monkeypatch, 110)
    assert begun == []


def test_without_embeddings_a_round_goes_on_and_says_so(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, begun: list[str]
) -> None:
    app, name = workspace(open_app, 100, 80)
    without_embeddings(app)
    done = iterated(app, name, monkeypatch, 110)
    expected = "not enough is new to train again; its inputs were not compared: there is no embedder"
    assert (done.did, done.why, begun) == ("nothing", expected, [])


def without_embeddings(app: App) -> None:
    def fails(text: str) -> list[float]:
        raise EngineError("there is no embedder")

    assert isinstance(app.engines, FakeEngines)
    app.engines.vector = fails


def test_a_report_says_whether_inputs_have_changed(open_app: OpenApp) -> None:
    app, name = workspace(open_app, 100, 80)
    steps: list[tuple[str, int, int]] = []
    found = asyncio.run(slot_report(app, name, lambda step, done, total: steps.append((step, done, total))))
    assert (found.inputs or "").startswith("they have become others since the training")
    assert [step for step, _, _ in steps] == ["embed"] * len(steps)
    assert steps[-1][1] == steps[-1][2] > 0, "it says how far it is, to the end"
    without_embeddings(app)
    assert asyncio.run(slot_report(app, name)).inputs == "not compared: there is no embedder"
