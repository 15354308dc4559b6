"""One round of step S6 for a slot: move its specialist as the evidence says, and train another where there is enough that is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..bindings import SlotLock, Specialist, SpecialistId
from ..bindings.workspace import uncertified
from ..distill import Recipe, distill
from ..distill.lineage import dataset_of
from ..distill.loop import curated
from ..distill.specialise import Progress
from ..errors import ConfigError, DistillError, HeteroError
from ..slots import App, Slot
from .inputs import inputs_of, new_before
from .ladder import step
from .movable import newest

FRESH = 0.2
"""Share by which the examples must have grown for another training to pay."""

FRESH_INPUTS = 0.05
"""The same where inputs have become others, or other specialists answer the slots before it: without some of the new kind nothing can be learnt or shown of it."""

Did = Literal["moved", "waits", "shadowed", "trained", "nothing", "failed"]


@dataclass(frozen=True)
class Round:
    """What was done for a slot, and why."""

    slot: str
    did: Did
    why: str
    specialist: SpecialistId | None = None
    train_seconds: float = 0.0


async def iterate(app: App, slot: Slot[..., Any], *, may_train: bool = True, progress: Progress) -> Round:
    """Do what is to be done for a slot now, one thing.

    A specialist on its way, or a stopped one, is moved. Where none is on its way and the vault has enough new examples, or some and inputs
    have become others or slots before it other specialists, another is trained, as the last one was, and certified; one whose error budget is certified begins in the shadow.

    Args:
        app: the workspace.
        slot: a slot with an error budget.
        may_train: a training may begin.
        progress: called as it goes on.

    Raises:
        ConfigError: the slot has no error budget; its last recipe is not one of this version; or another command changed the slot meanwhile.
    """
    if app.workspace.slot_config(slot.id).error_budget is None:
        raise ConfigError(f'[slots."{slot.id}"] in hetero.toml needs an error_budget, which says what is good enough.')
    state = app.workspace.lock.slots.get(slot.id, SlotLock())
    if state.active is not None:
        found = step(app, slot)
        if found.move != "stay":
            return Round(slot.id, "moved", f"{found.stage}, {found.move}: {found.why}", found.specialist)
        if state.stage != "active":
            return Round(slot.id, "waits", f"{found.stage}: {found.why}", found.specialist)
    name, entry = newest(app, slot)
    if name and entry and name != state.active and not app.state.stopped(name) and not _lacks(app, slot, entry):
        return _shadowed(app, slot, state, name, entry, "shadowed", "it is certified, and neither active nor stopped")
    try:
        why, no_reason = await _reason_to_train(app, slot, name, entry, progress)
        if why is None or not may_train:
            told = f"{why}, but the limit of training time is reached" if why else no_reason
            return Round(slot.id, "nothing", told, state.active)
    except DistillError as error:  # too few examples, say
        return Round(slot.id, "nothing", str(error))
    try:
        made = await distill(app, slot, **_as_before(app, slot), progress=progress)
    except DistillError as error:
        return Round(slot.id, "failed", str(error))
    shadows = (made.specialist.exposure or {}).get("seconds", 0.0)
    seconds = 0.0 if made.reused else made.specialist.train_seconds + shadows
    lacks = _lacks(app, slot, made.specialist)
    if lacks or made.specialist_id == state.active or app.state.stopped(made.specialist_id):
        return Round(slot.id, "trained", f"{why}; {lacks or 'it is what there was'}", made.specialist_id, seconds)
    return _shadowed(app, slot, state, made.specialist_id, made.specialist, "trained", why, seconds)


def _shadowed(
    app: App,
    slot: Slot[..., Any],
    state: SlotLock,
    name: SpecialistId,
    entry: Specialist,
    did: Did,
    why: str,
    seconds: float = 0.0,
) -> Round:
    """Let a certified specialist begin."""
    app.workspace.activate(slot.id, name, "shadow", expected=state)
    app.state.forget(name)
    kept = entry.certificate.share.score if entry.certificate else 0.0
    return Round(slot.id, did, f"{why}; {kept:.0%} of held-out calls kept: it begins in the shadow", name, seconds)


def _as_before(app: App, slot: Slot[..., Any]) -> dict[str, Any]:
    """How a slot's next specialist is made: as its last one was, on the same base, by the same recipe, attacked as it was."""
    last = next(reversed(app.workspace.lock.of_slot(slot.id).values()), None)
    if last is None:
        return {}
    names = (name for name, model in app.workspace.config.models.items() if model.model == last.base)
    return {
        "base": next(names, None),
        "recipe": None if last.matcher else Recipe.load(**last.recipe),
        "canaries": int((last.exposure or {}).get("asked", 0)),
    }


def _lacks(app: App, slot: Slot[..., Any], entry: Specialist) -> str | None:
    """Why a specialist may not begin; None where it may."""
    return uncertified(entry.certificate, app.workspace.slot_config(slot.id), slot.checks_sha256)


async def _reason_to_train(
    app: App, slot: Slot[..., Any], name: SpecialistId | None, entry: Specialist | None, progress: Progress
) -> tuple[str | None, str]:
    """Why another training may pay, after the newest one; None where it would not, and then what was looked at."""
    now = sum(map(len, curated(app, slot).parts.values()))
    if name is None or entry is None:
        return f"{now} examples and no specialist", ""
    lacks = _lacks(app, slot, entry)
    if lacks and (entry.certificate is None or entry.certificate.missing is None):
        return f"{name}: {lacks}", ""
    found = dataset_of(app.workspace, entry)
    if found is None:
        return f"the data set of {name} is not here", ""
    before = sum(map(len, found[1].parts.values()))
    grown, nothing = f"{now} examples, {before} when {name} was trained", "not enough is new to train again"
    if now >= (1 + FRESH) * before:
        return grown, ""
    if now < (1 + FRESH_INPUTS) * before:
        return None, nothing
    shown = entry.certificate.created if entry.certificate else entry.created
    if others := new_before(app, slot, shown):
        return f"{grown}; before it in its runs now answer {', '.join(others)}, which did not when it was certified", ""
    try:
        seen = await inputs_of(app, slot, entry, progress)
    except HeteroError as error:  # no embeddings: all else goes on without them
        return None, f"{nothing}; its inputs were not compared: {error}"
    if isinstance(seen, str) or not seen.changed:
        return None, f"{nothing}; inputs: {seen if isinstance(seen, str) else seen.told}"
    return f"{grown}; inputs: {seen.told}", ""
