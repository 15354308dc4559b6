"""What can move: how many of the calls in the vault a slot's specialist could answer, at which error, and what that saves.

Counterfactual replay: a specialist's answers to calls of the vault that it was not trained on, beside those that were given then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ..bindings import Calibrator, Score, Specialist, SpecialistId
from ..contract import SlotId
from ..distill.certify import Bin, Tried, calibration_error, certify, fit, reliability, scores_of
from ..distill.evaluate import PLAIN_CODE
from ..distill.lineage import dataset_of
from ..distill.loop import comparator_of
from ..distill.matcher import MATCHER
from ..distill.rehearse import remembered
from ..distill.specialise import Progress
from ..engines.families import known_models
from ..errors import EngineError, KeyAccessError, MissingExtraError
from ..slots import App, Slot, registry
from ..slots.recalled import CacheShown, caches_of
from ..spans import Names, SpanRecord, read_traces
from .inputs import inputs_of

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
    """One slot. Each budget is shown at its confidence on its own: who picks the best afterwards picks among several."""

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
    """Held-out calls that plain code, or a matcher, answers right, as a share, by what it is."""
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
    reliability: list[Bin]
    """How often held-out answers are right by how sure they are."""
    calibration_error: float | None
    """Expected calibration error of those, 0 to 1."""
    inputs: str | None
    """Whether inputs are those that there were when the specialist was trained; None without one, or without an error budget."""
    caches: list[CacheShown]
    """What was shown of its cache by meaning, where it has one."""
    why: str | None
    """Why less is known, where that is so."""


@dataclass(frozen=True)
class _Measured:
    movable: list[Movable] = field(default_factory=list[Movable])
    curve: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    bins: list[Bin] = field(default_factory=list[Bin])
    why: str | None = None


async def slot_report(app: App, slot: Slot[..., Any], progress: Progress | None = None) -> SlotReport:
    """Return what can move of one slot.

    Args:
        app: the workspace.
        slot: the slot.
        progress: called as inputs are embedded, which takes minutes where they are long.

    Raises:
        KeyAccessError: the reader's key opens no content.
    """
    spans = [span for trace in read_traces(app.vault, slot=slot.id) for span in trace.spans]
    if any(span.get("withheld") for span in spans):
        raise KeyAccessError(f"The calls of {slot.id!r} are content, which your key does not open; a curator's does.")
    calls = [span for span in spans if _is_call(span, slot.id)]
    asked = {span["span_id"] for span in calls if not span["attributes"].keys() & {Names.SPECIALIST, Names.CACHE}}
    # The one that answered is the last below its call.
    chats = list(
        {
            s["parent_id"]: s for s in spans if s["parent_id"] in asked and Names.REQUEST_MODEL in s["attributes"]
        }.values()
    )
    inputs, outputs = (Counter(call["attributes"].get(key) for call in calls) for key in (Names.INPUT, Names.OUTPUT))
    name, entry = _reported(app, slot)
    found = _Measured(why=f"no specialist; `hetero distill {slot.id}` makes one")
    if name and entry:
        found = await _measured(app, slot, name, entry)
    return SlotReport(
        slot=slot.id,
        calls=len(calls),
        kept=sum(Names.SPECIALIST in call["attributes"] for call in calls),
        repeated=len(calls) - len(inputs),
        constant=max(outputs.values(), default=0),
        plain_code={
            key: score for key, score in (entry.scores if entry else {}).items() if key in (*PLAIN_CODE, MATCHER)
        },
        spent=_spent(chats),
        specialist=name,
        base=entry.base if entry else None,
        licence=_licence(app, entry) if entry else None,
        gigabytes=_gigabytes(app, entry) if entry else None,
        accuracy=entry.scores.get("specialist") if entry else None,
        movable=found.movable,
        curve=found.curve,
        reliability=found.bins,
        calibration_error=calibration_error(found.bins) if found.bins else None,
        inputs=await _inputs(app, slot, entry, progress) if entry else None,
        caches=caches_of(app, slot),
        why=found.why,
    )


async def _inputs(app: App, slot: Slot[..., Any], entry: Specialist, progress: Progress | None) -> str | None:
    if app.workspace.slot_config(slot.id).error_budget is None:
        return None
    try:
        seen = await inputs_of(app, slot, entry, progress)
    except (EngineError, MissingExtraError) as error:
        return f"not compared: {error}"
    return seen if isinstance(seen, str) else seen.told


def newest(app: App, slot: Slot[..., Any]) -> tuple[SpecialistId | None, Specialist | None]:
    """Return the slot's newest specialist that may be used, with its entry; None where there is none."""
    usable = {
        name: entry
        for name, entry in app.workspace.lock.of_slot(slot.id).items()
        if entry.contract_sha256 == slot.contract.sha256 and not entry.withdrawn
    }
    return next(reversed(usable.items()), (None, None))


def _reported(app: App, slot: Slot[..., Any]) -> tuple[SpecialistId | None, Specialist | None]:
    """The active specialist, where it may be used; else the newest."""
    binding = app.binding(slot.id, slot.tier, slot.contract.sha256, slot.checks_sha256)
    if binding.specialist_id is not None:
        return binding.specialist_id, binding.specialist
    return newest(app, slot)


async def _measured(app: App, slot: Slot[..., Any], name: SpecialistId, entry: Specialist) -> _Measured:
    found = dataset_of(app.workspace, entry)
    if found is None:
        return _Measured(why=f"the data set of {name} is not here")
    compare, config = await comparator_of(app, slot), app.workspace.slot_config(slot.id)
    try:
        parts = await remembered(app, slot, compare, entry, found[0].parent, found[1])
    except (EngineError, MissingExtraError) as error:
        return _Measured(why=f"its router cannot look at the calls: {error}")
    unasked = (
        entry.certificate is not None and "certify" not in parts
    )  # because it was hopeless at the slot's own budget
    if not parts.keys() >= {"select", "test"} or not (unasked or "certify" in parts):
        return _Measured(
            why=f"{name} was not asked for the calls that certify: give the slot an error_budget, and run `hetero distill {slot.id}` again"
        )
    own = set[float]() if config.error_budget is None else {config.error_budget}
    movable: list[Movable] = []
    for budget in sorted(own.union(BUDGETS)):
        shown = certify(
            parts["select"],
            parts.get("certify", len({e.cluster or e.key for e in found[1].parts["certify"]})),
            parts["test"],
            error_budget=budget,
            confidence=config.shown_with,
            samples=entry.certificate.samples if entry.certificate else 1,
            against="",
            checks_sha256=slot.checks_sha256,
            compare=config.measure,
            by=config.error_budget_by,
        )
        missing = shown.missing
        if unasked and entry.certificate and budget > entry.certificate.error_budget:
            missing = "not known: the calls that certify were not asked, because its own error budget is hopeless"
        movable.append(Movable(budget, shown.threshold is not None, shown.share, shown.risk, missing))
    calibrator = fit(parts["select"])
    if calibrator is None:
        return _Measured(movable)
    return _Measured(movable, _curve(calibrator, parts["test"]), reliability(calibrator, parts["test"]))


def _curve(calibrator: Calibrator, test: Sequence[Tried]) -> list[tuple[float, float]]:
    ranked = sorted(scores_of(calibrator, test), key=lambda pair: -pair[0])
    points: list[tuple[float, float]] = []
    wrong = 0
    for number, (sure, bad) in enumerate(ranked, 1):
        wrong += bad
        if sure >= 0 and (number == len(ranked) or ranked[number][0] < sure):
            points.append((number / len(ranked), wrong / number))
    return points


def _is_call(span: SpanRecord, slot: str) -> bool:
    attributes = span["attributes"]
    return attributes.get(Names.SLOT) == slot and Names.INPUT in attributes and Names.OUTPUT in attributes


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


def _gigabytes(app: App, entry: Specialist) -> float | None:
    """Of the specialist's own weights, beside its base's."""
    path = app.workspace.root / entry.served
    return path.stat().st_size / 1e9 if path.is_file() else None


def _licence(app: App, entry: Specialist) -> str | None:
    """Of the base, where it is a model that the catalog of published ones has."""
    name = entry.base.partition(":")[2]
    return next((known.licence for known in known_models().values() if known.source.lower().endswith(f"/{name}")), None)


def whole(reports: Sequence[SlotReport], budgets: Mapping[str, float]) -> Score | None:
    """Return the share of held-out inputs, slots weighed by their calls in the vault, that can move at each slot's own error budget, with a 95 % interval.

    The ends are the weighed ends of the slots' intervals, which is wider than it need be.

    Args:
        reports: of the slots.
        budgets: error budgets by slot; a slot without one moves nothing.
    """
    calls = sum(report.calls for report in reports)
    if not calls:
        return None
    own = [(r.calls / calls, m.share) for r in reports for m in r.movable if m.error_budget == budgets.get(r.slot)]
    if not own:
        return None
    score, low, high = (sum(weight * getattr(share, end) for weight, share in own) for end in ("score", "low", "high"))
    return Score(score=score, low=low, high=high, n=sum(share.n for _, share in own))


@dataclass(frozen=True)
class Workflow:
    """What the error budgets of a workflow's slots come to together."""

    name: str
    runs: int
    """In the vault."""
    calls: dict[str, int]
    """By slot, the most that one run made."""
    bound: float
    """Chance at most that a run goes wrong by specialists: the sum of calls times budgets of the slots that they answer."""
    confidence: float
    """With which all the budgets hold together: one less what each may fail."""
    without_budget: list[str]
    """Slots that specialists answer without an error budget, for which nothing is bound."""


def workflows(app: App) -> list[Workflow]:
    """Return the union bound of each workflow in the vault, for runs that call no slot more often than one has: no loop has a cap by itself.

    As long as all kept answers are right, a run is the one that the models above would have had, so the chances add up.
    """
    most: dict[str, Counter[str]] = {}
    runs: Counter[str] = Counter()
    for trace in read_traces(app.vault):
        name = trace.roots[0]["attributes"].get(Names.WORKFLOW) or trace.roots[0]["name"]
        made = Counter(span["attributes"][Names.SLOT] for span in trace.spans if Names.CONTRACT in span["attributes"])
        if made:
            runs[name] += 1
            most[name] = most.get(name, Counter()) | made
    found: list[Workflow] = []
    for name, calls in most.items():
        budgets, open_ended, doubt = dict[str, float](), list[str](), 0.0
        for slot in calls:
            answering, config = _answering(app, slot), app.workspace.slot_config(slot)
            if not answering:
                continue
            if config.error_budget is None:
                open_ended.append(slot)
            else:
                budgets[slot], doubt = config.error_budget, doubt + len(answering) * (1 - config.confidence)
        bound = min(1.0, sum(calls[slot] * budget for slot, budget in budgets.items()))
        found.append(Workflow(name, runs[name], dict(calls), bound, max(0.0, 1 - doubt), open_ended))
    return found


def _answering(app: App, name: str) -> list[SpecialistId]:
    """The specialists that answer calls of a slot alone now, each by a certificate of its own where there is an error budget."""
    slot = registry.slots.get(SlotId(name))
    if slot is None:  # an agent, or of a module that [app] does not name
        return []
    binding = app.binding(slot.id, slot.tier, slot.contract.sha256, slot.checks_sha256)
    canary = binding.coming if binding.stage == "canary" else None
    return [specialist for specialist in (binding.specialist_id, canary) if specialist]
