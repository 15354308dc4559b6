"""What can move: how many of the calls in the vault a slot's specialist could answer, at which error, and what that saves.

Counterfactual replay: a specialist's answers to calls of the vault that it was not trained on, beside those that were given then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..bindings import Score, Specialist, SpecialistId
from ..bindings.lock import version_of
from ..distill.certify import Tried, certify, fit, sureness
from ..distill.lineage import dataset_of
from ..distill.loop import comparator_of
from ..distill.rehearse import remembered
from ..engines.catalog import find_weights
from ..engines.families import known_models
from ..slots import App, Slot
from ..spans import Names, SpanRecord, read_traces

BUDGETS = (0.01, 0.02, 0.05, 0.10, 0.20)
"""Error budgets that are reported beside the slot's own."""


@dataclass(frozen=True)
class Movable:
    """What can move at one error budget."""

    error_budget: float
    certified: bool
    share: Score
    """Of held-out calls, those that the specialist gives alone; 0 where nothing is certified."""
    risk: Score | None
    """Wrong ones among those, as a share."""
    missing: str | None
    """Why nothing is certified."""


@dataclass(frozen=True)
class Spent:
    """What a call costs on the model that answers it now, in the mean over the calls that say it."""

    input_tokens: float | None
    output_tokens: float | None
    seconds: float | None
    dollars: float | None
    """None where no price is known."""


@dataclass(frozen=True)
class SlotReport:
    """One slot."""

    slot: str
    calls: int
    """Answered calls in the vault."""
    kept: int
    """Those of them that a specialist answered."""
    repeated: int
    """Calls whose input had come before: a look-up answers them."""
    constant: int
    """Calls that have the most frequent answer."""
    plain_code: dict[str, Score]
    """Held-out calls that plain code answers right, as a share, by what it is."""
    spent: Spent
    """A call of the teacher."""
    specialist: SpecialistId | None
    base: str | None
    licence: str | None
    gigabytes: float | None
    accuracy: Score | None
    """Of all its answers to held-out calls."""
    movable: list[Movable]
    curve: list[tuple[float, float]]
    """Share of held-out calls that it gives alone, surest first, and the share of wrong ones among them."""
    why: str | None
    """Why less is known, where that is so."""


async def slot_report(app: App, slot: Slot[..., Any]) -> SlotReport:
    """Return what can move of one slot.

    Raises:
        KeyAccessError: the reader's key opens no content.
    """
    spans = [(span, trace) for trace in read_traces(app.vault, slot=slot.id) for span in trace.spans]
    calls = [span["attributes"] for span, _ in spans if _is_call(span, slot.id)]
    asked = {
        span["span_id"] for span, _ in spans if _is_call(span, slot.id) and Names.SPECIALIST not in span["attributes"]
    }
    chats = [span for span, _ in spans if span["parent_id"] in asked]
    inputs, outputs = (Counter(call.get(key) for call in calls) for key in (Names.INPUT, Names.OUTPUT))
    name, entry = newest(app, slot)
    movable, curve, why = (
        list[Movable](),
        list[tuple[float, float]](),
        f"no specialist; `hetero distill {slot.id}` makes one",
    )
    if name and entry:
        movable, curve, why = await _measured(app, slot, name, entry)
    weights = find_weights(entry.base.partition(":")[2], app.workspace.root) if entry else None
    known = next(
        (
            m
            for m in known_models().values()
            if weights and m.source and m.source.split("/")[-1].lower() == weights.name
        ),
        None,
    )
    return SlotReport(
        slot=slot.id,
        calls=len(calls),
        kept=sum(Names.SPECIALIST in call for call in calls),
        repeated=len(calls) - len(inputs),
        constant=max(outputs.values(), default=0),
        plain_code={
            key: s for key, s in (entry.scores if entry else {}).items() if key in ("word_overlap", "most_frequent")
        },
        spent=_spent(chats),
        specialist=name,
        base=entry.base if entry else None,
        licence=known.licence if known else None,
        gigabytes=_gigabytes(app, entry),
        accuracy=entry.scores.get("specialist") if entry else None,
        movable=movable,
        curve=curve,
        why=why,
    )


def newest(app: App, slot: Slot[..., Any]) -> tuple[SpecialistId | None, Specialist | None]:
    """Return the slot's active specialist, else its newest one that may be used; None where there is none."""
    lock = app.workspace.lock
    usable = {
        name: entry
        for name, entry in lock.of_slot(slot.id).items()
        if entry.contract_sha256 == slot.contract.sha256 and not entry.withdrawn
    }
    state = lock.slots.get(slot.id)
    if state and state.active is not None and state.active in usable:
        return state.active, usable[state.active]
    name = max(usable, key=version_of, default=None)
    return name, usable[name] if name else None


async def _measured(
    app: App, slot: Slot[..., Any], name: SpecialistId, entry: Specialist
) -> tuple[list[Movable], list[tuple[float, float]], str | None]:
    found = dataset_of(app.workspace, entry)
    if found is None:
        return [], [], f"the data set of {name} is not here"
    compare = await comparator_of(app, slot)
    parts = await remembered(slot, compare, entry, found[0].parent, found[1])
    config = app.workspace.slot_config(slot.id)
    if parts.keys() < {"select", "certify", "test"}:
        why = f"{name} was not asked for the calls that certify: give the slot an error_budget, and run `hetero distill {slot.id}` again"
        return [], [], why
    select, apart, test = parts["select"], parts["certify"], parts["test"]
    movable: list[Movable] = []
    own = set[float]() if config.error_budget is None else {config.error_budget}
    for budget in sorted(own.union(BUDGETS)):
        shown = certify(
            select,
            apart,
            test,
            error_budget=budget,
            confidence=config.confidence,
            samples=1,
            against="",
            checks_sha256=slot.checks_sha256,
        )
        movable.append(Movable(budget, shown.threshold is not None, shown.share, shown.risk, shown.missing))
    return movable, _curve(select, test), None


def _curve(select: Sequence[Tried], test: Sequence[Tried]) -> list[tuple[float, float]]:
    calibrator = fit(select)
    if calibrator is None:
        return []
    ranked = sorted(((sureness(calibrator, t), t.wrong) for t in test), key=lambda pair: -pair[0])
    points: list[tuple[float, float]] = []
    wrong = 0
    for number, (sure, bad) in enumerate(ranked, 1):
        wrong += bad
        if sure >= 0 and (number == len(ranked) or ranked[number][0] < sure):
            points.append((number / len(ranked), wrong / number))
    return points


def _is_call(span: SpanRecord, slot: str) -> bool:
    return span["attributes"].get(Names.SLOT) == slot and Names.INPUT in span["attributes"]


def _spent(chats: Sequence[SpanRecord]) -> Spent:
    def average(values: Sequence[float | None]) -> float | None:
        some = [value for value in values if value is not None]
        return fmean(some) if some else None

    return Spent(
        average([chat["attributes"].get(Names.INPUT_TOKENS) for chat in chats]),
        average([chat["attributes"].get(Names.OUTPUT_TOKENS) for chat in chats]),
        average([(chat["end"] - chat["start"]) / 1e9 for chat in chats if Names.INPUT_TOKENS in chat["attributes"]]),
        average([chat["attributes"].get("operation.cost") for chat in chats]),
    )


def _gigabytes(app: App, entry: Specialist | None) -> float | None:
    """Of the specialist's own weights, beside its base's."""
    path = app.workspace.root / entry.gguf if entry else None
    return path.stat().st_size / 1e9 if path and path.is_file() else None


def whole(reports: Sequence[SlotReport], budgets: Mapping[str, float]) -> Score | None:
    """Return the share of all calls in the vault that can move at each slot's own error budget, with a 95 % interval.

    Slots are weighed by their calls. The ends are the weighed ends of the slots' intervals, which is wider than it need be.

    Args:
        reports: of the slots.
        budgets: error budgets by slot; a slot without one moves nothing.
    """
    calls = sum(report.calls for report in reports)
    own = [(r.calls / calls, m.share) for r in reports for m in r.movable if m.error_budget == budgets.get(r.slot)]
    if not own:
        return None
    score, low, high = (sum(weight * getattr(share, end) for weight, share in own) for end in ("score", "low", "high"))
    return Score(score=score, low=low, high=high, n=sum(share.n for _, share in own))
