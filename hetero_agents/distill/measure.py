"""Everybody who could fill a slot answers its held-out calls, on the engine that will serve the specialist; each answer is kept."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.settings import ModelSettings

from ..bindings import ModelConfig, Score, Specialist, SpecialistId
from ..bindings.lock import write_atomically
from ..contract import Contract, sha256_of
from ..engines import SERVER_SLOTS, Endpoint
from ..engines.matcher import MatcherModel, read_matcher
from ..errors import HeteroError
from ..slots import App, Slot
from .curate import Dataset, Example
from .evaluate import (
    FIVE,
    TIMED,
    Prediction,
    append_lines,
    plain_code,
    predict,
    prediction_line,
    read_predictions,
    score,
)
from .matcher import HOW, MATCHER, fit_matcher
from .specialise import Progress

_log = logging.getLogger("hetero_agents")


async def contest(
    app: App,
    slot: Slot[..., Any],
    dataset: Dataset,
    config: ModelConfig,
    specialist_id: SpecialistId,
    specialist: Specialist,
    folder: Path,
    progress: Progress,
) -> AsyncIterator[Prediction]:
    """Give the answers of teacher, plain code, specialist, base, a matcher and the slot's occupant to the test part.

    Args:
        app: the workspace.
        slot: the slot.
        dataset: its data.
        config: the base's entry in `[models]`.
        specialist_id: the new specialist's id.
        specialist: its entry for the lock.
        folder: where answers are kept; those that are there are not asked for again.
        progress: called with each answer.
    """
    contract, test = slot.contract, dataset.parts["test"]
    for example in test:
        yield Prediction(
            "teacher",
            example.key,
            example.input,
            example.output,
            True,
            example.output,
            example.teacher,
            None,
            None,
            None,
        )
    for prediction in plain_code(contract, dataset.parts["train"], test):
        yield prediction
    # The base may write answers as long as the specialist's: beyond that both are wrong anyway.
    plain = await app.engines.endpoint(config, slot.id)
    settings = ModelSettings(max_tokens=specialist.max_tokens)
    base = Endpoint(plain.model, bare_json=True, matches=plain.matches, settings=settings)
    mine = await app.engines.specialist(specialist_id, specialist, config)
    contestants = [Contestant("specialist", mine, timed=TIMED)]
    if specialist.matcher:
        contestants.append(Contestant("base_untaught", base))
    else:
        contestants += [
            Contestant("base_grammar", base),
            Contestant("base_five_shot", base, shots_of(contract, dataset.parts["train"])),
        ]
        if matcher := await _matcher(app, contract, dataset, folder):
            contestants.append(matcher)
    occupant = await _occupant(app, slot, specialist_id)
    count, total = 0, (len(contestants) + bool(occupant)) * len(test)
    for contestant in contestants:
        async for prediction in answers_of(contestant, contract, test, folder):
            count += 1
            progress(f"evaluate {contestant.phase}", count, total)
            yield prediction
    if occupant is None:
        return
    found = list[Prediction]()
    try:
        async for prediction in answers_of(occupant, contract, test, folder):
            found.append(prediction)
            progress(f"evaluate {occupant.phase}", count + len(found), total)
    except (HeteroError, ModelAPIError) as error:
        _not_measured(slot, error)
        return
    for prediction in found:
        yield prediction


@dataclass(frozen=True)
class Contestant:
    """Somebody who answers held-out calls."""

    phase: str
    endpoint: Endpoint
    shots: Sequence[Example] = ()
    timed: int = 0
    """Calls that are made one at a time, for the time that a call takes."""
    samples: int = 1
    """Answers that each call's is voted from."""


async def answers_of(
    contestant: Contestant, contract: Contract, examples: Sequence[Example], folder: Path
) -> AsyncIterator[Prediction]:
    """Give a contestant's answers, those first that were kept, and keep the others."""
    phase, endpoint, shots = contestant.phase, contestant.endpoint, contestant.shots
    done = read_predictions(folder / "predictions.jsonl")
    kept = [replace(done[phase, e.key], target=e.output) for e in examples if (phase, e.key) in done]
    for prediction in kept:  # an answer stays what it was; what is right may have been corrected since
        yield prediction
    missing = [example for example in examples if (phase, example.key) not in done]
    timed = max(0, contestant.timed - len(kept))
    if timed:  # the engine's start is not the time of a call
        async with aclosing(predict(phase, endpoint, contract, missing[:1])) as warm_up:
            async for _ in warm_up:
                pass
    # Those that go together are sorted: like prompts after each other, for the prompt cache.
    together = sorted(missing[timed:], key=lambda e: str(contract.messages(contract.load(e.input))))
    # Long prompts are no faster together: each server slot would read the shots for itself.
    at_once = 1 if shots else max(1, SERVER_SLOTS // contestant.samples)
    with append_lines(folder / "predictions.jsonl") as file:
        for some, in_flight in ((missing[:timed], 1), (together, at_once)):
            asked = predict(phase, endpoint, contract, some, shots=shots, at_once=in_flight, samples=contestant.samples)
            async with aclosing(asked):
                async for prediction in asked:
                    file.write(prediction_line(prediction))
                    file.flush()
                    yield prediction


async def _matcher(app: App, contract: Contract, dataset: Dataset, folder: Path) -> Contestant | None:
    """A matcher fitted to the train part; None where answers are not few and known, or no embeddings can be had, and one sentence says so."""
    if not contract.chooses:
        return None
    # Another way of fitting makes another rival; its answers are kept under the same name.
    file, done = folder / f"matcher-{sha256_of(HOW)[:8]}.json", read_predictions(folder / "predictions.jsonl")
    try:
        if not file.exists():
            made = await fit_matcher(app.engines.embed, contract, dataset.parts["train"])
            write_atomically(file, made.model_dump_json().encode())
        elif any((MATCHER, e.key) not in done for e in dataset.parts["test"]):
            await app.engines.embed([contract.slot])  # said here where none can be had, and not amidst the answers
        matcher = read_matcher(file)
    except HeteroError as error:
        _log.warning("No matcher is measured beside the specialist of %s: %s", contract.slot, error)
        return None
    model = MatcherModel(MATCHER, app.engines.embed, matcher)
    return Contestant(MATCHER, Endpoint(model, bare_json=True, matches=True))


async def _occupant(app: App, slot: Slot[..., Any], specialist_id: SpecialistId) -> Contestant | None:
    """The specialist that fills the slot now, where there is another than the new one and it can be asked."""
    try:
        link = app.chain(app.binding(slot.id, slot.tier, slot.contract.sha256, slot.checks_sha256))[0]
        if link.specialist and link.specialist != specialist_id:
            return Contestant(link.specialist, await link.open())
    except HeteroError as error:
        _not_measured(slot, error)
    return None


def _not_measured(slot: Slot[..., Any], error: Exception) -> None:
    """Say that the occupant cannot be asked; it is to be replaced: what is wrong with it must not stand in the way."""
    _log.warning("The specialist that fills %s now is not measured: %s", slot.id, error)


def shots_of(contract: Contract, train: Sequence[Example]) -> Sequence[Example]:
    """Return the first five examples that are no longer than most: five of the longest may not fit the context."""

    def length(example: Example) -> int:
        return len(str(contract.messages(contract.load(example.input))))

    middle = sorted(map(length, train))[len(train) // 2]
    return [example for example in train if length(example) <= middle][:FIVE]


def scores_of(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Return each contestant's score."""
    phases = dict.fromkeys(p.phase for p in predictions)
    return {phase: score([p for p in predictions if p.phase == phase]) for phase in phases}
