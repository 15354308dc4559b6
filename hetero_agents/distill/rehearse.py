"""A specialist's error budget: its answers to the parts that were kept for it, and the policy that keeps most of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pydantic_ai.exceptions import ModelRetry

from ..bindings import Certificate, ModelConfig, Specialist, SpecialistId
from ..bindings.lock import slice_of
from ..engines import EMBEDDER
from ..errors import DistillError
from ..routing import CheckBroke, hold, lets, look
from ..slots import App, Slot
from .certify import Bin, Tried, certify, hopeless, promise, reliability
from .curate import Dataset, Example, Part
from .evaluate import Prediction, in_order, read_predictions, voted_by_field
from .intervals import wilson
from .measure import Contestant, answers_of
from .router import Costs, fit_router, routed
from .specialise import Progress

if TYPE_CHECKING:
    from .compare import Comparator

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

    async def answers(self, examples: Sequence[Example], samples: int, *, by_field: bool = False) -> list[Prediction]:
        """Return its answers in the examples' order, each voted from so many samples, as wholes or field by field."""
        phase = phase_of(samples)
        endpoint = await self.app.engines.specialist(self.specialist_id, self.specialist, self.config)
        found: list[Prediction] = []
        contestant = Contestant(phase, endpoint, samples=samples)
        async for prediction in answers_of(contestant, self.slot.contract, examples, self.folder):
            found.append(prediction)
            self.progress(f"certify {phase}", len(found), len(examples))
        ordered = in_order(found, examples)
        return [voted_by_field(self.slot.contract, p) for p in ordered] if by_field else ordered


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
            not p.valid or not await _holds(slot, p),
            slice_of(e.input, by),
        )
        for e, p in zip(examples, await compare.values(predictions), strict=True)
    ]


async def _holds(slot: Slot[..., Any], prediction: Prediction) -> bool:
    arguments = slot.contract.load(prediction.input)
    try:
        await hold(slot.checks_apart, slot.contract.validate(prediction.output, arguments), arguments)
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
    router = specialist.certificate.router if specialist.certificate else None
    phase = phase_of(specialist.certificate.samples if specialist.certificate else 1)
    found: dict[Part, list[Tried]] = {}
    for part in ("select", "certify", "test"):
        examples = dataset.parts[part]
        given = [replace(answers[phase, e.key], target=e.output) for e in examples if (phase, e.key) in answers]
        if examples and len(given) == len(examples):
            if specialist.certificate and specialist.certificate.by_field:
                given = [voted_by_field(slot.contract, prediction) for prediction in given]
            found[part] = await tried_of(slot, compare, examples, given, by)
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

    async def tried(part: Part, samples: int, by_field: bool) -> list[Tried]:
        given = await ask.answers(parts[part], samples, by_field=by_field)
        return await tried_of(ask.slot, compare, parts[part], given, by)

    on_select, most = {(1, False): await tried("select", 1, False)}, entry.samples
    if most < WITHOUT_LOGPROBS and all(t.signals is None for t in on_select[1, False] if not t.refused):
        most = WITHOUT_LOGPROBS  # agreement is all that can be known
    on_select |= {(n, way): await tried("select", n, way) for n in VOTES if n <= most for way in (False, True)}
    calls = len({e.cluster or e.key for e in parts["certify"]})
    # Among equals the fewest samples, which come first, and of those the vote on whole answers.
    samples, by_field = max(
        on_select, key=lambda way: promise(on_select[way], calls, entry.error_budget or 0, entry.shown_with)
    )
    chosen, tested = on_select[samples, by_field], await tried("test", samples, by_field)
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
        apart = await tried("certify", samples, by_field)
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
        samples=samples,
        against=f"{against}; right: {compare.name}",
        checks_sha256=ask.slot.checks_sha256,
        compare=entry.measure,
        by=by,
    ).model_copy(update={"by_field": by_field, "router": router, "unrouted": unrouted, "asked": asked})
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
