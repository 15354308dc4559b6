"""Where a specialist comes from, and what a span went into: from span ids through data set, recipe and base to the route."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..bindings import Specialist, SpecialistId, Workspace
from ..bindings.lock import Lock, write_atomically
from ..contract import Sha256, sha256_of
from ..engines.catalog import verified_sha256
from ..errors import DistillError, UnknownNameError
from .curate import Dataset, Example, Part

DATASET = "dataset.json"
"""In the folder of a training or of answers, the data set that it was last done with; others before it stand as `dataset-HASH.json` beside it."""


@dataclass(frozen=True)
class Origin:
    """A span that an example was made from."""

    trace_id: str
    span_id: str
    part: Part
    teacher: str
    corrected: bool


@dataclass(frozen=True)
class Lineage:
    """Everything that a specialist follows from.

    Attributes:
        specialist_id: its id.
        specialist: its entry in the lock: hashes of base, adapter, contract and data, recipe with its seed, scores.
        route: what it does now, as `route_of` says.
        dataset: where its data set lies, None where it is not here.
        origins: the spans, in the order of the parts; empty where the data set is not here.
    """

    specialist_id: SpecialistId
    specialist: Specialist
    route: str
    dataset: Path | None
    origins: list[Origin]


@dataclass(frozen=True)
class Use:
    """A data set that spans went into, and the specialists that were made from it."""

    dataset: Path
    dataset_sha256: Sha256
    slot: str
    origins: list[Origin]
    specialists: list[SpecialistId]


def lineage_of(workspace: Workspace, specialist_id: str) -> Lineage:
    """Return what a specialist follows from.

    Raises:
        UnknownNameError: the lock has no such specialist.
    """
    lock = workspace.lock
    name = SpecialistId(specialist_id)
    if name not in lock.specialists:
        raise UnknownNameError("specialist", specialist_id, lock.specialists, hint="`hetero slots` lists them")
    entry = lock.specialists[name]
    path, data = dataset_of(workspace, entry) or (None, None)
    return Lineage(name, entry, route_of(lock, name), path, list(_origins(data)) if data else [])


def dataset_of(workspace: Workspace, entry: Specialist) -> tuple[Path, Dataset] | None:
    """Return a specialist's data set and its file; None where it is not here."""
    mine = [(path, data) for path, data in stored_datasets(workspace) if data.sha256 == entry.dataset_sha256]
    # A bake-off trains on one data set more than once: this one's training comes first.
    return min(mine, key=lambda found: not _made(found[0], entry), default=None)


def uses_of(lock: Lock, datasets: Iterable[tuple[Path, Dataset]], matches: Callable[[Example], bool]) -> list[Use]:
    """Return the data sets that some examples stand in, with what was trained on them or measured with them.

    Args:
        lock: where specialists are.
        datasets: as `stored_datasets` gives them.
        matches: which examples.
    """
    found: list[Use] = []
    for path, data in datasets:
        if origins := list(_origins(data, matches)):
            made = [name for name, entry in lock.specialists.items() if entry.dataset_sha256 == data.sha256]
            found.append(Use(path, data.sha256, path.parent.parent.name, origins, made))
    return found


def examples_of_run(trace: str, span: str = "") -> Callable[[Example], bool]:
    """Return which examples are of a run, and of one span where it is given; the beginning of the trace's id is enough."""
    return lambda e: e.trace_id.startswith(trace) and span in ("", e.span_id)


def route_of(lock: Lock, specialist_id: SpecialistId) -> str:
    """Return what a specialist does now: `active`, `shadow`, `canary`, `candidate` (never promoted), `replaced` or `withdrawn`."""
    entry = lock.specialists[specialist_id]
    state = lock.slots.get(entry.slot)
    if entry.withdrawn:
        return "withdrawn"
    if state and state.active == specialist_id:
        return state.stage
    return "replaced" if state and specialist_id in state.replaced else "candidate"


def stored_datasets(workspace: Workspace) -> Iterator[tuple[Path, Dataset]]:
    """Give the data sets of all slots that lie in a workspace, with their files; of one folder there may be several.

    Raises:
        DistillError: one is broken.
    """
    for path in sorted((workspace.state_dir / "distill").glob("*/*/dataset*.json")):
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:  # forgotten at this moment
            continue
        try:
            dataset = Dataset.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise DistillError(f"The data set {path} is broken; delete its folder, and distill again.") from error
        yield path, dataset


def keep_dataset(folder: Path, dataset: Dataset) -> None:
    """Write a folder's data set; another that stands there is kept: what was measured on it, and answers to its calls, are still there."""
    file, text = folder / DATASET, dataset.to_json()
    if file.is_file() and (before := file.read_text("utf-8")) != text:
        os.replace(file, folder / f"{file.stem}-{sha256_of(before)[:8]}.json")
    write_atomically(file, text.encode())


def _made(dataset: Path, entry: Specialist) -> bool:
    """Whether a specialist's weights lie beside a data set."""
    file = dataset.parent / "adapter" / Path(entry.served).name
    return file.is_file() and verified_sha256(file) == entry.gguf_sha256


def _origins(data: Dataset, matches: Callable[[Example], bool] = lambda example: True) -> Iterator[Origin]:
    for part, examples in data.parts.items():
        for e in filter(matches, examples):
            yield Origin(e.trace_id, e.span_id, part, e.teacher, e.corrected)
