"""`hetero distill SLOT`: from spans to a candidate in `hetero.lock`, step by step, each kept so that a killed run goes on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from ..bindings import ModelConfig, Score, Specialist, SpecialistId
from ..bindings.lock import exclusive, write_atomically
from ..contract import Contract, sha256_of
from ..engines import SERVER_SLOTS, Endpoint
from ..engines.adapter import adapter_to_gguf
from ..engines.catalog import Weights, fetch_weights, find_weights, sha256_of_file, verified_sha256
from ..errors import ConfigError, DistillError, MissingExtraError
from ..slots import App, Slot
from ..spans import calls_of
from .curate import Dataset, Example, curate, split_text
from .evaluate import FIVE, TIMED, Prediction, in_order, plain_code, predict, prediction_line, read_predictions, score
from .imported import imported_calls
from .intervals import Paired, paired
from .recipe import Recipe
from .slices import Slice, slices
from .train import Job, Text, Trained, call_text
from .worker import train_aside

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done and what there is to do."""


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
    app: App, slot: Slot[..., Any], *, base: str | None = None, recipe: Recipe | None = None, progress: Progress
) -> Distilled:
    """Curate, train, convert and evaluate; write a candidate into the lock.

    Steps that an interrupted run finished are not done again.

    Args:
        app: the workspace.
        slot: what to distil.
        base: a name in `[models]`; the slm tier's model where None.
        recipe: how to train.
        progress: called as steps go on.

    Raises:
        DistillError: no usable data, or too little.
        ConfigError: the base is not one that can be trained and served.
    """
    lock = app.workspace.ensure_state_dir() / "distill" / slot.id / ".flock"
    try:
        with exclusive(lock, wait=False):
            return await _distill(app, slot, base, recipe or Recipe(), progress)
    except BlockingIOError as error:
        raise DistillError(
            f"Slot {slot.id!r} is being distilled by another process; wait for it, or stop it: nothing of it is lost."
        ) from error


async def _distill(app: App, slot: Slot[..., Any], base: str | None, recipe: Recipe, progress: Progress) -> Distilled:
    try:
        from .compare import comparator
    except ImportError as error:
        raise MissingExtraError("Distilling", "distill") from error
    config, weights = base_of(app, base)
    contract = slot.contract
    entry = app.workspace.slot_config(slot.id)
    judge = None
    if entry.compare == "judge" and entry.judge:  # opened first: a judge that cannot be had is said before the work
        judge = (await app.engines.endpoint(app.workspace.model(entry.judge), slot.id)).model
    app.tracing.flush()
    if slot.hci if entry.hci is None else entry.hci:
        raise DistillError(
            f'Slot {slot.id!r} talks to a human (hci), so it is not distilled; [slots."{slot.id}"] hci = false opts in.'
        )
    calls = calls_of(app.vault, slot.id)
    if entry.imported_from:
        others = imported_calls(app.vault, contract, entry.imported_from, app.workspace.config.models)
        calls = chain(calls, others)
    dataset = curate(calls, contract, split_by=entry.split_by, hci_allowed=entry.hci is False)
    progress("curate", 1, 1)
    gguf = await asyncio.to_thread(fetch_weights, weights)
    base_sha256 = verified_sha256(gguf)
    # The same training is found again; anything that changes its result starts anew.
    taught = [[example.key, example.output] for example in dataset.parts["train"]]
    key = sha256_of([taught, recipe.sha256, contract.sha256, config.model, base_sha256])
    folder = app.workspace.ensure_state_dir() / "distill" / slot.id / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "dataset.json", dataset.to_json().encode())
    compare = comparator(contract, entry, slot.comparison, judge, folder)

    baked = recipe.bake and contract.can_bake
    trained = await _train(weights, dataset, contract, recipe, baked, folder, progress)
    if not (folder / "adapter" / "adapter.gguf").exists():
        await asyncio.to_thread(adapter_to_gguf, folder / "adapter", gguf, folder / "adapter" / "adapter.gguf")

    made = Specialist(
        slot=slot.id,
        base=config.model,
        base_sha256=base_sha256,
        adapter="",
        adapter_sha256=sha256_of_file(folder / "adapter" / "adapter_model.safetensors"),
        gguf_sha256=sha256_of_file(folder / "adapter" / "adapter.gguf"),
        contract_sha256=contract.sha256,
        dataset_sha256=dataset.sha256,
        privacy=app.workspace.config.privacy.model_dump(),
        recipe=asdict(recipe),
        examples=trained.examples,
        train_seconds=round(trained.seconds, 1),
        teacher=dataset.teacher,
        scores={},
        max_tokens=trained.longest_answer + 16,
        baked=baked,
        compared_by=compare.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    existing = _existing(app, made)
    specialist_id = existing or app.workspace.lock.next_id(slot.id)
    if existing:
        specialist = app.workspace.lock.specialists[existing]
    else:
        home = app.workspace.root / "specialists" / specialist_id
        _copy_whole(folder / "adapter", home)
        specialist = made.model_copy(update={"adapter": str(home.relative_to(app.workspace.root))})
    predictions = [p async for p in _evaluate(app, slot, dataset, config, specialist_id, specialist, folder, progress)]
    predictions = await compare.values(in_order(predictions, dataset.parts["test"]))
    if not existing:
        agreement = await compare.agreement([p for p in predictions if p.phase == "teacher"])
        measured = {"scores": _scores(predictions), "judge_agreement": agreement}
        specialist = specialist.model_copy(update=measured)
        app.workspace.add_specialist(specialist_id, specialist)
    mine = [p for p in predictions if p.phase == "specialist"]
    corners = slices(mine, [split_text(p.input, entry.split_by) for p in mine])
    return Distilled(specialist_id, specialist, predictions, dataset, trained, corners, reused=existing is not None)


def base_of(app: App, name: str | None) -> tuple[ModelConfig, Weights]:
    """Return the entry in `[models]` and the weights that a specialist would stand on.

    Args:
        app: the workspace.
        name: a name in `[models]`; the slm tier's model where None.

    Raises:
        ConfigError: it is not one that can be trained and served.
    """
    tier = app.workspace.config.tiers.get("slm")
    if name is None and tier is None:
        raise ConfigError("No base to train: give [tiers] an slm entry in hetero.toml, or name one with --base.")
    config = app.workspace.model(name or (tier.model if tier else ""))
    prefix, _, weights = config.model.partition(":")
    if prefix == "local":
        return config, find_weights(weights, app.workspace.root)
    if prefix == "vllm" and config.weights:
        return config, find_weights(config.weights.removeprefix("local:"), app.workspace.root)
    raise ConfigError(
        f'{config.model!r} cannot be trained: the base is a local: model, or a vllm: one with weights = "local:..." beside it.'
    )


async def _train(
    weights: Weights,
    dataset: Dataset,
    contract: Contract,
    recipe: Recipe,
    baked: bool,
    folder: Path,
    progress: Progress,
) -> Trained:
    note = folder / "trained.json"
    if note.exists():
        return Trained.from_json(json.loads(note.read_text()))
    texts: list[Text] = []
    for example in dataset.parts["train"]:
        arguments = contract.load(example.input)
        texts.append((call_text(contract, arguments, baked), contract.answer_text(example.output, arguments)))
    progress("train", 0, 1)
    job = Job(weights, texts, recipe, folder)
    trained = await train_aside(job, lambda done, total: progress("train", done, total))
    write_atomically(note, json.dumps(asdict(trained)).encode())
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return trained


async def _evaluate(
    app: App,
    slot: Slot[..., Any],
    dataset: Dataset,
    config: ModelConfig,
    specialist_id: SpecialistId,
    specialist: Specialist,
    folder: Path,
    progress: Progress,
) -> AsyncIterator[Prediction]:
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
        ("base_five_shot", base, _shots(contract, dataset.parts["train"]), 0),
    ]
    first = app.chain(app.binding(slot.id, slot.tier, contract.sha256))[0]
    if first.specialist and first.specialist != specialist_id:
        contestants.append((first.specialist, await first.open(), (), 0))
    done = read_predictions(folder / "predictions.jsonl")
    count, total = 0, len(contestants) * len(test)
    with (folder / "predictions.jsonl").open("a", encoding="utf-8") as file:
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
                async with aclosing(predict(phase, endpoint, contract, missing[:1])) as first:
                    async for _ in first:
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


def _shots(contract: Contract, train: Sequence[Example]) -> Sequence[Example]:
    """The first five examples that are no longer than most: five of the longest may not fit the context."""

    def length(example: Example) -> int:
        return len(str(contract.messages(contract.load(example.input))))

    middle = sorted(map(length, train))[len(train) // 2]
    return [example for example in train if length(example) <= middle][:FIVE]


def _scores(predictions: Sequence[Prediction]) -> dict[str, Score]:
    phases = dict.fromkeys(p.phase for p in predictions)
    return {phase: score([p for p in predictions if p.phase == phase]) for phase in phases}


def _existing(app: App, made: Specialist) -> SpecialistId | None:
    """The specialist that is the same work: same weights on the same base, measured on the same data."""
    own = {"adapter", "scores", "judge_agreement", "created", "train_seconds", "privacy"}
    same = made.model_dump(exclude=own)
    entries = app.workspace.lock.of_slot(made.slot).items()
    return next((name for name, entry in entries if entry.model_dump(exclude=own) == same), None)


def _copy_whole(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
