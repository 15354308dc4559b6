"""`hetero forget`: what a person may ask for."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import UnknownNameError, UserError
from . import common
from .common import Json
from .keys import open_vault


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
    from ..distill.forget import forget as run
    from ..distill.forget import traces_of

    app, vault = open_vault()
    workspace = app.workspace
    found = traces_of(workspace, vault, subject)
    if not found.spans:
        raise UnknownNameError("subject", subject, (), hint="nothing in the vault is of that person")
    kept = found.specialists if keep_specialists else []
    say = common.err if as_json else common.out
    say.print(
        f"{len(found.spans)} spans of {len({trace for trace, _ in found.spans})} runs lose their content for ever."
    )
    for folder in found.datasets:
        say.print(f"The data set {folder.relative_to(workspace.root)} is deleted.", soft_wrap=True)
    for name in found.specialists:
        say.print(f"{name} was trained on it and {'stays in use' if name in kept else 'is used no more'}.")
    for name in found.untold:
        say.print(f"{name}: its data set is not here, so nobody can say whether it was trained on it.")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("This cannot be undone: say --yes.")
        typer.confirm("This cannot be undone. Forget?", abort=True)
    demoted = run(workspace, vault, subject, found, keep=kept)
    if as_json:
        common.print_json(
            {
                "spans": len(found.spans),
                "datasets": [str(folder.relative_to(workspace.root)) for folder in found.datasets],
                "withdrawn": [name for name in found.specialists if name not in kept],
                "kept": kept,
                "demoted": demoted,
                "untold": found.untold,
            }
        )
        return
    common.out.print("Forgotten. Backups of the vault's folder subjects/ and of data sets have to be deleted by you.")
