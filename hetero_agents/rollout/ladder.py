"""The ladder: shadow, canary, active, and back; each step is decided by evidence that may be looked at at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ..bindings import SlotLock, SpecialistId
from ..bindings.lock import Stage
from ..bindings.workspace import uncertified
from ..contract import SlotId
from ..errors import ConfigError
from ..routing import ALPHA, Seen, wealth_against_bad, wealth_against_good
from ..slots import App, Slot
from ..slots.beside import comparable

NEXT: dict[Stage, Stage] = {"shadow": "canary", "canary": "active"}

Move = Literal["forward", "back", "stay"]


@dataclass(frozen=True)
class Verdict:
    """What the evidence on a slot's specialist says now."""

    slot: SlotId
    specialist: SpecialistId
    stage: Stage
    """Where it stood."""
    move: Move
    why: str
    compared: int
    """Answers that were compared with those of the model below."""
    kept: int
    """Those of them that the specialist gives alone."""
    wrong: int
    """Wrong ones among the kept."""
    p95_seconds: float | None
    """95th percentile of the specialist's seconds; None of nothing."""
    erred: bool
    """It goes back for its answers, and not because its certificate is of something else, which another one mends."""


def verdict(app: App, slot: Slot[..., Any]) -> Verdict:
    """Return what should become of a slot's specialist; nothing is changed.

    Forward: its kept answers are shown to keep the error budget (an e-value of 1 / 0.05 or more against the opposite). Back: they
    are shown to break it, running processes have stopped it, or it may not be used before it is active.

    Raises:
        ConfigError: the slot has no specialist, or no error budget, which says what is good enough; or nothing that compares beside calls.
    """
    state, config = app.workspace.lock.slots.get(slot.id, SlotLock()), app.workspace.slot_config(slot.id)
    budget = config.error_budget
    if state.active is None:
        raise ConfigError(
            f"Slot {slot.id!r} has no specialist to move; `hetero promote {slot.id} --stage shadow` begins."
        )
    if budget is None:
        raise ConfigError(f'[slots."{slot.id}"] in hetero.toml needs an error_budget, which says what is good enough.')
    if not comparable(slot, config):
        raise ConfigError(
            f'Answers of slot {slot.id!r} are not compared beside calls: compare = "{config.compare}" is for `hetero distill`. Give the slot a comparison of its own (@{slot.function.__name__}.compare).'
        )
    entry = app.workspace.lock.specialists[state.active]
    lacks = uncertified(entry.certificate, config, slot.checks_sha256)
    if entry.contract_sha256 != slot.contract.sha256:
        lacks = "the slot's contract has changed since it was trained"
    seen = app.state.evidence(state.active, state.stage)
    wrong = [one.wrong for one in seen if one.kept]
    told = f"{sum(wrong)} of {len(wrong)} kept answers were wrong, of {len(seen)} that were compared"
    move, erred = cast(Move, "stay"), True
    if stopped := app.state.stopped(state.active):
        move, told = "back", stopped
    elif lacks and state.stage in NEXT:
        move, erred, told = "back", False, f"it may not be used: {lacks}"
    elif wealth_against_good(wrong, budget) >= 1 / ALPHA:
        move, told = "back", f"{told}: the error budget of {budget:g} is broken"
    elif state.stage in NEXT and wealth_against_bad(wrong, budget) >= 1 / ALPHA:
        move, told = "forward", f"{told}: the error budget of {budget:g} is kept"
    elif state.stage in NEXT:
        told = f"{told}: not decided yet"
    return Verdict(
        slot.id,
        state.active,
        state.stage,
        move,
        told,
        len(seen),
        len(wrong),
        sum(wrong),
        _p95(seen),
        erred and move == "back",
    )


def step(app: App, slot: Slot[..., Any]) -> Verdict:
    """Move a slot's specialist by one step where the evidence says so, and return why.

    Raises:
        ConfigError: as `verdict`; or another command changed the slot meanwhile.
    """
    state = app.workspace.lock.slots.get(slot.id, SlotLock())
    found = verdict(app, slot)
    if found.move == "forward":
        app.workspace.activate(slot.id, found.specialist, NEXT[found.stage], expected=state)
    elif found.move == "back":
        if found.erred:
            app.state.stop(found.specialist, found.why)
        app.workspace.restore(slot.id, expected=state)
    return found


def _p95(seen: Sequence[Seen]) -> float | None:
    ordered = sorted(one.seconds for one in seen)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None
