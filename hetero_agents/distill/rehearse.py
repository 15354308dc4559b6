"""A specialist's error budget: its answers to the parts that were kept for it, and the policy that keeps most of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_ai.exceptions import ModelRetry

from ..bindings import Certificate, ModelConfig, Specialist, SpecialistId
from ..bindings.lock import slice_of
from ..engines import EMBEDDER
from ..errors import DistillError
from ..routing import CheckBroke, hold, lets, look
from ..slots import App, Slot
from .certify import Bin, Tried, certify, hopeless, promise, reliability
from .curate import Dataset, Example, Part
from .evaluate import Prediction, in_order, read_predictions, voted_again
from .intervals import wilson
from .measure import Contestant, answers_of
from .router import Costs, fit_router, routed
from .specialise import Progress

if TYPE_CHECKING:
    from .compare import Comparator


class Way(NamedTuple):
    """How a specialist is asked."""

    samples: int = 1
    by_field: bool = False
    verified: bool = False
    """Samples that the slot's checks refuse have no vote."""


VOTES = (3, 5, 9, 17)
"""Numbers of samples that are tried beside one, up to what the slot allows."""

WITHOUT_LOGPROBS = 5
"""Samples where an engine gives no log-probabilities."""

AT_ONCE = 64
"""Texts that are embedded before it is said how far it is."""

LOOKED = 8
"""Inputs that are embedded one at a time, for the time that a look takes."""


@dataclass(frozen=True)
class Rehearsal:
    """A specialist that can be asked before it fills its slot."""

    app: App
    slot: Slot[..., Any]
    config: ModelConfig
    """The base's entry in `[models]`."""
    specialist_id: SpecialistId
    specialist: Specialist
    folder: Path
    """Where answers are kept; those that are there are not asked for again."""
    progress: Progress

    async def answers(self, examples: Sequence[Example], way: Way) -> list[Prediction]:
        """Return its answers in the examples' order."""
        phase = phase_of(way.samples)
        endpoint = await self.app.engines.specialist(self.specialist_id, self.specialist, self.config)
        found: list[Prediction] = []
        contestant = Contestant(phase, endpoint, samples=way.samples)
        async for prediction in answers_of(contestant, self.slot.contract, examples, self.folder):
            found.append(prediction)
            self.progress(f"certify {phase}", len(found), len(examples))
        return await _voted(self.slot, in_order(found, examples), way)


async def tried_of(
    slot: Slot[..., Any],
    compare: Comparator,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    by: str | None = None,
) -> list[Tried]:
    """Return what became of a specialist's answers: right or wrong, refused by contract or checks or not.

    Args:
        slot: the slot.
        compare: when an answer is wrong.
        examples: the calls.
        predictions: the answers, in the same order.
        by: the parameter for each of whose values the error budget is shown on its own.

    Raises:
        DistillError: a check failed itself.
    """
    return [
        Tried(
            e.cluster or e.key,
            p.signals,
            (p.value or 0.0) < 1.0,
            not p.valid or not await _holds(slot, p.input, p.output),
            slice_of(e.input, by),
        )
        for e, p in zip(examples, await compare.values(predictions), strict=True)
    ]


async def _voted(slot: Slot[..., Any], predictions: Sequence[Prediction], way: Way) -> list[Prediction]:
    """The answers that a way of voting gives, from the same samples."""
    if not way.by_field and not way.verified:
        return list(predictions)
    found: list[Prediction] = []
    for p in predictions:
        drawn = list(enumerate(p.drawn)) if way.verified else []
        without = {number for number, each in drawn if each and not await _holds(slot, p.input, each[0])}
        found.append(voted_again(slot.contract, p, by_field=way.by_field, without=without))
    return found


async def _holds(slot: Slot[..., Any], values: Mapping[str, Any], output: Any) -> bool:
    arguments = slot.contract.load(values)
    try:
        await hold(slot.checks_apart, slot.contract.validate(output, arguments), arguments)
    except ModelRetry:
        return False
    except CheckBroke as broke:
        raise DistillError(f"A check of slot {slot.id!r} failed itself: {broke.error}") from broke.error
    return True


async def remembered(
    app: App, slot: Slot[..., Any], compare: Comparator, specialist: Specialist, folder: Path, dataset: Dataset
) -> dict[Part, list[Tried]]:
    """Return what became of the answers that a specialist gave to held-out calls, part by part, behind its router; nobody is asked.

    Args:
        app: the workspace.
        slot: the slot.
        compare: when an answer is wrong.
        specialist: its entry in the lock.
        folder: where it was made.
        dataset: its data.

    Raises:
        EngineError, MissingExtraError: it has a router, and no embeddings can be had.
    """
    answers = read_predictions(folder / "predictions.jsonl")
    by = app.workspace.slot_config(slot.id).error_budget_by
    shown = specialist.certificate
    router = shown.router if shown else None
    way = Way(shown.samples, shown.by_field, shown.verified) if shown else Way()
    phase = phase_of(way.samples)
    found: dict[Part, list[Tried]] = {}
    for part in ("select", "certify", "test"):
        examples = dataset.parts[part]
        given = [replace(answers[phase, e.key], target=e.output) for e in examples if (phase, e.key) in answers]
        if examples and len(given) == len(examples):
            found[part] = await tried_of(slot, compare, examples, await _voted(slot, given, way), by)
            if router:
                found[part] = routed(router, found[part], await look_at(app, slot, [e.input for e in examples]))
    return found


async def look_at(
    app: App, slot: Slot[..., Any], inputs: Sequence[Mapping[str, Any]], progress: Progress | None = None
) -> list[list[float]]:
    """Return the embedding of each input, as routers look at it.

    Raises:
        EngineError, MissingExtraError: no embeddings can be had.
    """
    texts = [look(slot.contract, values) for values in inputs]
    found = await embedded(app, texts, progress)
    return [found[text] for text in texts]


async def embedded(app: App, texts: Iterable[str], progress: Progress | None = None) -> dict[str, list[float]]:
    """Return the embedding of each text, some at a time, so that it can be said how far it is.

    Raises:
        EngineError, MissingExtraError: no embeddings can be had.
    """
    distinct, found = list(dict.fromkeys(texts)), dict[str, list[float]]()
    for start in range(0, len(distinct), AT_ONCE):
        some = distinct[start : start + AT_ONCE]
        found.update(zip(some, await app.engines.embed(some), strict=True))
        if progress:
            progress("embed", len(found), len(distinct))
    return found


def phase_of(samples: int) -> str:
    """Return under which name a specialist's answers are kept, each voted from so many samples."""
    return "specialist" if samples == 1 else f"specialist_votes_{samples}"


async def certified(
    ask: Rehearsal, dataset: Dataset, compare: Comparator, on_test: Sequence[Prediction]
) -> tuple[Certificate, list[Bin]]:
    """Find the policy that keeps most of the select part, and certify it; return the certificate and how reliable its figures are.

    Args:
        ask: the specialist.
        dataset: its parts.
        compare: when an answer is wrong.
        on_test: the specialist's answers to the test part, one sample each, in its order.
    """
    entry = ask.app.workspace.slot_config(ask.slot.id)
    assert entry.error_budget is not None
    parts, by = dataset.parts, entry.error_budget_by

    async def tried(part: Part, way: Way) -> list[Tried]:
        return await tried_of(ask.slot, compare, parts[part], await ask.answers(parts[part], way), by)

    once = await tried("select", Way())
    on_select, most = {Way(): once}, 1 if ask.specialist.matcher else entry.samples  # it answers the same each time
    if most < WITHOUT_LOGPROBS and all(t.signals is None for t in once if not t.refused):
        most = WITHOUT_LOGPROBS  # agreement is all that can be known
    verified = (False, True) if ask.slot.checks_apart else (False,)
    for samples, by_verifier, by_field in product((n for n in VOTES if n <= most), verified, (False, True)):
        way = Way(samples, by_field, by_verifier)
        on_select[way] = await tried("select", way)
    calls = len({e.cluster or e.key for e in parts["certify"]})
    # Among equals the fewest samples, which come first, and of those the vote of all on whole answers.
    taken = max(on_select, key=lambda way: promise(on_select[way], calls, entry.error_budget or 0, entry.shown_with))
    chosen, tested = on_select[taken], await tried("test", taken)
    router, unrouted, asked = None, None, None
    if entry.router:
        seen = await look_at(ask.app, ask.slot, [e.input for e in parts["select"]], ask.progress)
        costs = await _costs(ask, on_test)
        fitted = fit_router(chosen, seen, calls, entry.error_budget, entry.shown_with, embedder=EMBEDDER, costs=costs)
        router, unrouted = (None, fitted) if isinstance(fitted, str) else (fitted, None)
        if router:
            chosen = routed(router, chosen, seen)
            seen = await look_at(ask.app, ask.slot, [e.input for e in parts["test"]], ask.progress)
            tested = routed(router, tested, seen)
            asked = wilson(sum(lets(router, vector) for vector in seen), len(seen))
    apart: list[Tried] | int = calls
    if not hopeless(chosen, calls, entry.error_budget, entry.shown_with):
        apart = await tried("certify", taken)
        if router:
            apart = routed(router, apart, await look_at(ask.app, ask.slot, [e.input for e in parts["certify"]]))
    corrected = sum(e.corrected for e in parts["certify"])
    against = f"answers of {dataset.teacher}" + (
        f", {corrected} of {len(parts['certify'])} corrected" if corrected else ""
    )
    certificate = certify(
        chosen,
        apart,
        tested,
        error_budget=entry.error_budget,
        confidence=entry.shown_with,
        samples=taken.samples,
        against=f"{against}; right: {compare.name}",
        checks_sha256=ask.slot.checks_sha256,
        compare=entry.measure,
        by=by,
    )
    told = {**taken._asdict(), "router": router, "unrouted": unrouted, "asked": asked}
    certificate = certificate.model_copy(update=told)
    return certificate, reliability(certificate.calibrator, tested)


async def _costs(ask: Rehearsal, on_test: Sequence[Prediction]) -> Costs | None:
    """What a call of the specialist and a look at an input take here; None where no call was timed."""
    times = [p.seconds for p in on_test if p.seconds is not None]
    if not times:
        return None
    taken: list[float] = []
    for prediction in on_test[:LOOKED]:
        started = time.perf_counter()
        await look_at(ask.app, ask.slot, [prediction.input])
        taken.append(time.perf_counter() - started)
    return Costs(call=median(times), look=median(taken))
