"""A specialist's error budget: its answers to the parts that were kept for it, and the policy that keeps most of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_ai.exceptions import ModelRetry

from ..bindings import Certificate, ModelConfig, Specialist, SpecialistId
from ..errors import DistillError
from ..routing import CheckBroke, hold
from ..slots import App, Slot
from .certify import Bin, Tried, certify, hopeless, promise, reliability
from .curate import Dataset, Example, Part
from .evaluate import Prediction, in_order, read_predictions
from .measure import Contestant, answers_of
from .specialise import Progress

if TYPE_CHECKING:
    from .compare import Comparator

VOTES = (3, 5, 9, 17)
"""Numbers of samples that are tried beside one, up to what the slot allows."""

WITHOUT_LOGPROBS = 5
"""Samples where an engine gives no log-probabilities."""


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

    async def answers(self, examples: Sequence[Example], samples: int) -> list[Prediction]:
        """Return its answers in the examples' order, each voted from so many samples."""
        phase = phase_of(samples)
        endpoint = await self.app.engines.specialist(self.specialist_id, self.specialist, self.config)
        found: list[Prediction] = []
        contestant = Contestant(phase, endpoint, samples=samples)
        async for prediction in answers_of(contestant, self.slot.contract, examples, self.folder):
            found.append(prediction)
            self.progress(f"certify {phase}", len(found), len(examples))
        return in_order(found, examples)


async def tried_of(
    slot: Slot[..., Any], compare: Comparator, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> list[Tried]:
    """Return what became of a specialist's answers: right or wrong, refused by contract or checks or not.

    Args:
        slot: the slot.
        compare: when an answer is wrong.
        examples: the calls.
        predictions: the answers, in the same order.

    Raises:
        DistillError: a check failed itself.
    """
    return [
        Tried(e.cluster or e.key, p.signals, (p.value or 0.0) < 1.0, not p.valid or not await _holds(slot, p))
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
    slot: Slot[..., Any], compare: Comparator, specialist: Specialist, folder: Path, dataset: Dataset
) -> dict[Part, list[Tried]]:
    """Return what became of the answers that a specialist gave to held-out calls, part by part; nobody is asked.

    Args:
        slot: the slot.
        compare: when an answer is wrong.
        specialist: its entry in the lock.
        folder: where it was made.
        dataset: its data.
    """
    answers = read_predictions(folder / "predictions.jsonl")
    phase = phase_of(specialist.certificate.samples if specialist.certificate else 1)
    found: dict[Part, list[Tried]] = {}
    for part in ("select", "certify", "test"):
        examples = dataset.parts[part]
        given = [replace(answers[phase, e.key], target=e.output) for e in examples if (phase, e.key) in answers]
        if examples and len(given) == len(examples):
            found[part] = await tried_of(slot, compare, examples, given)
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
    parts = dataset.parts

    async def select(samples: int) -> list[Tried]:
        return await tried_of(ask.slot, compare, parts["select"], await ask.answers(parts["select"], samples))

    on_select, most = {1: await select(1)}, entry.samples
    if most < WITHOUT_LOGPROBS and all(t.signals is None for t in on_select[1] if not t.refused):
        most = WITHOUT_LOGPROBS  # agreement is all that can be known
    on_select |= {n: await select(n) for n in VOTES if n <= most}
    calls = len({e.cluster or e.key for e in parts["certify"]})
    # Among equals the fewest samples, which come first.
    samples = max(on_select, key=lambda n: promise(on_select[n], calls, entry.error_budget or 0, entry.shown_with))
    test = on_test if samples == 1 else await ask.answers(parts["test"], samples)
    apart: list[Tried] | int = calls
    if not hopeless(on_select[samples], calls, entry.error_budget, entry.shown_with):
        given = await ask.answers(parts["certify"], samples)
        apart = await tried_of(ask.slot, compare, parts["certify"], given)
    tested = await tried_of(ask.slot, compare, parts["test"], test)
    corrected = sum(e.corrected for e in parts["certify"])
    against = f"answers of {dataset.teacher}" + (
        f", {corrected} of {len(parts['certify'])} corrected" if corrected else ""
    )
    certificate = certify(
        on_select[samples],
        apart,
        tested,
        error_budget=entry.error_budget,
        confidence=entry.shown_with,
        samples=samples,
        against=f"{against}; right: {compare.name}",
        checks_sha256=ask.slot.checks_sha256,
        compare=entry.measure,
    )
    return certificate, reliability(certificate.calibrator, tested)
