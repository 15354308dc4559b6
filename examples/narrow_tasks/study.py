"""`python -m examples.narrow_tasks.study`: distil both slots of the shop and measure them, in `.hetero/narrow_tasks`.

Each beside plain code and the base under the same grammar, without and with five examples; and a learning curve: the same recipe on
a quarter and a half of the training examples. The LLM is an answer key. About a quarter of an hour; run again, it uses what it made.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from hetero_agents import Slot, flush
from hetero_agents.bindings import Score, Workspace
from hetero_agents.bindings.lock import write_atomically
from hetero_agents.cli import common
from hetero_agents.contract import sha256_of
from hetero_agents.distill import Distilled, Recipe, distill, wilson
from hetero_agents.distill.evaluate import predict, same
from hetero_agents.distill.specialise import Progress, base_of, specialise
from hetero_agents.engines import SERVER_SLOTS
from hetero_agents.slots import App, registry

from . import shop
from .work import Call, invoice_calls, product_calls

HERE = Path(__file__).parent
FOLDER = Path(".hetero") / "narrow_tasks"
SHARES = (0.25, 0.5)
"""Of the training examples, for the learning curve."""

RECIPES = {
    "shop.same_product": Recipe(epochs=3.0, balance=True, max_length=256),
    "shop.paid": Recipe(epochs=4.0, max_length=1024),
}


def main() -> None:
    """Run the study and print its table."""
    with common.fetch_progress() as progress:
        work: list[tuple[Slot[..., Any], list[Call]]] = [
            (shop.same_product, product_calls(progress)),
            (shop.paid, invoice_calls(progress)),
        ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("hetero.toml", "shop.py"):
        shutil.copyfile(HERE / name, FOLDER / name)
    lines = [{"slot": slot.id, "input": values, "output": answer} for slot, calls in work for values, answer in calls]
    write_atomically(FOLDER / "answers.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    app = App.of(Workspace(FOLDER))
    registry.use(app)
    try:
        report = asyncio.run(_study(app, work))
    finally:
        app.close()
    write_atomically(FOLDER / "report.json", json.dumps(report, indent=1).encode())
    table = Table("slot", "who", "right (95 %)", title="The LLM is an answer key", title_justify="left")
    for slot, entry in report.items():
        for name, score in entry["scores"].items():
            table.add_row(slot, name, common.score_text(Score(**score)))
        for point in entry["curve"]:
            table.add_row(
                slot, f"specialist of {point['examples']} examples", common.score_text(Score(**point["score"]))
            )
    common.out.print(table)
    common.print_json(report)


async def _study(app: App, work: list[tuple[Slot[..., Any], list[Call]]]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with common.step_progress() as progress:
        for slot, calls in work:
            report[slot.id] = await _measure(app, slot, calls, progress)
    return report


async def _measure(app: App, slot: Slot[..., Any], calls: list[Call], progress: Progress) -> dict[str, Any]:
    """Run, distil and measure one slot."""

    def step(what: str, done: int, total: int) -> None:
        progress(f"{slot.id}: {what}", done, total)

    ran = FOLDER / f"ran-{slot.id}"
    if not ran.exists():
        for count, (values, _) in enumerate(calls, 1):
            await slot(**values)
            step("run on the LLM", count, len(calls))
        flush()
        ran.touch()
    made = await distill(app, slot, recipe=RECIPES[slot.id], progress=step)
    curve = [await _point(app, slot, made, share, step) for share in SHARES]
    train = len(made.dataset.parts["train"])
    curve.append({"examples": train, "score": made.specialist.scores["specialist"].model_dump()})
    return {
        "examples": train,
        "train_seconds": made.specialist.train_seconds,
        "scores": {name: score.model_dump() for name, score in made.specialist.scores.items()},
        "differences": {name: vars(paired) for name, paired in made.differences.items()},
        "grounded": made.grounded.model_dump(),
        "curve": curve,
    }


async def _point(app: App, slot: Slot[..., Any], made: Distilled, share: float, step: Progress) -> dict[str, Any]:
    """The score of the same recipe on a share of the training examples."""
    train, test = made.dataset.parts["train"], made.dataset.parts["test"]
    some = random.Random(0).sample(train, round(len(train) * share))
    data = replace(made.dataset, parts={**made.dataset.parts, "train": some})
    base = base_of(app, None)
    small = await specialise(app, slot.contract, data, base, RECIPES[slot.id], step)
    trial: Any = f"{slot.id}@0-{sha256_of(share)[:8]}"
    endpoint = await app.engines.specialist(trial, small.specialist, base.config)
    right: list[bool] = []
    async for p in predict("part", endpoint, slot.contract, test, at_once=SERVER_SLOTS):
        right.append(p.valid and same(p.output, p.target))
        step(f"{len(some)} examples", len(right), len(test))
    return {"examples": len(some), "score": wilson(sum(right), len(right)).model_dump()}


if __name__ == "__main__":
    main()
