"""`hetero iterate`: step S6, unattended."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import HeteroError, UserError
from ..slots import App, Slot, registry
from . import common
from .common import Json

if TYPE_CHECKING:
    from ..rollout.iterate import Round


def iterate(
    slot: Annotated[str | None, typer.Argument(help="One slot; all with an error budget by default.")] = None,
    every: Annotated[
        float | None,
        typer.Option(min=0.01, help="Minutes between rounds; one round where it is not said. Ctrl-C ends them."),
    ] = None,
    most_minutes: Annotated[
        float | None, typer.Option(min=0, help="Minutes of training in all, after which none is begun any more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move specialists on or back as the evidence says, and train again where enough is new; what was done is in .hetero/iterate.jsonl."""
    app = common.open_app()
    config = app.workspace.config.slots
    slots = (
        [registry.slot(slot)]
        if slot
        else [s for s in registry.slots.values() if config.get(s.id) and config[s.id].error_budget]
    )
    if not slots:
        raise UserError("No slot has an error_budget in hetero.toml, so nothing says what is good enough.")
    spent = 0.0
    while True:
        failed = False
        for each in slots:
            done = _round(app, each, most_minutes is None or spent < 60 * most_minutes)
            spent += done.train_seconds
            failed |= done.did == "failed"
            _say(app, done, as_json)
        if every is None:
            if failed:
                raise typer.Exit(1)
            return
        time.sleep(60 * every)


def _round(app: App, slot: Slot[..., Any], may_train: bool) -> Round:
    from ..rollout.iterate import Round, iterate

    try:
        with common.step_progress() as progress:
            return asyncio.run(iterate(app, slot, may_train=may_train, progress=progress))
    except HeteroError as error:  # of this slot, and said: the others have their turn
        return Round(slot.id, "failed", str(error))


def _say(app: App, done: Round, as_json: bool) -> None:
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(done)}
    with (app.workspace.ensure_state_dir() / "iterate.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry, ensure_ascii=False) + "\n")
    if as_json:
        print(json.dumps(entry, ensure_ascii=False), flush=True)
    else:
        common.out.print(f"{done.slot} {done.did}: {done.specialist or '-'}; {done.why}", markup=False, soft_wrap=True)
