"""The router: which calls a specialist is not even asked for, by one look at the input, and that the guarantee stays true."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hetero_agents import ConfigError, EngineError, Slot
from hetero_agents.bindings import Certificate, Config, ModelConfig, Router, SpecialistId
from hetero_agents.contract import Contract, SlotId
from hetero_agents.distill.certify import Tried, keeps, promise
from hetero_agents.distill.curate import BUDGET_SHARES, ROUTED_SHARES, Dataset
from hetero_agents.distill.evaluate import Prediction
from hetero_agents.distill.loop import comparator_of
from hetero_agents.distill.rehearse import Rehearsal, Way, certified, remembered
from hetero_agents.distill.router import FEWEST_OF_EACH, Costs, fit_router, routed
from hetero_agents.engines import EMBEDDER, Endpoint
from hetero_agents.routing import Answer, Link, State, ask, chance, lets, look
from hetero_agents.slots import App

from .conftest import OpenApp
from .support import TOML, Answers, FakeEngines, answers, lock_entry, write_workspace
from .test_budget import CONTRACT, certificate, llm, said, shown_of
from .test_movable import BUDGET, ID, ONE, distilled, named

EASY, HARD = "an easy one", "a hard one"

BY_FIRST = Router(embedder=EMBEDDER, bias=0.0, weights=[4.0, 0.0], level=0.5)
"""Lets a specialist be asked where the first number is not negative."""


def silent(step: str, done: int, total: int) -> None:
    pass


async def vectors(texts: Sequence[str]) -> list[list[float]]:
    return [[-1.0, 0.0] if HARD in text else [1.0, 0.0] for text in texts]


# -- the look --------------------------------------------------------------------------------------


def test_a_routers_chance_is_a_logistic_function_of_the_embedding() -> None:
    router = replace_router(bias=-1.0, weights=[2.0, -3.0])
    assert chance(router, [0.5, 0.1]) == pytest.approx(1 / (1 + math.exp(0.3)))


def replace_router(**more: Any) -> Router:
    return BY_FIRST.model_copy(update=more)


def test_values_are_looked_at_in_the_order_of_the_parameters() -> None:
    async def choose(request: str, tools: list[str]) -> str:
        """Choose."""
        ...

    values = {"tools": ["a", "b"], "request": "which?"}
    assert look(Contract(choose, SlotId("router.choose")), values) == 'which?\n["a","b"]'


# -- a call ----------------------------------------------------------------------------------------


def asked(folder: Path, text: str, mine: Answers, router: Router = BY_FIRST, embed: Any = vectors) -> Answer:
    async def open_() -> Endpoint:
        return Endpoint(mine.model("fake"), bare_json=True)

    shown = certificate(router=router)
    link = Link("a@1", open_, specialist="a@1", certificate=shown, embed=embed, timeout=5)
    chain, state = [link, llm(answers("big's"))], State(folder / "state.db")
    return asyncio.run(ask(chain, CONTRACT, {"text": text}, checks=[], state=state, instrument=None))


def test_a_specialist_is_asked_where_its_router_lets_it(tmp_path: Path) -> None:
    answer = asked(tmp_path, EASY, answers(said("a", -0.1)))
    assert (answer.attempt.output, answer.route.decision) == ("a", "kept")


def test_a_specialist_that_its_router_passes_over_is_not_asked_and_the_route_says_so(tmp_path: Path) -> None:
    mine = answers(said("a", -0.1))
    answer = asked(tmp_path, HARD, mine)
    assert (answer.attempt.output, answer.route.decision, mine.asked) == ("big's", "escalated", [])
    expected = "a@1: not asked, since by its router it is right with 0.018, and asking pays from 0.500"
    assert answer.route.reason == expected


async def no_embedding(texts: Sequence[str]) -> list[list[float]]:
    raise EngineError("there is no embedder")


async def late(texts: Sequence[str]) -> list[list[float]]:
    raise TimeoutError


@pytest.mark.parametrize(
    ("embed", "router", "reason"),
    [
        (no_embedding, BY_FIRST, "its router cannot look at the input: there is no embedder"),
        (late, BY_FIRST, "its router cannot look at the input: no answer in 5 s"),
        (None, BY_FIRST, "its router has nothing to look with"),
        (vectors, replace_router(embedder="another"), f"its router looks with another, which is not the {EMBEDDER}"),
    ],
)
def test_without_a_look_nothing_is_kept_because_nothing_was_shown_of_that(
    tmp_path: Path, embed: Any, router: Router, reason: str
) -> None:
    mine = answers(said("a", -0.1))
    for _ in range(4):
        answer = asked(tmp_path, EASY, mine, router, embed)
        assert (answer.route.binding, mine.asked) == ("big", [])
        assert reason in (answer.route.reason or "")
    assert State(tmp_path / "state.db").rests("a@1") is None, "the specialist's engine is not to blame"


@pytest.mark.parametrize(("embed", "passed"), [(vectors, ["a@1"]), (no_embedding, [])])
def test_what_a_router_passes_over_has_been_passed_on_and_what_it_cannot_look_at_has_not(
    tmp_path: Path, embed: Any, passed: list[str]
) -> None:
    """The cache behind it is certified on what the specialist passes on."""
    told: list[Sequence[str]] = []

    async def recalled(by: Sequence[str]) -> Answer | None:
        told.append(list(by))
        return None

    async def open_() -> Endpoint:
        return Endpoint(answers(said("a", -0.1)).model("fake"), bare_json=True)

    link = Link("a@1", open_, specialist="a@1", certificate=certificate(router=BY_FIRST), embed=embed)
    chain, state = [link, llm(answers("big's"))], State(tmp_path / "state.db")
    more: dict[str, Any] = {"checks": [], "state": state, "instrument": None, "recalled": recalled}
    asyncio.run(ask(chain, CONTRACT, {"text": HARD}, **more))
    assert told == [passed]


# -- in a slot -------------------------------------------------------------------------------------


def routed_slot(
    open_app: OpenApp, stage: Any, mine: Answers, toml: str = TOML + BUDGET
) -> tuple[App, Slot[[str], str]]:
    name = named()
    app = open_app({"fake:big": answers("b"), ONE: mine}, toml)
    assert isinstance(app.engines, FakeEngines)
    app.engines.vector = lambda text: [-1.0, 0.0] if HARD in text else [1.0, 0.0]
    shown = certificate(checks_sha256=name.checks_sha256, router=BY_FIRST)
    app.workspace.add_specialist(ONE, lock_entry(ID, name.contract.sha256).model_copy(update={"certificate": shown}))
    app.workspace.activate(ID, ONE, stage, 1.0)
    return app, name


def test_a_slot_asks_its_specialist_as_the_router_says(open_app: OpenApp) -> None:
    _, name = routed_slot(open_app, "active", answers(said("a", -0.1)))
    assert [name.sync(EASY), name.sync(HARD)] == ["a", "b"]


def test_embeddings_that_cannot_be_had_are_not_tried_at_each_call(
    open_app: OpenApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, name = routed_slot(open_app, "active", answers(said("a", -0.1)))
    tried: list[str] = []

    def fails(text: str) -> list[float]:
        tried.append(text)
        raise EngineError("there is no embedder")

    assert isinstance(app.engines, FakeEngines)
    app.engines.vector = fails
    assert [name.sync(EASY) for _ in range(3)] == ["b"] * 3
    assert (tried, len(caplog.records)) == ([EASY], 1)


def test_a_shadow_that_its_router_passes_over_would_not_have_answered(open_app: OpenApp) -> None:
    mine = answers(said("a", -0.1))
    app, name = routed_slot(open_app, "shadow", mine)
    name.sync(HARD)
    app.aside.close(20)
    (seen,) = app.state.evidence(ONE, "shadow")
    assert (seen.kept, mine.asked) == (False, [])


def test_what_a_canary_is_not_sure_of_goes_to_no_other_specialist_under_an_error_budget(open_app: OpenApp) -> None:
    """The other one's certificate is on all calls, not on those that are left."""
    app, name = routed_slot(open_app, "active", answers(said("a", -0.1)))
    two = SpecialistId(f"{ID}@2")
    assert isinstance(app.engines, FakeEngines)
    app.engines.models = {**app.engines.models, two: answers(said("c", -9.0))}
    app.workspace.add_specialist(two, app.workspace.lock.specialists[ONE])
    app.workspace.activate(ID, two, "canary", 1.0)
    assert asyncio.run(name.run(EASY)).route.binding == "big"


def test_a_router_goes_with_an_error_budget(tmp_path: Path) -> None:
    path = write_workspace(tmp_path, TOML + f'[slots."{ID}"]\nrouter = true\n') / "hetero.toml"
    with pytest.raises(ConfigError, match="router goes with error_budget"):
        Config.load(path)


# -- fitting ---------------------------------------------------------------------------------------


def world(n: int, rng: random.Random) -> tuple[list[Tried], list[list[float]]]:
    """Return answers that are right, and signals that are sure, mostly where the first of 16 numbers is high."""
    tried: list[Tried] = []
    seen: list[list[float]] = []
    for number in range(n):
        vector = [rng.gauss(0, 1) for _ in range(16)]
        length = math.sqrt(sum(v * v for v in vector))
        vector = [v / length for v in vector]
        ease = 8.0 * vector[0]
        product = -rng.expovariate(1.0) * (1.0 if ease > 0 else 3.0)
        right = rng.random() < 1 / (1 + math.exp(-(2.0 + 2 * ease + product)))
        tried.append(Tried(f"{number}", {"product": product}, not right, refused=False))
        seen.append(vector)
    return tried, seen


def fitted(select: Sequence[Tried], seen: Sequence[Sequence[float]], costs: Costs | None = None) -> Router | str:
    return fit_router(select, seen, 300, 0.1, 0.95, embedder=EMBEDDER, costs=costs)


def test_a_router_spares_calls_and_keeps_as_much() -> None:
    rng = random.Random(0)
    router = fitted(*world(300, rng))
    assert isinstance(router, Router)
    tried, seen = world(2000, rng)
    spared = sum(not lets(router, vector) for vector in seen) / len(seen)
    assert spared > 0.2
    before, after = (promise(some, 300, 0.1, 0.95) for some in (tried, routed(router, tried, seen)))
    assert after > before - 0.05


@pytest.mark.parametrize("costs", [Costs(call=0.01, look=0.5), None])
def test_a_look_that_costs_more_than_it_spares_is_not_taken(costs: Costs | None) -> None:
    found = fitted(*world(300, random.Random(0)), costs)
    assert isinstance(found, Router) if costs is None else "does not pay" in str(found)


def test_inputs_that_tell_nothing_give_no_router() -> None:
    rng = random.Random(0)
    tried, _ = world(200, rng)
    assert fitted(tried, world(200, rng)[1]) == "the inputs do not tell where it is right"


def test_too_few_wrong_answers_give_no_router() -> None:
    tried, seen = world(200, random.Random(0))
    good = [replace(t, wrong=False) for t in tried]
    assert fitted(good, seen) == f"0 of the 200 answers of the select part were wrong, and it takes {FEWEST_OF_EACH}"


def test_one_cluster_that_has_all_wrong_answers_gives_no_router() -> None:
    tried, seen = world(200, random.Random(0))
    clusters = [replace(t, cluster="wrong") if t.wrong else t for t in tried]
    assert fitted(clusters, seen) == "the inputs do not tell where it is right"


def test_the_guarantee_is_true_behind_a_router() -> None:
    """Of 80 certify parts, ten for each of eight policies, a true 5 % gives 10 violations or more once in a hundred."""
    rng = random.Random(1)
    people, faces = world(3000, rng)
    violations = shown = 0
    for _ in range(8):
        select, seen = world(150, rng)
        router = fitted(select, seen)
        assert isinstance(router, Router)
        select, everybody = routed(router, select, seen), routed(router, people, faces)
        for _ in range(10):
            apart = [replace(t, cluster=f"{n}") for n, t in enumerate(rng.choices(everybody, k=300))]
            given = shown_of(select, apart, [], 0.1)
            if given.threshold is not None:
                shown += 1
                kept = [t.wrong for t in everybody if keeps(given, t)]
                violations += sum(kept) / len(kept) > 0.1
    assert shown >= 40
    assert violations <= 9


def test_what_certifies_and_what_is_measured_is_the_same_with_a_router_and_without() -> None:
    parts = list(ROUTED_SHARES)
    assert parts == list(BUDGET_SHARES)
    assert parts[:2] == ["test", "certify"]  # where a hash falls is counted from here
    assert [ROUTED_SHARES[p] for p in ("test", "certify")] == [BUDGET_SHARES[p] for p in ("test", "certify")]
    assert sum(ROUTED_SHARES.values()) == pytest.approx(1.0)


# -- the certificate -------------------------------------------------------------------------------


def test_a_certificate_with_a_router_is_what_is_stored_and_what_a_report_recalls(open_app: OpenApp) -> None:
    name = named()
    app = open_app({ONE: answers("a")}, TOML + BUDGET + "router = true\n")
    assert isinstance(app.engines, FakeEngines)
    distilled(app, name)
    entry = app.workspace.lock.specialists[ONE]
    (folder,) = (app.workspace.state_dir / "distill" / ID).iterdir()
    data = Dataset.from_json((folder / "dataset.json").read_text())
    lines = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    wrong = {line["input"]["text"] for line in lines if line["output"] != "a"}
    rng = random.Random(0)
    app.engines.vector = lambda text: [(-1.0 if text in wrong else 1.0) + rng.gauss(0, 1e-9), 0.1]
    rehearsal = Rehearsal(app, name, ModelConfig(model="fake:small"), ONE, entry, folder, silent)

    async def shown() -> tuple[Certificate, dict[Any, list[Tried]]]:
        compare = await comparator_of(app, name)
        on_test = await rehearsal.answers(data.parts["test"], Way())
        given, _ = await certified(rehearsal, data, compare, on_test)
        made = entry.model_copy(update={"certificate": given})
        return given, await remembered(app, name, compare, made, folder, data)

    given, parts = asyncio.run(shown())
    assert given.router is not None
    assert given.unrouted is None
    assert given.asked is not None
    assert given.asked.score < 1.0
    assert given.wrong == 0, "where it is wrong it was not asked"
    assert given.threshold is not None
    assert sum(keeps(given, t) for t in parts["test"]) == round(given.share.score * given.share.n)
    assert Certificate.model_validate_json(given.model_dump_json()) == given


def test_why_there_is_no_router_is_said(open_app: OpenApp) -> None:
    name = named()
    app = open_app({ONE: answers("a")}, TOML + BUDGET + "router = true\n")
    distilled(app, name)
    entry = app.workspace.lock.specialists[ONE]
    (folder,) = (app.workspace.state_dir / "distill" / ID).iterdir()
    data = Dataset.from_json((folder / "dataset.json").read_text())
    rehearsal = Rehearsal(app, name, ModelConfig(model="fake:small"), ONE, entry, folder, silent)

    async def shown() -> Certificate:
        on_test = list[Prediction](await rehearsal.answers(data.parts["test"], Way()))
        return (await certified(rehearsal, data, await comparator_of(app, name), on_test))[0]

    from hetero_agents.cli.common import certificate_text

    given = asyncio.run(shown())
    assert given.router is None
    assert given.unrouted is not None
    assert certificate_text(given).endswith(f"It has no router: {given.unrouted}.")
