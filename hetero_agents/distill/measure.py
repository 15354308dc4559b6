"""Everybody who could fill a slot answers its held-out calls, on the engine that will serve the specialist; each answer is kept."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bindings import ModelConfig, Score, Specialist, SpecialistId
from ..contract import Contract
from ..engines import SERVER_SLOTS, Endpoint
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
    """Give the answers of teacher, plain code, specialist, base and the slot's occupant to the test part.

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
    from pydantic_ai.models.openai import OpenAIChatModelSettings  # half a second that no command should pay for

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
    settings = OpenAIChatModelSettings(max_tokens=specialist.max_tokens, openai_logprobs=False)
    base = Endpoint(plain.model, bare_json=True, settings=settings)
    contestants: list[tuple[str, Endpoint, Sequence[Example], int]] = [
        ("specialist", await app.engines.specialist(specialist_id, specialist, config), (), TIMED),
        ("base_grammar", base, (), 0),
        ("base_five_shot", base, shots_of(contract, dataset.parts["train"]), 0),
    ]
    if occupant := await _occupant(app, slot, specialist_id):
        contestants.append((*occupant, (), 0))
    done = read_predictions(folder / "predictions.jsonl")
    count, total = 0, len(contestants) * len(test)
    with append_lines(folder / "predictions.jsonl") as file:
        for phase, endpoint, shots, timed in contestants:
            # An answer stays what it was; what is right may have been corrected since.
            kept = [
                replace(done[phase, example.key], target=example.output)
                for example in test
                if (phase, example.key) in done
            ]
            for prediction in kept:
                yield prediction
            count += len(kept)
            missing = [example for example in test if (phase, example.key) not in done]
            timed = max(0, timed - len(kept))
            if timed:  # the engine's start is not the time of a call
                async with aclosing(predict(phase, endpoint, contract, missing[:1])) as warm_up:
                    async for _ in warm_up:
                        pass
            # Those that go together are sorted: like prompts after each other, for the prompt cache.
            together = sorted(missing[timed:], key=lambda e: str(contract.messages(contract.load(e.input))))
            # Long prompts are no faster together: each server slot would read the shots for itself.
            for examples, at_once in ((missing[:timed], 1), (together, 1 if shots else SERVER_SLOTS)):
                asked = predict(phase, endpoint, contract, examples, shots=shots, at_once=at_once)
                async with aclosing(asked):
                    async for prediction in asked:
                        file.write(prediction_line(prediction))
                        file.flush()
                        count += 1
                        progress(f"evaluate {phase}", count, total)
                        yield prediction


async def _occupant(app: App, slot: Slot[..., Any], specialist_id: SpecialistId) -> tuple[str, Endpoint] | None:
    """The specialist that fills the slot now, where there is another than the new one and it can be asked."""
    try:
        link = app.chain(app.binding(slot.id, slot.tier, slot.contract.sha256))[0]
        if link.specialist and link.specialist != specialist_id:
            return link.specialist, await link.open()
    except HeteroError as error:  # it is to be replaced: what is wrong with it must not stand in the way
        _log.warning("The specialist that fills %s now is not measured: %s", slot.id, error)
    return None


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
