"""`hetero distill SLOT`: from spans to a candidate in `hetero.lock`, step by step, each kept so that a killed run goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from filecmp import cmpfiles
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bindings import CacheLock, Certificate, Score, Specialist, SpecialistId
from ..bindings.lock import exclusive, shared, slice_of
from ..contract import Contract
from ..errors import ConfigError, DistillError, MissingExtraError, UnknownNameError
from ..slots import App, Slot
from ..spans import calls_of
from .canaries import CHANCE, Exposure
from .certify import Bin
from .curate import BUDGET_SHARES, MOST_CLASSES, ROUTED_SHARES, SHARES, Dataset, curate, split_text
from .evaluate import Prediction, grounded, in_order
from .imported import imported_calls
from .intervals import Paired, paired
from .lineage import dataset_of
from .meaning import Standing, certify_caches
from .measure import contest, scores_of
from .recipe import Recipe
from .rehearse import Rehearsal, certified
from .select import BakeOff, bake_off
from .shadows import exposure_of
from .slices import Slice, slices
from .specialise import Progress, base_of, specialise, teacher_of
from .train import Trained

if TYPE_CHECKING:
    from .compare import Comparator


@dataclass(frozen=True)
class Distilled:
    """A candidate and everything that was measured of it."""

    specialist_id: SpecialistId
    specialist: Specialist
    predictions: list[Prediction]
    """Every contestant's answers on the test part, contestant by contestant, each in the test part's order."""
    dataset: Dataset
    trained: Trained
    slices: list[Slice]
    """The specialist's scores on parts of the test part."""
    grounded: Score
    """The specialist's texts that are copied from the input, where the truth's are."""
    bake_off: BakeOff | None
    """How the base was chosen, where there was a choice."""
    reliability: list[Bin]
    """How often answers of the test part are right by how sure they are, where the slot has an error budget."""
    caches: list[CacheLock]
    """What the slot's cache may answer by meaning, where it has one and an error budget."""
    reused: bool
    """The same data, base, recipe and contract had been distilled before."""

    @property
    def differences(self) -> dict[str, Paired]:
        """What the specialist has over each other contestant, on the same calls."""
        values: dict[str, list[float]] = {}
        for p in self.predictions:
            values.setdefault(p.phase, []).append(p.value or 0.0)
        mine = values.pop("specialist")
        return {phase: paired(mine, theirs) for phase, theirs in values.items()}


async def distill(
    app: App,
    slot: Slot[..., Any],
    *,
    base: str | None = None,
    candidates: Sequence[str] = (),
    recipe: Recipe | None = None,
    canaries: int = 0,
    progress: Progress,
) -> Distilled:
    """Curate, select a base, train, convert and evaluate; write a candidate into the lock.

    Steps that an interrupted run finished are not done again.

    Args:
        app: the workspace.
        slot: what to distil.
        base: a name in `[models]`; the slm tier's model where None.
        candidates: names in `[models]` among which a bake-off on the select part chooses the base.
        recipe: how to train.
        canaries: secrets with which shadows of this training are tested for what they remember; none where 0.
        progress: called as steps go on.

    Raises:
        DistillError: no usable data, or too little; or the recipe remembers secrets of this data.
        ConfigError: the base is not one that can be trained and served.
    """
    with alone_with_data(app, slot):
        return await _distill(app, slot, base, candidates, recipe or Recipe(), canaries, progress)


@contextmanager
def alone_with_data(app: App, slot: Slot[..., Any]) -> Generator[None]:
    """Keep all others from a slot's data meanwhile, `hetero forget` too: what was read of it is in memory.

    Raises:
        DistillError: another process works with it.
    """
    folder = app.workspace.ensure_state_dir() / "distill"
    with ExitStack() as held:
        try:
            held.enter_context(shared(folder / ".flock"))
        except BlockingIOError as error:
            raise DistillError("A person is being forgotten; try again when that is done.") from error
        try:
            held.enter_context(exclusive(folder / slot.id / ".flock", wait=False))
        except BlockingIOError as error:
            raise DistillError(
                f"Slot {slot.id!r} is being distilled or relabelled by another process; wait for it, or stop it: nothing of it is lost."
            ) from error
        yield


async def _distill(
    app: App,
    slot: Slot[..., Any],
    base: str | None,
    candidates: Sequence[str],
    recipe: Recipe,
    canaries: int,
    progress: Progress,
) -> Distilled:
    contract, entry = slot.contract, app.workspace.slot_config(slot.id)
    bases = [base_of(app, name) for name in dict.fromkeys(candidates)] or [base_of(app, base)]
    if canaries and any(one.weights.embeds for one in bases):
        raise ConfigError(
            "A model of embeddings writes nothing, so no planted secret can be read out of it: leave --canaries out."
        )
    if any(one.weights.embeds for one in bases) and not contract.chooses:
        raise ConfigError(
            f"Slot {slot.id!r} does not choose by texts among answers that are few and known (OneOf, an enum, bool), as a model of embeddings can; take a base that writes."
        )
    compare = await comparator_of(app, slot)
    dataset = curated(app, slot)
    progress("curate", 1, 1)
    chosen = None
    if candidates:
        chosen = await bake_off(app, contract, dataset, bases, recipe, compare, progress)
        bases = [next(b for b in bases if b.name == chosen.winner)]
    made = await specialise(app, contract, dataset, bases[0], recipe, progress)
    specialist = made.specialist.model_copy(update={"compared_by": compare.name})
    if canaries:
        teacher = teacher_of(recipe, app.workspace)
        found = await exposure_of(contract, dataset, bases[0].weights, recipe, canaries, made.folder, teacher, progress)
        if found.leaks:
            raise DistillError(_refusal(slot.id, found, _existing(app, specialist)))
        specialist = specialist.model_copy(update={"exposure": {**asdict(found), "asked": canaries}})
    existing = _existing(app, specialist)
    specialist_id = existing or app.workspace.lock.next_id(slot.id)
    shipped = {"adapter": f"specialists/{specialist_id}"}
    home = app.workspace.root / shipped["adapter"]
    if existing:
        before = app.workspace.lock.specialists[existing]
        specialist = before.model_copy(update={"exposure": specialist.exposure or before.exposure})
        if specialist != before:
            app.workspace.add_specialist(existing, specialist)
        _copy_whole(made.folder / "adapter", home)
    elif not specialist.base.startswith("local:"):  # a server reads it there
        _copy_whole(made.folder / "adapter", home)
        specialist = specialist.model_copy(update=shipped)
    answers = contest(app, slot, dataset, bases[0].config, specialist_id, specialist, made.folder, progress)
    predictions = await compare.values(in_order([p async for p in answers], dataset.parts["test"]))
    if not existing:
        agreement = await compare.agreement([p for p in predictions if p.phase == "teacher"])
        measured = {"scores": scores_of(predictions), "judge_agreement": agreement}
        specialist = specialist.model_copy(update={**shipped, **measured})
        # In this order: a matcher's file holds answers, and what stands in no lock nobody would forget. Cut off between, the next time copies it.
        app.workspace.add_specialist(specialist_id, specialist)
        _copy_whole(made.folder / "adapter", home)
    mine = [p for p in predictions if p.phase == "specialist"]
    bins: list[Bin] = []
    if entry.error_budget is not None:
        ask = Rehearsal(app, slot, bases[0].config, specialist_id, specialist, made.folder, progress)
        certificate, bins = await certified(ask, dataset, compare, mine)
        before = specialist.certificate
        if before is None or _shown(certificate) != _shown(before):
            specialist = specialist.model_copy(update={"certificate": certificate})
            app.workspace.add_specialist(specialist_id, specialist)
            app.state.forget_evidence(specialist_id)
    corners = slices(mine, [split_text(contract, p.input, entry.split_by) for p in mine])
    caches: list[CacheLock] = []
    if entry.error_budget is not None and entry.cache == "semantic" and contract.free_texts:
        behind = [None, Standing(specialist_id, specialist, made.folder)]
        caches = await certify_caches(app, slot, dataset, compare, progress, behind)
    copied, reused = grounded(contract, mine), existing is not None
    return Distilled(
        specialist_id, specialist, predictions, dataset, made.trained, corners, copied, chosen, bins, caches, reused
    )


def check_cache(app: App, slot: Slot[..., Any]) -> None:
    """Check that `hetero.toml` gives a slot a cache by meaning that can be certified.

    Raises:
        ConfigError: it has none, or no error budget.
    """
    entry = app.workspace.slot_config(slot.id)
    if entry.cache != "semantic" or entry.error_budget is None:
        raise ConfigError(
            f'Slot {slot.id!r} has no cache by meaning to certify: give [slots."{slot.id}"] cache = "semantic" and an error_budget.'
        )


async def certify_cache(app: App, slot: Slot[..., Any], *, progress: Progress) -> list[CacheLock]:
    """Certify what a slot's cache may answer by meaning, without any training; write it into the lock.

    It is shown for all calls, and for those that the slot's specialist passes on, where there is one with an error budget of its own.

    Args:
        app: the workspace.
        slot: the slot.
        progress: called as steps go on.

    Raises:
        ConfigError: the slot has no cache by meaning or no error budget.
        DistillError: no usable data, or too little; no parameter of the slot is free text; or another process works with its data.
        EngineError: there are no embeddings.
    """
    check_cache(app, slot)
    contract = slot.contract
    compare = await comparator_of(app, slot)
    with alone_with_data(app, slot):
        made = await certify_caches(app, slot, curated(app, slot), compare, progress, [None])
        binding = app.binding(slot.id, slot.tier, contract.sha256, slot.checks_sha256)
        for name, specialist in ((binding.specialist_id, binding.specialist), (binding.coming, binding.coming_entry)):
            if name and specialist and (found := dataset_of(app.workspace, specialist)) is not None:
                behind = [Standing(name, specialist, found[0].parent)]
                made += await certify_caches(app, slot, found[1], compare, progress, behind)
    return made


def curated(app: App, slot: Slot[..., Any]) -> Dataset:
    """Return what a slot's calls in the vault give to learn from now (step S2).

    Raises:
        DistillError: the slot talks to a human; too few examples, or one answer to all of them; or too many values of `error_budget_by`.
    """
    app.tracing.flush()
    contract, entry = slot.contract, app.workspace.slot_config(slot.id)
    check_learnt(app, slot)
    calls = calls_of(app.vault, slot.id)
    if entry.imported_from:
        others = imported_calls(app.vault, contract, entry.imported_from, app.workspace.config.models)
        calls = chain(calls, others)
    dataset = curate(
        calls,
        contract,
        split_by=entry.split_by,
        keep_together=entry.keep_together,
        shares=SHARES if entry.error_budget is None else ROUTED_SHARES if entry.router else BUDGET_SHARES,
        hci_allowed=entry.hci is False,
    )
    if (by := entry.error_budget_by) is not None:
        _check_slices(contract, by, {slice_of(e.input, by) for part in dataset.parts.values() for e in part})
    return dataset


def _check_slices(contract: Contract, by: str, values: Collection[str]) -> None:
    """Refuse a parameter by which no error budget can be shown."""
    sent = [name for name, parameter in contract.parameters.items() if parameter.kind == "value"]
    if by not in sent:
        raise UnknownNameError("parameter", by, sent, hint="error_budget_by names a parameter of the slot that is sent")
    if len(values) > MOST_CLASSES:
        raise DistillError(
            f"The error budget of slot {contract.slot!r} cannot be shown for each value of {by!r}: it has {len(values)} of them; name a parameter with at most {MOST_CLASSES}."
        )


def check_learnt(app: App, slot: Slot[..., Any]) -> None:
    """Check that a slot's calls may be learnt from.

    Raises:
        DistillError: it talks to a human.
    """
    entry = app.workspace.slot_config(slot.id)
    if slot.hci if entry.hci is None else entry.hci:
        raise DistillError(
            f'Slot {slot.id!r} talks to a human (hci), so it is not distilled; [slots."{slot.id}"] hci = false opts in.'
        )


def _refusal(slot: str, found: Exposure, existing: SpecialistId | None) -> str:
    """Why a recipe is refused for its data."""
    if found.extracted:
        what = f"{found.extracted} of {found.canaries} planted secrets could be read out of it"
    else:
        what = f"planted secrets are exposed by {found.bits:.2f} bits in the mean, above {found.threshold:g} (chance is {CHANCE:.2f})"
    done = f"{existing} is such a training: take it out of use" if existing else "Nothing was written"
    return (
        f"The recipe puts secrets of the data of slot {slot!r} into the weights: {what}. {done}; "
        "train fewer epochs, with a lower rank or rate, on data without repeats."
    )


async def comparator_of(app: App, slot: Slot[..., Any]) -> Comparator:
    """Return when a slot's answer is right; opened before the work, so that a judge that cannot be had is said first.

    Raises:
        ConfigError: `compare` needs a judge that is not there.
        MissingExtraError: `[distill]` is not installed.
    """
    try:
        from .compare import comparator
    except ImportError as error:
        raise MissingExtraError("Distilling", "distill") from error
    entry, judge = app.workspace.slot_config(slot.id), None
    if slot.comparison is None and entry.judge:
        judge = (await app.engines.endpoint(app.workspace.model(entry.judge), slot.id)).model
    folder = app.workspace.ensure_state_dir() / "distill" / slot.id
    return comparator(slot.contract, entry, slot.comparison, judge, folder)


def _shown(certificate: Certificate) -> dict[str, Any]:
    """What a certificate says, without the last digits of a router, in which embeddings of one text may differ."""
    return certificate.model_dump(exclude={"created": True, "router": {"bias", "weights", "level"}})


def _existing(app: App, made: Specialist) -> SpecialistId | None:
    """The specialist that is the same work: same weights on the same base, measured on the same data."""
    own = {"adapter", "scores", "judge_agreement", "certificate", "exposure", "created", "train_seconds", "privacy"}
    same = made.model_dump(exclude=own)
    entries = app.workspace.lock.of_slot(made.slot).items()
    return next((name for name, entry in entries if entry.model_dump(exclude=own) == same), None)


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, unless all of it is there."""
    _, other, missing = cmpfiles(source, target, os.listdir(source), shallow=False)
    if not other and not missing:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
