"""`python -m tests.bench.described`: the demo's slots with descriptions in their calls; after `make demo`.

The same calls in the same parts. For `choose` a sentence of description stands behind each tool's name (`tools: dict[str, str]`), for `fill` the
descriptions of the schema's fields are in the prompt (`Fits("parameters", descriptions=True)`). On each base a specialist is trained, and everybody
whom `hetero distill` asks answers the test part, and then the calls with tools that nobody was taught. Then what each specialist keeps within an error
budget is certified, as `hetero distill` does it. What is there is used, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from examples.tool_desk.demo import FOLDER, RECIPES
from examples.tool_desk.figures import call_of, is_right
from examples.tool_desk.work import QUESTIONS, SOURCE, Item, load_items
from hetero_agents import Fits, OneOf, Slot, slot
from hetero_agents.bindings import SpecialistId, Workspace
from hetero_agents.bindings.lock import write_atomically
from hetero_agents.contract import compact_json, sha256_of
from hetero_agents.distill import Recipe, paired_difference, wilson
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.loop import comparator_of
from hetero_agents.distill.measure import contest
from hetero_agents.distill.rehearse import Rehearsal, Way, certified
from hetero_agents.distill.specialise import base_of, specialise
from hetero_agents.engines.catalog import fetch
from hetero_agents.slots import App, registry

OUT = Path(".bench") / "described"
WORDS = 25
"""Words of a tool's description at most."""
BUDGETS = (0.05, 0.1, 0.2, 0.3)
CODER = "qwen2.5-coder-0.5b-instruct"


@slot(name="desk.choose_described")
async def choose(request: str, tools: dict[str, str]) -> Annotated[str, OneOf("tools")]:
    """Choose the tool that serves the request."""
    ...


@slot(name="desk.fill_described")
async def fill(
    request: str, parameters: dict[str, Any]
) -> Annotated[dict[str, Any], Fits("parameters", descriptions=True)]:
    """Write the arguments of the tool call that serves the request."""
    ...


@dataclass(frozen=True)
class Described:
    """A slot of the demo that reads descriptions too."""

    slot: Slot[..., Any]
    recipes: dict[str, Recipe]
    """By base, a name in `[models]`."""
    told: Callable[[Example], Example]
    """A call of the demo's slot as a call of this one."""


def descriptions() -> dict[tuple[str, str], str]:
    """Return by (request, tool) the first sentence of each description in BFCL."""
    found: dict[tuple[str, str], str] = {}
    for line in fetch(SOURCE, *QUESTIONS).read_text("utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        request = "\n".join(message["content"].strip() for message in entry["question"][0])
        for function in entry["function"]:
            sentence = re.split(r"(?<=[a-z)])\. ", " ".join(function["description"].split()))[0]
            found[request, function["name"]] = " ".join(sentence.split()[:WORDS])
    return found


def slots() -> dict[str, Described]:
    """Return what is measured, by the demo's slot."""
    said = descriptions()

    def told(example: Example) -> Example:
        values = {"tools": {name: said[example.input["request"], name] for name in example.input["tools"]}}
        return replace(example, input={**example.input, **values})

    of_choose, of_fill = RECIPES["desk.choose"], RECIPES["desk.fill"]
    return {
        "desk.choose": Described(choose, dict.fromkeys(("matcher", "small"), replace(of_choose, max_length=420)), told),
        "desk.fill": Described(
            fill,
            {
                "small": replace(of_fill, epochs=2.0, max_length=480),
                # What twelve minutes of two cores hold; with one pass there is nothing to stop early.
                "coder": replace(of_fill, epochs=0.9, max_length=400, patience=0),
            },
            lambda example: example,
        ),
    }


def silent(step: str, done: int, total: int) -> None:
    """Say nothing of how far a step is."""


async def measure(app: App, demo: Path, name: str, described: Described, base_name: str, recipe: Recipe) -> None:
    """Train, let everybody answer, and print."""
    items, declared = load_items(), described.slot
    file = max((demo / ".hetero" / "distill" / name).glob("*/dataset.json"), key=lambda f: f.stat().st_mtime)
    data = Dataset.from_json(file.read_text("utf-8"))
    data = replace(data, parts={part: list(map(described.told, examples)) for part, examples in data.parts.items()})
    base, title = base_of(app, base_name), f"{name} on {base_name}"
    made = await specialise(app, declared.contract, data, base, recipe, silent)
    specialist_id = SpecialistId(f"{declared.id}@1")
    print(f"{title}: {made.trained.examples} taught in {made.trained.seconds:.0f} s, {made.trained.left_out} too long")
    item_of = {asked_of(call_of(name, item)[0]): item for item in items}
    lines = map(json.loads, (demo / "predictions.jsonl").read_text("utf-8").splitlines())
    by_demo = {(line["phase"], line["item"]): bool(line["right"]) for line in lines if line["slot"] == name}
    nobody_taught = [described.told(of_item(name, item)) for item in items if item.unseen]
    for part, phase, examples in (
        ("test", "specialist", data.parts["test"]),
        ("unseen", "unseen_tools", nobody_taught),
    ):
        held, folder = replace(data, parts={**data.parts, "test": examples}), made.folder / part
        folder.mkdir(exist_ok=True)
        asked = (app, declared, held, base.config, specialist_id, made.specialist, folder)
        answers = [p async for p in contest(*asked, silent)]
        calls = [asked_of(example.input) for example in examples]
        right = {
            (p.phase, asked_of(p.input)): p.valid and is_right(name, p.output, item_of[asked_of(p.input)])
            for p in answers
        }
        rivals = {who: [right[who, call] for call in calls] for who in dict.fromkeys(p.phase for p in answers)}
        for who, marks in rivals.items():
            print(f"{title}, {part}: {who} {wilson(sum(marks), len(marks))}")
        rivals["the demo's, which reads none"] = [by_demo[phase, item_of[call].id] for call in calls]
        mine = rivals.pop("specialist")
        for who, marks in rivals.items():
            difference, low, high = paired_difference(mine, marks)
            print(f"{title}, {part}: specialist minus {who} {difference:+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)
    ask = Rehearsal(app, declared, base.config, specialist_id, made.specialist, made.folder / "test", silent)
    await budgets(ask, data, title)


async def budgets(ask: Rehearsal, data: Dataset, title: str) -> None:
    """Print what is kept within each error budget."""
    compare, toml = await comparator_of(ask.app, ask.slot), ask.app.workspace.config_path
    plain, on_test = toml.read_bytes(), await ask.answers(data.parts["test"], Way())
    try:
        for budget in BUDGETS:
            write_atomically(toml, plain + f'\n[slots."{ask.slot.id}"]\nerror_budget = {budget}\n'.encode())
            shown, _ = await certified(ask, data, compare, on_test)
            apart = f"{shown.wrong} of {shown.kept} wrong on calls kept apart, at most {shown.upper_bound:.3f}"
            print(
                f"{title}, within {budget}: kept {shown.share}, wrong {shown.risk}; {shown.missing or apart}",
                flush=True,
            )
    finally:
        write_atomically(toml, plain)


def asked_of(values: dict[str, Any]) -> str:
    """Return what a call asks, its tools by their names."""
    return compact_json([values["request"], values["parameters"] if "parameters" in values else list(values["tools"])])


def of_item(name: str, item: Item) -> Example:
    """Return an item as an example of the demo's slot."""
    values, target = call_of(name, item)
    return Example(sha256_of(values), values, target, "", False, "", "")


def main() -> None:
    """Train, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=FOLDER, help="where the demo worked")
    measured = slots()
    bases = sorted({base for described in measured.values() for base in described.recipes})
    parser.add_argument("--slots", nargs="+", choices=list(measured), default=list(measured))
    parser.add_argument("--bases", nargs="+", choices=bases, default=bases)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    toml = (asked.demo / "hetero.toml").read_text("utf-8")
    write_atomically(OUT / "hetero.toml", toml.replace("[models]\n", f'[models]\ncoder = "local:{CODER}"\n').encode())
    app = App.of(Workspace(OUT))
    before = registry.use(app)
    try:
        for name in asked.slots:
            for base_name, recipe in measured[name].recipes.items():
                if base_name in asked.bases:
                    how = replace(recipe, seed=asked.seed)
                    asyncio.run(measure(app, asked.demo, name, measured[name], base_name, how))
    finally:
        registry.use(before)
        app.close()


if __name__ == "__main__":
    main()
