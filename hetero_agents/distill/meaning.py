"""What a slot's cache may answer by meaning: shown on held-out calls, as an error budget is.

The remembered questions are calls with the teacher's answers. To each call that is tried, the nearest of them gives its answer,
and the likeness of both says how sure that is. Near-duplicates are what such a cache lives on and errs on, so a call's own cluster must not be kept
from it: of each part a half of the calls, drawn by hash, is tried, and the others are remembered, as earlier calls are when a
new one comes. A cache with few questions errs more, since the nearest is far: so a tried call finds any number of them, from one to all, each
order of magnitude as often. Select and certify fix calibrator and thresholds, test proves: a specialist that answers before the cache has been chosen and
certified on the first two, so that which of their calls it passes on is no fair draw any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bindings import CacheLock, Specialist, SpecialistId
from ..bindings.lock import slice_of
from ..contract import Contract, Sha256, compact_json
from ..engines import EMBEDDER
from ..errors import DistillError
from ..routing import Nearest, Question, packed, question_of
from ..slots import App, Slot
from ..slots.recalled import evidence_of
from .certify import Tried, certify, keeps
from .curate import Dataset, Example, Part
from .evaluate import Prediction
from .rehearse import embedded, remembered, tried_of
from .specialise import Progress

if TYPE_CHECKING:
    from .compare import Comparator

NOTHING_NEAR = "no held-out call has an earlier one with which it could be compared"


@dataclass(frozen=True)
class _Asked:
    """A call that can be compared by meaning."""

    example: Example
    part: Part
    question: Question
    scope: str
    """What must be equal."""

    @property
    def tried(self) -> bool:
        """Whether the call is tried; else it is remembered."""
        return self.part != "train" and int(self.example.key[-1], 16) % 2 == 0

    @property
    def comes(self) -> float:
        """When a tried call comes, from 0, to a cache with one call, to 1, to a full one: each order of magnitude takes as long."""
        return int(self.example.key[-9:-1], 16) / 16**8


@dataclass(frozen=True)
class Standing:
    """A specialist that answers before the cache."""

    name: SpecialistId
    entry: Specialist
    folder: Path
    """Where it was made."""


@dataclass(frozen=True)
class Trial:
    """What became of calls that were answered by meaning, by the calls' keys."""

    fixing: dict[Sha256, Tried]
    """They fix calibrator and thresholds."""
    proving: dict[Sha256, Tried]


async def trial(app: App, slot: Slot[..., Any], dataset: Dataset, compare: Comparator, progress: Progress) -> Trial:
    """Answer held-out calls by meaning, from the others.

    Args:
        app: the workspace.
        slot: the slot.
        dataset: its calls.
        compare: when an answer is wrong.
        progress: called as texts are embedded.

    Raises:
        DistillError: no parameter of the slot is free text.
        EngineError: there are no embeddings.
    """
    contract, by = slot.contract, app.workspace.slot_config(slot.id).error_budget_by
    if not contract.free_texts:
        raise DistillError(
            f'Slot {slot.id!r} has no parameter that is free text, so nothing of it can mean the same; cache = "exact" fits it.'
        )
    calls = _comparable(app, slot, dataset)
    vectors = await embedded(app, [text for call in calls for text in call.question.texts], progress)
    earlier = [
        call for call in calls if not call.tried and not call.example.corrected
    ]  # a cache has what the model said
    earlier.sort(key=lambda call: call.example.key)
    remembered: dict[str, tuple[Nearest, list[Example]]] = {}
    found: dict[bool, dict[Sha256, Tried]] = {False: {}, True: {}}
    answered: dict[bool, list[tuple[Example, Prediction]]] = {False: [], True: []}
    known = 0
    for call in sorted((call for call in calls if call.tried), key=lambda call: call.comes):
        while known < round(len(earlier) ** call.comes):
            one = earlier[known]
            here, owners = remembered.setdefault(one.scope, (Nearest(len(one.question.texts)), []))
            owners.append(one.example)
            here.add(len(owners), packed([vectors[text] for text in one.question.texts]))
            known += 1
        example, proves = call.example, call.part == "test"
        here, owners = remembered.get(call.scope, (Nearest(0), []))
        nearest = here.nearest([vectors[text] for text in call.question.texts])
        if nearest is None:
            name, slice_ = example.cluster or example.key, slice_of(example.input, by)
            found[proves][example.key] = Tried(name, None, wrong=False, refused=True, slice=slice_)
        else:
            given = _prediction(contract, example, owners[nearest[1] - 1].output, nearest[0])
            answered[proves].append((example, given))
    for proves, pairs in answered.items():
        examples, given = [e for e, _ in pairs], [p for _, p in pairs]
        for example, tried in zip(examples, await tried_of(slot, compare, examples, given, by), strict=True):
            found[proves][example.key] = tried
    return Trial(found[False], found[True])


def cache_lock(
    app: App,
    slot: Slot[..., Any],
    tried: Trial,
    against: str,
    after: SpecialistId | None = None,
    passed: Collection[Sha256] | None = None,
) -> CacheLock:
    """Certify what a cache may answer by meaning, and write it into the lock.

    Args:
        app: the workspace.
        slot: the slot, with an error budget.
        tried: what became of its calls.
        against: what an answer was compared with.
        after: the specialist that the cache stands behind; None where nobody is asked before.
        passed: the calls that it passes on; all where None.
    """
    entry = app.workspace.slot_config(slot.id)
    fixing, proving = (
        [found for key, found in part.items() if passed is None or key in passed]
        for part in (tried.fixing, tried.proving)
    )
    certificate = certify(
        fixing,
        proving,
        proving,
        error_budget=entry.error_budget or 0.0,
        confidence=entry.shown_with if after else entry.confidence,
        samples=1,
        against=against,
        checks_sha256=slot.checks_sha256,
        compare=entry.measure,
        by=entry.error_budget_by,
        each_call=True,
        proved_on="the tried half of the test part",
    )
    if not certificate.calibrator.weights:
        certificate = certificate.model_copy(update={"missing": NOTHING_NEAR})
    made = CacheLock(
        slot=slot.id,
        after=after,
        model=app.binding(slot.id, slot.tier, slot.contract.sha256, slot.checks_sha256).models[0][1].model,
        embedder=EMBEDDER,
        contract_sha256=slot.contract.sha256,
        certificate=certificate,
    )
    app.workspace.add_cache(made)
    app.state.forget(evidence_of(after or slot.id))
    return made


async def passed_on(
    app: App, slot: Slot[..., Any], compare: Comparator, standing: Standing, dataset: Dataset
) -> set[Sha256] | None:
    """Return the held-out calls that a specialist does not answer alone; None where not all of its answers are there.

    Args:
        app: the workspace.
        slot: the slot.
        compare: when an answer is wrong.
        standing: the specialist.
        dataset: its calls.
    """
    shown, parts = standing.entry.certificate, dataset.parts
    if shown is None or shown.threshold is None:
        return None
    tried = await remembered(app, slot, compare, standing.entry, standing.folder, dataset)
    if tried.keys() < {part for part in ("select", "certify", "test") if parts[part]}:
        return None
    return {
        e.key for part, found in tried.items() for e, t in zip(parts[part], found, strict=True) if not keeps(shown, t)
    }


async def certify_caches(
    app: App,
    slot: Slot[..., Any],
    dataset: Dataset,
    compare: Comparator,
    progress: Progress,
    behind: Sequence[Standing | None],
) -> list[CacheLock]:
    """Certify a slot's cache by meaning, and write it into the lock: for all calls, and for those that a specialist passes on.

    Args:
        app: the workspace.
        slot: the slot, with an error budget.
        dataset: its calls, those on which the specialist was certified.
        compare: when an answer is wrong.
        progress: called as texts are embedded.
        behind: before the cache stands nobody (None), or a specialist that was certified on these calls.

    Raises:
        DistillError: no parameter of the slot is free text.
        EngineError: there are no embeddings.
    """
    found = await trial(app, slot, dataset, compare, progress)
    against = f"answers of {dataset.teacher}; right: {compare.name}"
    made: list[CacheLock] = []
    for standing in behind:
        if standing is None:
            made.append(cache_lock(app, slot, found, against))
        elif (passed := await passed_on(app, slot, compare, standing, dataset)) is not None:
            made.append(cache_lock(app, slot, found, against, standing.name, passed))
    return made


def _comparable(app: App, slot: Slot[..., Any], dataset: Dataset) -> list[_Asked]:
    """The calls that can be compared by meaning, with answers of the model that is asked where nothing is remembered."""
    entry, contract = app.workspace.slot_config(slot.id), slot.contract
    label, _ = app.binding(slot.id, slot.tier, contract.sha256, slot.checks_sha256).models[0]
    found: list[_Asked] = []
    for part, examples in dataset.parts.items():
        for example in examples:
            question = question_of(contract, example.input)
            known = example.corrected or example.teacher == label
            if question is None or not known or (entry.personal and example.person is None):
                continue
            scope = compact_json([question.exact, example.person if entry.personal else None])
            found.append(_Asked(example, part, question, scope))
    return found


def _prediction(contract: Contract, example: Example, output: Any, likeness: float) -> Prediction:
    try:
        contract.validate(output, contract.load(example.input))
        valid = True
    except ValueError:
        valid = False
    return Prediction(
        "cache",
        example.key,
        example.input,
        output if valid else None,
        valid,
        example.output,
        "cache",
        None,
        None,
        None,
        signals={"likeness": likeness},
    )
