"""`hetero relabel`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from ..routing import Budget, Ledger
from ..slots import registry
from . import common, crews
from .common import Json


def relabel(
    slot: Annotated[str, typer.Argument(help="The slot's id.")],
    by: Annotated[
        str, typer.Option(help="The name in [models] of the model that answers; its terms must allow training.")
    ],
    money: Annotated[float | None, typer.Option(help="US dollars that the batch may spend.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens that it may spend, input and output together.")] = None,
    calls: Annotated[int | None, typer.Option(help="Questions that it may ask, those asked again included.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds after which no model is called.")] = None,
    as_json: Json = False,
) -> None:
    """Have a model answer the stored inputs that have no answer to learn from. Ctrl-C and the same command resume."""
    from ..distill.relabel import relabel as run

    budget = crews.budget_of(money, tokens, calls, seconds)
    app = common.open_app()
    declared = registry.slot(slot)
    with common.step_progress() as progress, Ledger(budget or Budget()) as ledger:
        made = asyncio.run(run(app, declared, by, progress=progress))
    spent = ledger.spent
    if as_json:
        common.print_json({**asdict(made), "spent": asdict(spent)})
    else:
        failed = "".join(f"; {n} {why}" for why, n in made.failed.items())
        cost = f"{spent.calls} requests, {spent.tokens} tokens" + (f", ${spent.money:.4f}" if spent.money else "")
        common.out.print(
            f"{made.labelled} of {made.wanted} inputs that had no answer to learn from were answered by {made.model} ({cost}){failed}.",
            markup=False,
            soft_wrap=True,
        )
        if made.labelled:
            common.out.print(f"Next: hetero distill {declared.id}", markup=False, soft_wrap=True)
    if made.stopped:
        common.say_error(made.stopped)
        raise typer.Exit(1)
