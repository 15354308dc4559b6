"""Step S6: shadow, canary, active and back, by evidence; what is asked beside a call, and who waits for it."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hetero_agents import Budget, ConfigError, DistillError, Ledger, Slot, code_agent, slot, subject, workflow_outcome
from hetero_agents.bindings import Lock, SlotLock, SpecialistId, Workspace
from hetero_agents.bindings.lock import Shown, Stage
from hetero_agents.bindings.workspace import CANARY_SHARE
from hetero_agents.contract import SlotId
from hetero_agents.distill import Recipe
from hetero_agents.distill.matcher import HOW
from hetero_agents.rollout import iterate as iterating
from hetero_agents.rollout import step, verdict
from hetero_agents.routing import (
    Aside,
    Promise,
    Seen,
    State,
    findings,
    ledger_now,
    wealth_against_bad,
    wealth_against_good,
)
from hetero_agents.slots import App, beside
from hetero_agents.spans import Names, calls_of

from .conftest import OpenApp
from .support import TOML, Answers, answers, in_processes, lock_entry
from .test_budget import certificate, said

ID = SlotId("rollout.name")
ONE = SpecialistId(f"{ID}@1")
BUDGET = f'[slots."{ID}"]\nerror_budget = 0.1\naudit = 1.0\n'


def named() -> Slot[[str], str]:
    @slot(name=ID)
    async def name(text: str) -> str:
        """Name it."""
        ...

    return name


def ladder(
    open_app: OpenApp, big: Answers, mine: Answers, stage: Stage, toml: str = TOML + BUDGET, share: float = 1.0
) -> tuple[App, Slot[[str], str]]:
    """Return a workspace whose slot has a specialist at a stage."""
    declared = named()
    app = open_app({"fake:big": big, ONE: mine}, toml)
    shown_anew(app, declared)
    app.workspace.activate(ID, ONE, stage, share)
    return app, declared


def shown_anew(app: App, declared: Slot[[str], str]) -> None:
    """Put a certificate of the slot as it is now into the lock."""
    measure = app.workspace.slot_config(ID).measure
    shown = certificate(checks_sha256=declared.checks_sha256, compare=measure)
    entry = lock_entry(ID, declared.contract.sha256).model_copy(update={"certificate": shown})
    app.workspace.add_specialist(ONE, entry)


def settled(app: App) -> None:
    """Wait until nothing is aside any more."""
    app.aside.close(20)


SURE, UNSURE = said("a", -0.1), said("a", -5.0)


# -- the stages as they are executed ---------------------------------------------------------------


def test_a_shadow_is_compared_and_never_returned(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow")
    result = asyncio.run(name.run("x"))
    assert (result.output, result.route.decision, result.route.binding) == ("b", "kept", "big")
    settled(app)
    (seen,) = app.state.evidence(ONE, "shadow")
    assert (seen.kept, seen.wrong) == (True, True)


def test_an_unsure_shadow_would_not_have_answered(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("a"), answers(UNSURE), "shadow")
    name.sync("x")
    settled(app)
    (seen,) = app.state.evidence(ONE, "shadow")
    assert (seen.kept, seen.wrong) == (False, False)


def test_a_canary_answers_its_share_and_all_its_answers_are_compared(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("a"), answers(SURE), "canary")
    result = asyncio.run(name.run("x"))
    assert (result.route.decision, result.route.specialist) == ("kept", ONE)
    settled(app)
    (seen,) = app.state.evidence(ONE, "canary")
    assert (seen.kept, seen.wrong) == (True, False)


def test_the_other_calls_of_a_canary_are_answered_as_before(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "canary", share=0.01)
    monkeypatch.setattr(beside, "chance", lambda: 0.5)
    monkeypatch.setattr(sys.modules["hetero_agents.slots.slot"], "chance", lambda: 0.5)
    assert [name.sync(f"{n}") for n in range(5)] == ["b"] * 5
    settled(app)
    assert app.state.evidence(ONE, "canary") == []


def test_an_active_specialists_answers_are_audited(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "active")
    assert name.sync("x") == "a"
    settled(app)
    (seen,) = app.state.evidence(ONE, "active")
    assert seen.wrong


def test_without_an_error_budget_nothing_is_audited(open_app: OpenApp) -> None:
    big = answers("b")
    app, name = ladder(open_app, big, answers(SURE), "active", TOML)
    assert name.sync("x") == "a"
    settled(app)
    assert big.asked == []


def test_what_the_next_model_said_in_an_audit_is_an_example(open_app: OpenApp) -> None:
    """The answers that specialists give teach nothing; those of audits do."""
    app, name = ladder(open_app, answers("b"), answers(SURE), "active")
    with subject("ada"):
        name.sync("x")
    settled(app)
    app.tracing.flush()
    (call,) = calls_of(app.vault, ID)
    assert (call.output, call.binding, call.specialist, call.trainable) == ("b", "big", None, True)
    (trace,) = {span["trace_id"] for span in app.vault.read()}
    assert trace
    (beside,) = [span for span in app.vault.read() if span["attributes"].get(Names.DECISION) == "shadow"]
    assert beside["attributes"][Names.SUBJECT] == "ada"


def test_the_own_comparison_says_what_is_wrong(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("A"), answers(SURE), "shadow")
    name.compare(lambda first, second: first.lower() == second.lower())
    shown_anew(app, name)
    name.sync("x")
    settled(app)
    assert not app.state.evidence(ONE, "shadow")[0].wrong


TWO = SpecialistId(f"{ID}@2")


def successor(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, stage: Stage, mine: Any, before: Any
) -> tuple[App, Slot[[str], str], Answers]:
    """Return a workspace in which @2 is on its way while @1 fills the slot; chance takes every draw."""
    declared, big = named(), answers("true")
    app = open_app({"fake:big": big, ONE: answers(before), TWO: answers(mine)}, TOML + BUDGET)
    shown = certificate(checks_sha256=declared.checks_sha256)
    entry = lock_entry(ID, declared.contract.sha256).model_copy(update={"certificate": shown})
    for name in (ONE, TWO):
        app.workspace.add_specialist(name, entry)
    app.workspace.activate(ID, ONE)
    app.workspace.activate(ID, TWO, stage, 1.0)
    monkeypatch.setattr(beside, "chance", lambda: 0.0)
    return app, declared, big


@pytest.mark.parametrize("before", [said("alike", -0.1), said("alike", -5.0)])
def test_a_successor_is_compared_with_the_teacher_and_not_with_who_was_before(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, before: Any
) -> None:
    """Who learnt from the same data errs alike."""
    app, name, _ = successor(open_app, monkeypatch, "shadow", said("alike", -0.1), before)
    name.sync("x")
    settled(app)
    (seen,) = app.state.evidence(TWO, "shadow")
    assert (seen.kept, seen.wrong) == (True, True)


def test_a_canary_with_one_before_it_is_compared_with_the_teacher(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, name, _ = successor(open_app, monkeypatch, "canary", said("alike", -0.1), said("alike", -0.1))
    assert name.sync("x") == "alike"
    settled(app)
    assert app.state.evidence(TWO, "canary")[0].wrong


def test_while_a_shadow_is_tried_the_active_one_is_audited_too(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, name, _ = successor(open_app, monkeypatch, "shadow", said("true", -0.1), said("alike", -0.1))
    assert name.sync("x") == "alike"
    settled(app)
    assert app.state.evidence(ONE, "active")[0].wrong
    assert not app.state.evidence(TWO, "shadow")[0].wrong


def test_one_question_asked_again_is_one_observation(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "active")
    for _ in range(10):
        name.sync("x")
    settled(app)
    assert len(app.state.evidence(ONE, "active")) == 1


def test_what_callers_do_to_an_answer_afterwards_does_not_count(open_app: OpenApp) -> None:
    @slot(name=ID)
    async def words(text: list[str]) -> list[str]:
        """List the words."""
        ...

    app = open_app({"fake:big": answers(["a"]), ONE: answers(said(["a"], -0.1))}, TOML + BUDGET)
    shown = certificate(checks_sha256=words.checks_sha256)
    entry = lock_entry(ID, words.contract.sha256).model_copy(update={"certificate": shown})
    app.workspace.add_specialist(ONE, entry)
    app.workspace.activate(ID, ONE, "shadow")
    with app.aside.call():
        asked = ["x"]
        words.sync(asked).clear()
        asked.append("y")
    settled(app)
    assert not app.state.evidence(ONE, "shadow")[0].wrong


def test_trouble_beside_a_call_is_logged_and_no_concern_of_it(
    open_app: OpenApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, name = ladder(open_app, answers("b"), answers(RuntimeError("dead engine")), "shadow")
    assert name.sync("x") == "b"
    settled(app)
    assert "dead engine" in caplog.text
    assert app.state.evidence(ONE, "shadow") == []


def test_an_audit_has_no_outcome_of_its_own(open_app: OpenApp) -> None:
    """The run failed by the specialist's answer, not by what the next model would have said."""

    @code_agent(name="rollout.run")
    async def run(text: str) -> None:
        await name(text)
        workflow_outcome(ok=False)

    app, name = ladder(open_app, answers("b"), answers(SURE), "active")
    asyncio.run(run("x"))
    settled(app)
    app.tracing.flush()
    (call,) = calls_of(app.vault, ID)
    assert (call.output, call.outcome) == ("b", "unknown")


def test_answers_that_only_a_judge_can_compare_are_not_compared(open_app: OpenApp) -> None:
    toml = TOML + BUDGET + 'compare = "fields"\n'
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow", toml)
    name.sync("x")
    settled(app)
    assert app.state.evidence(ONE, "shadow") == []
    with pytest.raises(ConfigError, match=r"Give the slot a comparison of its own \(@name.compare\)"):
        verdict(app, name)


def test_a_cached_answer_ends_with_what_was_shown_for_it(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "active", TOML + BUDGET + 'cache = "exact"\n')
    assert [name.sync("x") for _ in range(2)] == ["a", "a"]
    app.state.stop(ONE, "it errs")
    assert name.sync("x") == "b"


# -- the evidence ----------------------------------------------------------------------------------


def see(
    state: State, stage: Any, wrong: list[bool], promise: Promise | None = None, seconds: float = 0.5, **more: Any
) -> None:
    for one in wrong:
        state.saw(ONE, stage, Seen(True, one, seconds, **more), promise or Promise(0.1))


def test_running_processes_stop_a_specialist_that_breaks_its_budget(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "active")
    see(app.state, "active", [True] * 4)
    assert name.sync("x") == "b"
    assert "does not allow" in (app.state.stopped(ONE) or "")
    assert app.workspace.lock.slots[ID].active == ONE  # only the command line writes the lock


def test_a_good_shadow_goes_on_to_canary_and_then_active(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow")
    assert verdict(app, name).move == "stay"
    see(app.state, "shadow", [False] * 60)
    assert step(app, name).move == "forward"
    assert app.workspace.lock.slots[ID].stage == "canary"
    assert step(app, name).move == "stay"  # what was seen in the shadow is not counted twice
    see(app.state, "canary", [False] * 60)
    assert step(app, name).move == "forward"
    assert app.workspace.lock.slots[ID].stage == "active"


@pytest.mark.parametrize("stage", ["shadow", "canary", "active"])
def test_a_specialist_that_breaks_its_budget_goes_back(open_app: OpenApp, stage: Stage) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), stage)
    see(app.state, stage, [True] * 4)
    found = step(app, name)
    assert (found.move, found.wrong) == ("back", 4)
    assert app.workspace.lock.slots[ID].active is None


@pytest.mark.filterwarnings("ignore:.* is not used")
def test_who_may_not_be_used_goes_back_and_is_not_stopped(open_app: OpenApp) -> None:
    """However good it was: its certificate is of other checks."""
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow")
    see(app.state, "shadow", [False] * 60)

    @name.check
    def never(answer: str) -> None:
        pass

    found = step(app, name)
    assert (found.move, app.workspace.lock.slots[ID].active) == ("back", None)
    assert "checks or comparison have changed" in found.why
    assert app.state.stopped(ONE) is None


def test_a_stop_outlives_another_certificate(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "active")
    app.state.stop(ONE, "it errs")
    app.state.forget_evidence(ONE)
    assert name.sync("x") == "b"
    app.state.forget(ONE)
    assert name.sync("y") == "a"


def test_a_fallbacks_answer_is_not_the_teachers(open_app: OpenApp) -> None:
    """The chain is `small`, then `big`; the specialist was taught by `big`."""
    declared = named()
    toml = TOML + BUDGET + 'model = "small"\nfallback = ["big"]\n'
    app = open_app({"fake:small": answers("small's"), "fake:big": answers("a"), ONE: answers(SURE)}, toml)
    shown_anew(app, declared)
    app.workspace.activate(ID, ONE, "shadow")
    assert declared.sync("x") == "small's"
    settled(app)
    assert not app.state.evidence(ONE, "shadow")[0].wrong


def test_answers_that_would_escalate_are_not_held_against_it(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow")
    for _ in range(20):
        app.state.saw(ONE, "shadow", Seen(False, True, 0.5), Promise(0.1))
    assert verdict(app, name).move == "stay"


def test_a_verdict_needs_a_specialist_and_a_budget(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow", TOML)
    with pytest.raises(ConfigError, match="needs an error_budget"):
        verdict(app, name)
    app.workspace.restore(ID)
    with pytest.raises(ConfigError, match="no specialist to move"):
        verdict(app, name)


@pytest.mark.parametrize("budget", [0.05, 0.1])
def test_few_good_streams_ever_raise_an_alarm(budget: float) -> None:
    """At the budget itself, looked at after every answer: at most 5 in 100; the random numbers are fixed."""
    rng, alarms = random.Random(1), 0
    for _ in range(100):
        stream = [rng.random() < budget for _ in range(300)]
        alarms += any(wealth_against_good(stream[:n], budget) >= 20 for n in range(1, 301))
    assert alarms <= 8


def test_few_bad_specialists_go_on() -> None:
    rng, steps = random.Random(2), 0
    for _ in range(100):
        stream = [rng.random() < 0.1 for _ in range(300)]
        steps += any(wealth_against_bad(stream[:n], 0.1) >= 20 for n in range(1, 301))
    assert steps <= 8


def test_a_change_after_a_long_good_time_is_noticed() -> None:
    rng = random.Random(3)
    good = [rng.random() < 0.02 for _ in range(500)]
    bad = [rng.random() < 0.4 for _ in range(60)]
    assert wealth_against_good(good, 0.05) < 20 <= wealth_against_good(good + bad, 0.05)


def test_values_between_are_bet_on_too() -> None:
    """Costs that are at most a half in the mean, and as far from it as they can be."""
    rng, alarms, steps = random.Random(4), 0, 0
    for _ in range(100):
        stream = [2.0 if rng.random() < 0.25 else 0.0 for _ in range(200)]
        alarms += any(wealth_against_good(stream[:n], 0.5) >= 20 for n in range(1, 201))
        steps += any(wealth_against_bad(stream[:n], 0.5, 2.0) >= 20 for n in range(1, 201))
    assert alarms <= 8
    assert steps <= 8
    assert wealth_against_good([1.0] * 12, 0.5) >= 20 <= wealth_against_bad([0.1] * 24, 0.5, 2.0)


# -- seconds and cost ------------------------------------------------------------------------------

QUICK = TOML + BUDGET + "p95_seconds = 1.0\n"


def test_who_is_right_but_slow_goes_back(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow", QUICK)
    see(app.state, "shadow", [False] * 120, seconds=1.5)
    found = step(app, name)
    assert (found.move, found.wrong, found.p95_seconds) == ("back", 0, 1.5)
    assert "120 of 120 took longer than 1 s" in found.why
    assert "p95_seconds = 1 is broken" in found.why


def test_who_goes_on_is_shown_to_be_quick_too(open_app: OpenApp) -> None:
    """Fewer answers show that 1 in 10 are wrong at most than that 1 in 20 are late at most."""
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow", QUICK)
    see(app.state, "shadow", [False] * 60)
    assert verdict(app, name).why.endswith("not decided yet, p95_seconds = 1 is not shown to be kept")
    see(app.state, "shadow", [False] * 60)
    assert step(app, name).move == "forward"


def test_running_processes_stop_a_slow_specialist(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "active", QUICK)
    see(app.state, "active", [False] * 6, Promise(0.1, p95_seconds=1.0), seconds=1.5)
    assert name.sync("x") == "b"
    assert "which p95_seconds = 1 does not allow" in (app.state.stopped(ONE) or "")


def test_alarms_share_the_chance_to_be_false() -> None:
    seen = [Seen(True, True, 0.1)] * 2
    assert 20 <= wealth_against_good([True] * 2, 0.1) < 40
    assert [one.broken for one in findings(seen, Promise(0.1))] == [True]
    assert [one.broken for one in findings(seen, Promise(0.1, p95_seconds=1.0))] == [False, False]


BY = Promise(0.1, by="language")


def spoken(language: str, wrong: list[bool]) -> list[Seen]:
    return [Seen(True, one, 0.1, slice=json.dumps(language)) for one in wrong]


def test_a_bad_corner_is_found_although_all_answers_together_are_good() -> None:
    seen = [one for _ in range(8) for one in (*spoken("en", [False] * 25), *spoken("de", [True]))]
    assert not any(one.broken for one in findings(seen, Promise(0.1)))
    assert [(one.asked, one.broken) for one in findings(seen, BY)] == [
        ('the error budget of 0.1 for language = "en"', False),
        ('the error budget of 0.1 for language = "de"', True),
    ]


def test_who_goes_on_is_shown_to_be_good_for_each_value_that_it_answered() -> None:
    seen = [*spoken("en", [False] * 60), *spoken("de", [False])]
    assert [one.kept for one in findings(seen, Promise(0.1))] == [True]
    assert [one.kept for one in findings(seen, BY)] == [True, False]
    assert [one.kept for one in findings([], BY)] == [False]


def test_alarms_for_values_share_the_chance_to_be_false_however_many_there_are() -> None:
    """An alarm for all answers takes a wealth of 20; that for the first value 40, for the second 120, for the third 240."""
    assert [one.broken for one in findings(spoken("en", [True] * 2), Promise(0.1))] == [True]
    assert [one.broken for one in findings(spoken("en", [True] * 2), BY)] == [False]
    assert 120 <= wealth_against_good([True] * 3, 0.1) < 240
    seen = [one for language in ("en", "de", "fr") for one in spoken(language, [True] * 3)]
    assert [one.broken for one in findings(seen, BY)] == [True, True, False]


def test_what_is_compared_is_noted_for_its_value_and_one_bad_value_stops_the_specialist(open_app: OpenApp) -> None:
    @slot(name=ID)
    async def name(text: str, language: str) -> str:
        """Name it."""
        ...

    app = open_app({"fake:big": answers("b"), ONE: answers(SURE)}, TOML + BUDGET + 'error_budget_by = "language"\n')
    part = Shown(threshold=0.5, calls=50, kept=30, wrong=0, upper_bound=0.1)
    shown = certificate(checks_sha256=name.checks_sha256, by="language", slices={'"de"': part, '"en"': part})
    app.workspace.add_specialist(ONE, lock_entry(ID, name.contract.sha256).model_copy(update={"certificate": shown}))
    app.workspace.activate(ID, ONE, "active", 1.0)
    for one in spoken("en", [False] * 150):
        app.state.saw(ONE, "active", one, BY)
    assert [name.sync(str(n), "de") for n in range(3)] == ["a"] * 3
    settled(app)
    assert [one.slice for one in app.state.evidence(ONE, "active")][-3:] == ['"de"'] * 3
    assert 'for language = "de"' in (app.state.stopped(ONE) or "")
    assert name.sync("again", "en") == "b"


PRICED = """\
[models]
big = { model = "fake:big", train_on_outputs = true, price = { output = 10.0 } }
small = { model = "fake:small", price = { output = 1.0 } }
[tiers]
llm = { model = "big" }
slm = { model = "small", fallback = ["big"] }
[privacy]
content = "raw"
"""
CHEAP = BUDGET + "cost = 0.5\n"


@pytest.mark.parametrize(
    ("mine", "stage", "share"), [(SURE, "shadow", 0.1), (UNSURE, "shadow", 1.1), (SURE, "canary", 0.1)]
)
def test_what_a_call_costs_with_it_is_compared_with_its_teachers_answer(
    open_app: OpenApp, mine: Any, stage: Stage, share: float
) -> None:
    """Both say one letter; who is not sure leaves the teacher to be paid too."""
    app, name = ladder(open_app, answers("a"), answers(mine), stage, PRICED + CHEAP)
    name.sync("x")
    settled(app)
    (seen,) = app.state.evidence(ONE, "shadow" if stage == "shadow" else "canary")
    assert seen.cost == pytest.approx(share)


def test_without_a_price_cost_is_not_known_and_nobody_goes_on(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("a"), answers(SURE), "shadow", TOML + CHEAP)
    name.sync("x")
    settled(app)
    see(app.state, "shadow", [False] * 60)
    found = verdict(app, name)
    assert (found.move, found.cost) == ("stay", None)
    assert "what calls cost is not known, since a model has no price" in found.why


@pytest.mark.parametrize(("cost", "move"), [(0.1, "forward"), (1.1, "back")])
def test_cost_decides_moves_too(open_app: OpenApp, cost: float, move: str) -> None:
    app, name = ladder(open_app, answers("a"), answers(SURE), "shadow", PRICED + CHEAP)
    see(app.state, "shadow", [False] * 60, cost=cost)
    found = step(app, name)
    assert (found.move, found.cost) == (move, pytest.approx(cost))
    assert f"60 calls cost {cost:g} of what the teacher's answers cost" in found.why


# -- the lock --------------------------------------------------------------------------------------


def test_who_was_on_the_way_is_nothing_to_go_back_to(open_app: OpenApp) -> None:
    app, _ = ladder(open_app, answers("b"), answers(SURE), "shadow")
    two = SpecialistId(f"{ID}@2")
    app.workspace.add_specialist(two, app.workspace.lock.specialists[ONE])
    app.workspace.activate(ID, two, "shadow")
    state = app.workspace.lock.slots[ID]
    assert (state.active, state.replaced) == (two, [None])


def _promote(root: str, number: int) -> None:
    from hetero_agents.bindings import SlotLock, Workspace

    with (Path(root) / f"{number}.txt").open("w") as note:
        try:
            Workspace(Path(root)).activate(ID, SpecialistId(f"{ID}@{number}"), expected=SlotLock())
            note.write("won")
        except ConfigError as error:
            note.write(str(error))


def test_a_rollback_never_puts_back_the_same_one(open_app: OpenApp) -> None:
    app, _ = ladder(open_app, answers("b"), answers(SURE), "active")
    app.workspace.add_specialist(TWO, app.workspace.lock.specialists[ONE])
    app.workspace.activate(ID, TWO, "shadow")
    app.workspace.activate(ID, ONE)
    assert app.workspace.lock.slots[ID].replaced == [None]
    assert app.workspace.restore(ID).active is None


def test_of_two_processes_that_promote_at_once_one_wins(open_app: OpenApp) -> None:
    app, _ = ladder(open_app, answers("b"), answers(SURE), "shadow")
    app.workspace.restore(ID)
    app.workspace.add_specialist(SpecialistId(f"{ID}@2"), app.workspace.lock.specialists[ONE])
    root = app.workspace.root
    assert app.workspace.lock.slots[ID] == type(app.workspace.lock.slots[ID])()
    in_processes(_promote, (str(root), 1), (str(root), 2))
    said_by = sorted((root / f"{number}.txt").read_text() for number in (1, 2))
    assert said_by[1] == "won"
    assert "Another command has changed slot" in said_by[0]


def _moved_until_killed(app: App, declared: Slot[[str], str], module: Any, function: str, after: bool) -> None:
    """Move the specialist, and die before or after a function is called."""
    real = getattr(module, function)

    def die(*args: Any, **more: Any) -> None:
        if after:
            real(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, function, die)
    step(app, declared)


@pytest.mark.parametrize(
    ("module", "function", "after"),
    [
        (tempfile, "mkstemp", True),
        (os, "fsync", True),
        (os, "replace", False),
        (os, "replace", True),
    ],
)
@pytest.mark.parametrize("wrong", [False, True])
def test_a_move_that_is_killed_leaves_the_old_lock_or_the_new_one_and_is_made_again(
    open_app: OpenApp, module: Any, function: str, after: bool, wrong: bool
) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow")
    see(app.state, "shadow", [wrong] * (4 if wrong else 41))
    old, new = app.workspace.lock.slots[ID], SlotLock()
    if not wrong:
        new = old.model_copy(update={"stage": "canary", "share": CANARY_SHARE})
    in_processes(_moved_until_killed, (app, name, module, function, after), ended=-signal.SIGKILL)
    renamed = function == "replace" and after
    assert Lock.load(app.workspace.lock_path).slots[ID] == (new if renamed else old)
    if not renamed:
        step(app, name)
    assert app.workspace.lock.slots[ID] == new
    assert [path.name for path in app.workspace.root.glob(".hetero.lock*")] == []


def _round_and_round(workspace: Workspace) -> None:
    while True:
        for stage in ("shadow", "canary", "active"):
            workspace.activate(ID, ONE, stage)
        with contextlib.suppress(ConfigError):  # the other one did
            workspace.restore(ID)


def test_whenever_commands_are_killed_the_lock_is_whole(open_app: OpenApp) -> None:
    app, _ = ladder(open_app, answers("b"), answers(SURE), "shadow")
    path, context, rng = app.workspace.lock_path, multiprocessing.get_context("fork"), random.Random(5)
    specialists, seen = app.workspace.lock.specialists, set[str]()
    for _ in range(12):
        processes = [context.Process(target=_round_and_round, args=(app.workspace,)) for _ in range(2)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: a fork beside other threads
            for process in processes:
                process.start()
        before = path.stat().st_ino
        while path.stat().st_ino == before and all(process.is_alive() for process in processes):
            pass  # until one of them has written
        for _ in range(rng.randrange(20_000)):
            pass
        for process in processes:
            process.kill()
            process.join()
        lock = Lock.load(path)
        assert lock.specialists == specialists
        seen.add(f"{lock.slots[ID].active} {lock.slots[ID].stage}")
    assert len(seen) > 1
    app.workspace.activate(ID, ONE)  # nobody holds its file's lock any more
    assert [half.name for half in app.workspace.root.glob(".hetero.lock*")] == []


def _moved_together(app: App, declared: Slot[[str], str], both: Any, number: int) -> None:
    activate = app.workspace.activate

    def at_once(*args: Any, **more: Any) -> SlotLock:
        both.wait(30)
        return activate(*args, **more)

    app.workspace.activate = at_once
    try:
        told = step(app, declared).move
    except ConfigError as error:
        told = str(error)
    (app.workspace.root / f"{number}.txt").write_text(told)


def test_of_two_that_move_a_specialist_at_once_one_does_and_tells_the_other(open_app: OpenApp) -> None:
    app, name = ladder(open_app, answers("b"), answers(SURE), "shadow")
    see(app.state, "shadow", [False] * 41)
    both = multiprocessing.get_context("fork").Barrier(2)
    in_processes(_moved_together, (app, name, both, 1), (app, name, both, 2))
    told = sorted((app.workspace.root / f"{number}.txt").read_text() for number in (1, 2))
    assert told[1] == "forward"
    assert "Another command has changed slot" in told[0]
    assert f"(now {ONE}, canary); look at `hetero slots` and decide again." in told[0]
    assert app.workspace.lock.slots[ID].stage == "canary"


# -- aside -----------------------------------------------------------------------------------------


def test_what_is_aside_waits_while_a_call_goes_on() -> None:
    aside, done = Aside(), threading.Event()

    async def work() -> None:
        done.set()

    with aside.call():
        aside.add(work)
        assert not done.wait(0.3)
    assert done.wait(5)
    aside.close()


def test_no_run_pays_for_what_is_aside() -> None:
    aside, paying = Aside(), list[Ledger | None]()

    async def work() -> None:
        paying.append(ledger_now.get())

    with Ledger(Budget(calls=1)):
        aside.add(work)
    aside.close()
    assert paying == [None]


def test_an_end_finishes_what_waits_and_counts_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    aside, done = Aside(), list[int]()

    async def quick() -> None:
        done.append(1)

    async def slow() -> None:
        await asyncio.sleep(5)

    for work in (quick, quick, slow, quick):
        aside.add(work)
    started = time.monotonic()
    aside.close(1.5)
    assert time.monotonic() - started < 4
    assert len(done) == 2
    assert "2 comparisons of models were not made" in caplog.text


def test_the_end_of_a_script_finishes_what_is_aside_with_threads_and_all() -> None:
    """Before `concurrent.futures` refuses work, which `atexit` is too late for."""
    script = """
import asyncio
from hetero_agents.routing import Aside

async def work():
    await asyncio.sleep(0.3)
    print(await asyncio.to_thread(lambda: "done"))

aside = Aside()
aside.add(work)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_forked_child_begins_anew() -> None:
    aside = Aside()
    with aside.call():
        aside.begin()  # what the child does
    worked = threading.Event()

    async def work() -> None:
        worked.set()

    aside.add(work)
    assert worked.wait(5)
    aside.close()


def test_the_end_cancels_what_would_take_too_long() -> None:
    """An engine that is stopped would wait for its request."""
    aside, ended = Aside(), threading.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    aside.add(slow)
    time.sleep(0.3)
    aside.close(0.3)
    assert ended.is_set()


def test_a_failure_aside_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    aside, done = Aside(), list[int]()

    async def fails() -> None:
        raise RuntimeError("no such engine")

    async def works() -> None:
        done.append(1)

    aside.add(fails)
    aside.add(works)
    aside.close()
    assert done == [1]
    assert "no such engine" in caplog.text


# -- a round of iterate ----------------------------------------------------------------------------


def silent(step: str, done: int, total: int) -> None:
    pass


def rounds(app: App, name: Slot[[str], str], **more: Any) -> iterating.Round:
    return asyncio.run(iterating.iterate(app, name, progress=silent, **more))


def asked_about(app: App, name: Slot[[str], str], count: int) -> None:
    for number in range(count):
        name.sync(f"{random.Random(number).getrandbits(200):x}")
    app.tracing.flush()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The slots for which a training was begun; it makes `@2`, whose error budget is certified."""
    begun = list[str]()

    async def distill(app: App, slot: Slot[..., Any], *, progress: Any, **how: Any) -> Any:
        begun.append(slot.id)
        two = SpecialistId(f"{slot.id}@2")
        shown = certificate(checks_sha256=slot.checks_sha256)
        entry = lock_entry(slot.id, slot.contract.sha256).model_copy(update={"certificate": shown})
        app.workspace.add_specialist(two, entry)
        return SimpleNamespace(specialist=entry, specialist_id=two, reused=False)

    monkeypatch.setattr(iterating, "distill", distill)
    return begun


def numbered() -> Answers:
    """An LLM that never says the same twice."""
    return answers(*(f"answer {number}" for number in range(200)))


def test_a_slot_without_a_specialist_is_trained_and_its_specialist_begins_in_the_shadow(
    open_app: OpenApp, trained: list[str]
) -> None:
    app = open_app({"fake:big": numbered(), f"{ID}@2": answers(SURE)}, TOML + BUDGET)
    name = named()
    assert "needs 40" in rounds(app, name).why
    asked_about(app, name, 60)
    assert rounds(app, name, may_train=False).did == "nothing"
    done = rounds(app, name)
    assert (done.did, done.specialist, trained) == ("trained", f"{ID}@2", [ID])
    state = app.workspace.lock.slots[ID]
    assert (state.active, state.stage, state.replaced) == (f"{ID}@2", "shadow", [None])
    assert rounds(app, name).did == "waits"
    see(app.state, "shadow", [False] * 60)  # of @1, which says nothing of @2
    assert rounds(app, name).did == "waits"


def test_a_round_tries_what_is_certified_but_not_what_was_rolled_back(open_app: OpenApp, trained: list[str]) -> None:
    app, name = ladder(open_app, numbered(), answers(SURE), "active")
    app.workspace.restore(ID)
    asked_about(app, name, 60)
    done = rounds(app, name)
    assert (done.did, done.specialist) == ("shadowed", ONE)
    assert app.workspace.lock.slots[ID].stage == "shadow"
    app.workspace.restore(ID)
    app.state.stop(ONE, "it was rolled back by hand")
    assert rounds(app, name).specialist == TWO
    assert trained == [ID]


def test_a_round_takes_back_what_running_processes_stopped(open_app: OpenApp, trained: list[str]) -> None:
    app, name = ladder(open_app, numbered(), answers(SURE), "active")
    see(app.state, "active", [True] * 4)
    done = rounds(app, name)
    assert (done.did, done.specialist) == ("moved", ONE)
    assert app.workspace.lock.slots[ID].active is None
    assert trained == []


def test_a_round_trains_as_the_last_time(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app, name = ladder(open_app, numbered(), answers(SURE), "active", TOML + BUDGET)
    app.workspace.restore(ID)
    app.state.stop(ONE, "it was rolled back by hand")
    recipe = Recipe(epochs=4.0, use_rslora=True)
    last = app.workspace.lock.specialists[ONE]
    asked_about(app, name, 60)
    given: list[dict[str, Any]] = []

    async def distill(app: App, slot: Slot[..., Any], *, progress: Any, **how: Any) -> Any:
        given.append(how)
        raise DistillError("Enough.")

    monkeypatch.setattr(iterating, "distill", distill)
    for number, more in enumerate(
        ({"recipe": asdict(recipe), "exposure": {"canaries": 20, "asked": 25}}, {"matcher": True, "recipe": HOW}), 2
    ):
        app.workspace.add_specialist(SpecialistId(f"{ID}@{number}"), last.model_copy(update=more))
        app.state.stop(SpecialistId(f"{ID}@{number}"), "it was rolled back by hand")
        done = rounds(app, name)
        assert (done.did, done.why) == ("failed", "Enough.")
    assert given == [
        {"base": "small", "recipe": recipe, "canaries": 25},
        {"base": "small", "recipe": None, "canaries": 0},
    ]


def test_a_round_needs_an_error_budget(open_app: OpenApp) -> None:
    app, name = ladder(open_app, numbered(), answers(SURE), "active", TOML)
    with pytest.raises(ConfigError, match="needs an error_budget"):
        rounds(app, name)
