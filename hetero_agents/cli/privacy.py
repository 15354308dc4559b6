"""`hetero forget`: what a person may ask for."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UnknownNameError, UserError
from . import common
from .common import Json
from .keys import open_vault

if TYPE_CHECKING:
    from ..distill.forget import Traces


def forget(
    subject: Annotated[str, typer.Option(help="The person, as `subject()` was told.")],
    keep_specialists: Annotated[
        bool,
        typer.Option("--keep-specialists", help="Leave specialists in use that were trained on the person's data."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Make all that was logged of a person unreadable for ever, with the data sets and specialists made from it."""
    from ..distill.forget import check_runs_are_here, delete_runs, empty_cache, nothing_distilled, traces_of
    from ..distill.forget import forget as run

    app, vault = open_vault()
    check_runs_are_here()
    with nothing_distilled(app.workspace):
        found = traces_of(app.workspace, vault, subject)
        if not found.known and not found.datasets:
            if not yes:
                common.err.print(
                    "Nothing that is stored is of that person; the cache of answers and what durable runs kept go.",
                    soft_wrap=True,
                )
            _be_sure(yes)
            # The cache does not say whose its answers are: where content is not logged it may be the one place that has any.
            hint = "nothing that is stored is of that person"
            if empty_cache(app.workspace):
                hint += "; the cache of answers, which may have held some, was emptied"
            if delete_runs(app.workspace):
                hint += "; what durable runs kept, which may have held some, was deleted"
            raise UnknownNameError("subject", subject, (), hint=hint)
        kept = found.specialists if keep_specialists else []
        _announce(app.workspace.root, found, kept, common.err if as_json else common.out)
        _be_sure(yes)
        demoted = run(app.workspace, vault, subject, found, keep=kept)
    if as_json:
        common.print_json(
            {
                "spans": len(found.spans),
                "datasets": [str(folder.relative_to(app.workspace.root)) for folder in found.datasets],
                "withdrawn": [name for name in found.specialists if name not in kept],
                "kept": kept,
                "demoted": demoted,
                "untold": found.untold,
            }
        )
        return
    common.out.print("Forgotten. Backups of the vault's folder subjects/ and of data sets have to be deleted by you.")


def _be_sure(yes: bool) -> None:
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("This cannot be undone: say --yes.")
        typer.confirm("This cannot be undone. Forget?", abort=True)


def _announce(root: Path, found: Traces, kept: Collection[str], console: Console) -> None:
    def say(sentence: str) -> None:
        console.print(sentence, soft_wrap=True, markup=False)

    runs = len({trace for trace, _ in found.spans})
    say(
        f"{len(found.spans)} spans of {runs} runs lose their content for ever; the cache of answers is emptied, and no durable run can be resumed."
    )
    for folder in found.datasets:
        say(f"The data set {folder.relative_to(root)} is deleted.")
    for name in found.specialists:
        say(f"{name} was trained on it and {'stays in use' if name in kept else 'is used no more'}.")
    for name in found.untold:
        say(f"{name}: its data set is not here, so nobody can say whether it was trained on it.")
