"""Shadow runs: a recipe is tried with canaries in the data, and what it gave is attacked and thrown away."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import Contract
from ..engines.catalog import Weights
from ..errors import DistillError
from .canaries import Attack, Canary, Exposure, Leak, exposure, plant, shadows_for
from .curate import Dataset, Example, balanced
from .evaluate import append_lines, read_lines
from .recipe import Recipe
from .specialise import Progress, job_of
from .worker import attack_aside, train_aside

if TYPE_CHECKING:
    from ..engines.vllm import VllmServer


async def exposure_of(
    contract: Contract,
    dataset: Dataset,
    weights: Weights,
    recipe: Recipe,
    count: int,
    folder: Path,
    teacher: Weights | VllmServer | None,
    progress: Progress,
) -> Exposure:
    """Train and attack as many shadows as it takes for so many canaries; those that a killed run finished are not done again.

    Args:
        contract: the slot's.
        dataset: the data; each shadow is trained on its train part and a twentieth of canaries.
        weights: the base.
        recipe: how; each shadow has a seed of its own.
        count: canaries in all.
        folder: of the training whose recipe this is; what was found is kept there, shadows are not.
        teacher: the recipe's.
        progress: called as steps go on.

    Raises:
        DistillError: no example can hold a canary, none fits into `max_length`, or a training cannot be done.
    """
    _clear(folder)
    train = dataset.parts["train"]
    shadows, each = shadows_for(count, len(train))
    kept, leaks, seconds = folder / "canaries.jsonl", list[Leak](), 0.0
    known: dict[tuple[int, int], dict[str, Any]] = {}
    for line in read_lines(kept):
        if all("told" in leak for leak in line["leaks"]):  # before 2026-11-30 nobody noted where they stood
            known[line["shadow"], line["planted"]] = line
    for shadow in range(1, shadows + 1):
        planted = min(each, count - (shadow - 1) * each)
        if (shadow, planted) not in known:
            said = f"shadow {shadow} of {shadows}"
            found, took = await _shadow(
                contract, dataset, weights, recipe, planted, shadow, folder, teacher, said, progress
            )
            line = {"shadow": shadow, "planted": planted, "seconds": took, "leaks": [asdict(leak) for leak in found]}
            known[shadow, planted] = line
            with append_lines(kept) as file:
                file.write(json.dumps(line) + "\n")
        leaks += [Leak(**leak) for leak in known[shadow, planted]["leaks"]]
        seconds += known[shadow, planted]["seconds"]
    if not leaks:
        raise DistillError(f"No planted secret fits into {recipe.max_length} tokens with its call; raise max_length.")
    return exposure(leaks, shadows, seconds)


def _clear(folder: Path) -> None:
    """Delete what a run that was killed left of its shadows."""
    for left in folder.glob(".shadow-*"):
        shutil.rmtree(left)


async def _shadow(
    contract: Contract,
    dataset: Dataset,
    weights: Weights,
    recipe: Recipe,
    count: int,
    number: int,
    folder: Path,
    teacher: Weights | VllmServer | None,
    said: str,
    progress: Progress,
) -> tuple[list[Leak], float]:
    """Train one shadow and attack it; return what was found and the seconds of both."""
    seed = recipe.seed + number
    train = dataset.parts["train"]
    # Balanced before: secrets in answers would be classes of their own.
    taught = balanced(train) if recipe.balance else train
    examples, canaries = with_canaries(contract, train, taught, count, recipe, random.Random(seed))
    part = {**dataset.parts, "train": examples}
    # Trainings are of one length: what the select part says would be of other data.
    how = replace(recipe, seed=seed, patience=0, balance=False)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".shadow-") as place:
        started = time.monotonic()
        job = job_of(contract, replace(dataset, parts=part), weights, how, Path(place), teacher)
        await train_aside(job, lambda done, total: progress(f"{said}: train", done, total))
        attack = Attack(weights, Path(place) / "adapter", recipe.whole, canaries, recipe.max_length, seed)
        leaks = await attack_aside(attack, lambda done, total: progress(f"{said}: attack", done, total))
    return leaks, round(time.monotonic() - started, 1)


def with_canaries(
    contract: Contract,
    examples: Sequence[Example],
    taught: Sequence[Example],
    count: int,
    recipe: Recipe,
    dice: random.Random,
) -> tuple[list[Example], list[Canary]]:
    """Return what is taught with canaries among it, each as often as the example that it is a copy of; and the canaries.

    Args:
        contract: the slot's.
        examples: of the train part, each once.
        taught: the same, balanced where the recipe says so.
        count: canaries.
        recipe: how.
        dice: random numbers.

    Raises:
        DistillError: no example can hold one.
    """
    planted = plant(contract, examples, count, recipe.bakes(contract), dice)
    if not planted:
        raise DistillError(
            f"No call of slot {contract.slot!r} has a text that could hold a canary; nothing can be said of what its recipe remembers."
        )
    times = Counter((example.trace_id, example.span_id) for example in taught)
    copies = [example for example, _ in planted for _ in range(times[example.trace_id, example.span_id])]
    return [*taught, *copies], [canary for _, canary in planted]
