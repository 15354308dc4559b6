"""One round of step S6 for a slot: move its specialist as the evidence says, and train another where there is enough that is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..bindings import SlotLock, SpecialistId
from ..distill import distill
from ..distill.lineage import dataset_of
from ..distill.loop import curated
from ..distill.specialise import Progress
from ..errors import ConfigError, DistillError
from ..slots import App, Slot
from .ladder import step
from .movable import newest

FRESH = 0.2
"""Share by which the examples must have grown for another training to pay."""

Did = Literal["moved", "waits", "trained", "nothing"]


@dataclass(frozen=True)
class Round:
    """What was done for a slot, and why."""

    slot: str
    did: Did
    why: str
    specialist: SpecialistId | None = None
    train_seconds: float = 0.0


async def iterate(
    app: App, slot: Slot[..., Any], *, may_train: bool = True, fresh: float = FRESH, progress: Progress
) -> Round:
    """Do what is to be done for a slot now, one thing.

    A specialist on its way, or a stopped one, is moved. Where none is on its way and the vault has enough new examples, another is trained; one
    whose error budget is certified begins in the shadow.

    Args:
        app: the workspace.
        slot: a slot with an error budget.
        may_train: a training may begin.
        fresh: share by which the examples must have grown since the last training.
        progress: called as a training goes on.

    Raises:
        ConfigError: the slot has no error budget; or another command changed the slot meanwhile.
    """
    if app.workspace.slot_config(slot.id).error_budget is None:
        raise ConfigError(f'[slots."{slot.id}"] in hetero.toml needs an error_budget, which says what is good enough.')
    state = app.workspace.lock.slots.get(slot.id, SlotLock())
    if state.active is not None:
        found = step(app, slot.id)
        if found.move != "stay":
            return Round(slot.id, "moved", f"{found.stage}, {found.move}: {found.why}", found.specialist)
        if state.stage != "active":
            return Round(slot.id, "waits", f"{found.stage}: {found.why}", found.specialist)
    try:
        why = _reason_to_train(app, slot, fresh)
    except DistillError as error:
        return Round(slot.id, "nothing", str(error))
    if why is None or not may_train:
        told = (
            "not enough is new to train again" if why is None else f"{why}, but the limit of training time is reached"
        )
        return Round(slot.id, "nothing", told, state.active)
    try:
        made = await distill(app, slot, progress=progress)
    except DistillError as error:
        return Round(slot.id, "nothing", str(error))
    certificate, name = made.specialist.certificate, made.specialist_id
    if certificate is None or certificate.threshold is None:
        missing = certificate.missing if certificate else "it has no certificate"
        return Round(slot.id, "trained", f"{why}; {missing}", name, made.specialist.train_seconds)
    app.state.forget(name)
    app.workspace.activate(slot.id, name, "shadow", expected=state)
    told = f"{why}; certified, {certificate.share.score:.0%} of held-out calls kept: it begins in the shadow"
    return Round(slot.id, "trained", told, name, made.specialist.train_seconds)


def _reason_to_train(app: App, slot: Slot[..., Any], fresh: float) -> str | None:
    """Why another training may pay; None where it would not."""
    now = sum(map(len, curated(app, slot).parts.values()))
    name, entry = newest(app, slot)
    if name is None or entry is None:
        return f"{now} examples and no specialist"
    found = dataset_of(app.workspace, entry)
    if found is None:
        return f"the data set of {name} is not here"
    before = sum(map(len, found[1].parts.values()))
    return f"{now} examples, {before} when {name} was trained" if now >= (1 + fresh) * before else None
