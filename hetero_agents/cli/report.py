"""`hetero report`: how many calls can move to specialists, at which error, and what that saves."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.table import Table

from ..bindings import Score
from ..errors import UserError
from ..report.words import interval, percent
from ..slots import registry
from . import common
from .common import Json
from .keys import open_vault

if TYPE_CHECKING:
    from ..contract import SlotId
    from ..distill.specialise import Progress
    from ..rollout import Movable, SlotReport


def report(
    slot: Annotated[str | None, typer.Argument(help="One slot; all of them by default.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page there too.")] = None,
    as_json: Json = False,
) -> None:
    """Say how many of the vault's calls specialists could answer, at which error, and what that saves."""
    from ..rollout import slot_report, whole, workflows

    common.open_app()
    app, _ = open_vault()
    slots = [registry.slot(slot)] if slot else list(registry.slots.values())
    if not slots:
        raise UserError("The modules in [app] declare no slots.")

    async def reports(progress: Progress) -> list[SlotReport]:
        return [await slot_report(app, each, partial(_of_slot, progress, each.id)) for each in slots]

    with common.step_progress() as progress:
        found = asyncio.run(reports(progress))
    budgets = {name: entry.error_budget for name, entry in app.workspace.config.slots.items() if entry.error_budget}
    total = whole(found, budgets)
    values: dict[str, Any] = {
        "slots": [to_jsonable_python(each) for each in found],
        "budgets": budgets,
        "whole": total and total.model_dump(),
        "workflows": list(map(asdict, workflows(app))),
        "answer_key": any(model.model.startswith("replay:") for model in app.workspace.config.models.values()),
    }
    if html is not None:
        from ..report import write_movable

        write_movable(html, values)
    if as_json:
        common.print_json(values)
        return
    for each in found:
        _say(each, budgets.get(each.slot))
    if total is not None:
        _line(
            f"Of held-out inputs {_share(total)} can move at the slots' own error budgets, each slot weighed by its calls."
        )
    for flow in values["workflows"]:
        _line(_flow(flow))
    if values["answer_key"]:
        _line("A model here is an answer key (replay:): its seconds and cost say nothing about a real LLM.")
    if html is not None:
        _line(f"Look at {html}.")


def _of_slot(progress: Progress, slot: SlotId, step: str, done: int, total: int) -> None:
    progress(f"{slot}: {step}", done, total)


def _say(each: SlotReport, own: float | None) -> None:
    _line(_head(each))
    table = Table("error at most", "can move (95 %)", "wrong among them")
    for movable in each.movable:
        mark = " (its own)" if movable.error_budget == own else ""
        table.add_row(f"{movable.error_budget:g}{mark}", *_cells(movable))
    if each.movable:
        common.out.print(table)
    if lacking := [movable for movable in each.movable if movable.missing]:
        most = next((movable for movable in lacking if movable.error_budget == own), lacking[-1])
        _line(f"  {most.error_budget:g}: {most.missing}")
    _line(f"  without a language model: {_plain(each)}")
    _line(f"  a call of the teacher: {_spent(each)}")
    for cache in each.caches:
        _line(f"  {common.cache_text(cache)}")
    if each.inputs:
        _line(f"  inputs: {each.inputs}")
    if each.why:
        _line(f"  {each.why}")


def _head(each: SlotReport) -> str:
    to = ""
    if each.specialist:
        licence = f", {each.licence}" if each.licence else ""
        size = f", {each.gigabytes:.3f} GB of its own" if each.gigabytes else ""
        right = f", right {common.score_text(each.accuracy)}" if each.accuracy else ""
        to = f", to {each.specialist} on {each.base}{licence}{size}{right}"
    return f"{each.slot}: {each.calls} calls, {each.kept} of them answered by specialists{to}"


def _cells(movable: Movable) -> tuple[str, str]:
    risk = _share(movable.risk) if movable.risk else "-"
    return _share(movable.share) if movable.certified else "none", risk


def _plain(each: SlotReport) -> str:
    some = [f"{each.repeated} calls had come before (a look-up)", f"{each.constant} have the most frequent answer"]
    some += [f"{name.replace('_', ' ')} {_share(score)} right" for name, score in each.plain_code.items()]
    return "; ".join(some)


def _spent(each: SlotReport) -> str:
    spent = each.spent
    told = [
        f"{spent.input_tokens:.0f} tokens in" if spent.input_tokens is not None else "",
        f"{spent.output_tokens:.0f} out" if spent.output_tokens is not None else "",
        f"{spent.seconds:.2f} s" if spent.seconds is not None else "",
        f"{spent.dollars:.6f} dollars" if spent.dollars is not None else "no known price",
    ]
    return ", ".join(text for text in told if text)


def _flow(flow: dict[str, Any]) -> str:
    calls = ", ".join(f"{slot} {n}×" for slot, n in flow["calls"].items())
    head = f"{flow['name']}, {flow['runs']} runs, of which one called at most {calls}: "
    if flow["without_budget"]:
        return f"{head}no bound, since {', '.join(flow['without_budget'])} has no error budget."
    if not flow["bound"]:
        return f"{head}no specialist answers."
    return f"{head}specialists let at most {flow['bound']:.3g} of such runs go wrong, with confidence {flow['confidence']:.3g}."


def _share(score: Score) -> str:
    values = score.model_dump()
    return f"{percent(values['score'])} ({interval(values)})"


def _line(text: str) -> None:
    common.out.print(text, markup=False, soft_wrap=True)
