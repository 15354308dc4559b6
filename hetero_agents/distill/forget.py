"""Forgetting a person: the keys of what was logged, the data sets made from it, and the specialists trained on those."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..bindings import SpecialistId, Workspace
from ..bindings.lock import exclusive, write_atomically
from ..contract import Sha256
from ..errors import DistillError, UserError
from ..routing import AnswerCache
from ..spans import SealedVault
from .curate import VERDICTS, Example
from .lineage import stored_datasets, uses_of

MARK = "forgotten.json"
"""Stands in the folder of a data set that is not to be used any more, in the place of all that it held."""


@dataclass(frozen=True)
class Traces:
    """What there is of a person.

    Attributes:
        known: whether the vault has keys of the person, which may be all that is left.
        spans: (trace, span) of what was logged.
        datasets: folders of data sets that hold examples made from them.
        specialists: what was trained on these data sets.
        untold: specialists whose data set is not here, so that nobody can say whether the person is in it.
    """

    known: bool
    spans: list[tuple[str, str]]
    datasets: list[Path]
    specialists: list[SpecialistId]
    untold: list[SpecialistId]


@contextmanager
def nothing_distilled(workspace: Workspace) -> Generator[None]:
    """Hold off `hetero distill` and `hetero relabel` on all slots, which would go on with data that they have read.

    Raises:
        DistillError: a slot is being distilled or relabelled.
    """
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(workspace.ensure_state_dir() / "distill" / ".flock", wait=False))
        except BlockingIOError as error:
            raise DistillError(
                "A slot is being distilled or relabelled; wait for it, or stop it: its data may be that person's."
            ) from error
        yield


def examples_of(vault: SealedVault, person: str) -> Callable[[Example], bool]:
    """Return which examples are a person's: by the span, and by name, as the spans may be gone already, their time being over.

    Raises:
        KeyAccessError: this account's key does not open content.
    """
    logged, names = set(vault.spans_of(person)), vault.names_of(person)
    return lambda e: e.person in names or (e.trace_id, e.span_id) in logged


def traces_of(workspace: Workspace, vault: SealedVault, person: str) -> Traces:
    """Return what there is of a person in a workspace.

    Args:
        workspace: where data sets and specialists are.
        vault: where spans are.
        person: as `subject()` was told.

    Raises:
        KeyAccessError: this account's key does not open content.
    """
    spans = vault.spans_of(person)
    lock, datasets = workspace.lock, list(stored_datasets(workspace))
    uses = uses_of(lock, datasets, examples_of(vault, person))
    trained = {name for use in uses for name in use.specialists}
    known = {data.sha256 for _, data in datasets}
    for path in (workspace.state_dir / "distill").glob(f"*/*/{MARK}"):
        known |= _marked(path.parent)
    live = {name: entry for name, entry in lock.specialists.items() if entry.withdrawn is None}
    return Traces(
        vault.knows(person),
        spans,
        list(dict.fromkeys(use.dataset.parent for use in uses)),
        [name for name in live if name in trained],
        [name for name, entry in live.items() if entry.dataset_sha256 not in known],
    )


def empty_cache(workspace: Workspace) -> bool:
    """Empty the cache of answers, and return whether there is one.

    Raises:
        HeteroError: the file cannot be written.
    """
    path = workspace.state_dir / "cache.db"
    if not path.exists():
        return False
    with closing(AnswerCache(path, key=lambda: b"", patience=30)) as cache:
        cache.clear()
    return True


def check_runs_are_here() -> None:
    """Check that what durable runs keep can be deleted from here.

    Raises:
        UserError: it is in a database of the user's.
    """
    if os.environ.get("HETERO_RUNS"):
        raise UserError(
            "Durable runs are kept in the database that HETERO_RUNS names, which is not emptied from here: drop it, unset HETERO_RUNS, and say it again."
        )


def delete_runs(workspace: Workspace) -> bool:
    """Delete what durable runs have kept, and return whether there was any. One that goes on cannot be resumed afterwards.

    Raises:
        UserError: it is in a database of the user's.
    """
    check_runs_are_here()
    found = list(workspace.state_dir.glob("runs.db*"))
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def forget(
    workspace: Workspace, vault: SealedVault, person: str, found: Traces, *, keep: Collection[SpecialistId] = ()
) -> list[SpecialistId]:
    """Forget a person, the keys last: whatever ends it before, it can be done again.

    The cache of answers and what durable runs keep, which do not say whose they are, are emptied.

    Args:
        workspace: where data sets and specialists are.
        vault: where spans are.
        person: as `subject()` was told.
        found: what `traces_of` gave.
        keep: specialists that stay in use although they were trained on the person's data.

    Returns:
        The specialists that were active and are not any more.

    Raises:
        UserError: what durable runs keep is in a database of the user's; nothing was done then.
        HeteroError: the keys cannot be destroyed.
    """
    delete_runs(workspace)
    for part in (workspace.root / "specialists").glob(".*.part"):  # of a distillation that was killed
        shutil.rmtree(part)
    today = datetime.now(UTC).date().isoformat()
    withdrawn = [name for name in found.specialists if name not in keep]
    for name in withdrawn:
        if (entry := workspace.lock.specialists[name]).matcher:  # it holds answers as they were given
            (workspace.root / entry.served).unlink(missing_ok=True)
    demoted = (
        workspace.withdraw(withdrawn, f"it was trained on data that was forgotten on {today}") if withdrawn else []
    )
    stored = list(stored_datasets(workspace))
    for folder in found.datasets:
        files = {path: data.sha256 for path, data in stored if path.parent == folder}
        mark = {"datasets": sorted({*_marked(folder), *files.values()}), "forgotten": today}
        write_atomically(folder / MARK, json.dumps(mark).encode())
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != MARK and path not in files:
                path.unlink()
        (folder.parent / VERDICTS).unlink(
            missing_ok=True
        )  # hashes of what was compared, by which a guess could be checked
        for path in files:  # last: by them an interrupted forgetting is found again
            path.unlink()
    empty_cache(workspace)
    vault.forget(person)
    return demoted


def _marked(folder: Path) -> set[Sha256]:
    """Hashes of the data sets that lay in a folder and were forgotten."""
    mark = folder / MARK
    if not mark.is_file():
        return set()
    values = json.loads(mark.read_text("utf-8"))
    return set(values.get("datasets") or [values["dataset_sha256"]])  # of one alone in marks before 2026-11-30
