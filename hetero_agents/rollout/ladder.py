"""The ladder: shadow, canary, active, and back; each step is decided by evidence that may be looked at at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, cast

from ..bindings import SlotLock, SpecialistId
from ..bindings.lock import Stage
from ..bindings.workspace import uncertified
from ..contract import SlotId
from ..errors import ConfigError
from ..routing import Promise, Seen, findings
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
    """95th percentile of the seconds of the kept; None of nothing."""
    cost: float | None
    """Mean of what calls cost with the specialist, as a share of its teacher's answers; None where `hetero.toml` asks nothing of it, or no price is known."""
    erred: bool
    """It goes back for its answers, and not because its certificate is of something else, which another one mends."""


def verdict(app: App, slot: Slot[..., Any]) -> Verdict:
    """Return what should become of a slot's specialist; nothing is changed.

    Forward: all that is asked of it is shown to hold, errors, and p95 and cost where `hetero.toml` says them (an e-value of 1 / 0.05
    or more against the opposite of each). Back: something is shown to be broken, running processes have stopped it, or it may not
    be used before it is active.

    Raises:
        ConfigError: the slot has no specialist, or no error budget, which says what is good enough; or nothing that compares beside calls.
    """
    state, config = app.workspace.lock.slots.get(slot.id, SlotLock()), app.workspace.slot_config(slot.id)
    promise = Promise.of(config)
    if state.active is None:
        raise ConfigError(
            f"Slot {slot.id!r} has no specialist to move; `hetero promote {slot.id} --stage shadow` begins."
        )
    if promise is None:
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
    kept = [one for one in seen if one.kept]
    costs = [one.cost for one in seen if one.cost is not None]
    found = findings(seen, promise)
    told = "; ".join(one.told for one in found)
    move, erred = cast(Move, "stay"), True
    if stopped := app.state.stopped(state.active):
        move, told = "back", stopped
    elif lacks and state.stage in NEXT:
        move, erred, told = "back", False, f"it may not be used: {lacks}"
    elif broken := [one.asked for one in found if one.broken]:
        move, told = "back", f"{told}: {_and(broken)} broken"
    elif state.stage in NEXT and all(one.kept for one in found):
        move, told = "forward", f"{told}: {_and([one.asked for one in found])} kept"
    elif state.stage in NEXT:
        open_ = f", {_and([one.asked for one in found if not one.kept])} not shown to be kept" if len(found) > 1 else ""
        told = f"{told}: not decided yet{open_}"
    return Verdict(
        slot.id,
        state.active,
        state.stage,
        move,
        told,
        len(seen),
        len(kept),
        sum(one.wrong for one in kept),
        _p95(kept),
        fmean(costs) if costs else None,
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


def _and(asked: Sequence[str]) -> str:
    return f"{' and '.join(asked)} {'is' if len(asked) == 1 else 'are'}"


def _p95(seen: Sequence[Seen]) -> float | None:
    ordered = sorted(one.seconds for one in seen)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None
