"""`python -m tests.bench.described`: the demo's `choose`, with a sentence of description behind each tool's name; after `make demo`.

The same calls in the same parts; `tools` is `dict[str, str]` in place of `list[str]`. On each of two bases, a matcher's and a language model's by the demo's recipe but for `max_length`
(420 in place of 256, as descriptions are long), a specialist is trained, and everybody whom `hetero distill` asks answers the test part, and then the calls with tools that nobody was taught. About twenty minutes of two free cores; what is there is used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from examples.tool_desk.demo import FOLDER, RECIPES
from examples.tool_desk.work import QUESTIONS, SOURCE, Item, load_items
from hetero_agents import OneOf, slot
from hetero_agents.bindings import SpecialistId, Workspace
from hetero_agents.contract import compact_json, sha256_of
from hetero_agents.distill import paired_difference, wilson
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.evaluate import Prediction
from hetero_agents.distill.measure import contest
from hetero_agents.distill.specialise import base_of, specialise
from hetero_agents.engines.catalog import fetch
from hetero_agents.slots import App, registry

OUT = Path(".bench") / "described"
WORDS = 25
"""Words of a description at most."""


@slot(name="desk.choose_described")
async def choose(request: str, tools: dict[str, str]) -> Annotated[str, OneOf("tools")]:
    """Choose the tool that serves the request."""
    ...


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


async def measure(app: App, demo: Path, base_name: str) -> None:
    """Train, let everybody answer, and print."""
    said, recipe, items = descriptions(), replace(RECIPES["desk.choose"], max_length=420), load_items()

    def told(example: Example) -> Example:
        values = {"tools": {name: said[example.input["request"], name] for name in example.input["tools"]}}
        return replace(example, input={**example.input, **values})

    file = max((demo / ".hetero" / "distill" / "desk.choose").glob("*/dataset.json"), key=lambda f: f.stat().st_mtime)
    data = Dataset.from_json(file.read_text("utf-8"))
    data = replace(data, parts={part: list(map(told, examples)) for part, examples in data.parts.items()})
    base = base_of(app, base_name)
    made = await specialise(app, choose.contract, data, base, recipe, lambda step, done, total: None)
    print(
        f"{base_name}: {made.trained.examples} taught in {made.trained.seconds:.0f} s, {made.trained.left_out} too long",
        flush=True,
    )
    nobody_taught = [told(of_item(item)) for item in items if item.unseen]
    lines = map(json.loads, (demo / "predictions.jsonl").read_text("utf-8").splitlines())
    by_names = {(line["phase"], line["item"]): bool(line["right"]) for line in lines if line["slot"] == "desk.choose"}
    ids = {compact_json([item.request, list(item.tools)]): item.id for item in items}
    for part, phase, examples in (
        ("test", "specialist", data.parts["test"]),
        ("unseen", "unseen_tools", nobody_taught),
    ):
        held, folder = replace(data, parts={**data.parts, "test": examples}), made.folder / part
        folder.mkdir(exist_ok=True)
        asked = (app, choose, held, base.config, SpecialistId(f"{choose.id}@1"), made.specialist, folder)
        answers = [p async for p in contest(*asked, lambda step, done, total: None)]
        right = {(p.phase, asked_of(p)): p.valid and p.output == p.target for p in answers}
        for name in dict.fromkeys(p.phase for p in answers):
            of_name = [ok for (who, _), ok in right.items() if who == name]
            print(f"{base_name}, {part}: {name} {wilson(sum(of_name), len(of_name))}", flush=True)
        calls = [asked_of(example) for example in examples]
        mine = [right["specialist", call] for call in calls]
        for other, theirs in (
            ("the demo's, which reads names alone", [by_names[phase, ids[call]] for call in calls]),
            ("word overlap", [right["word_overlap", call] for call in calls]),
        ):
            difference, low, high = paired_difference(mine, theirs)
            print(
                f"{base_name}, {part}: specialist minus {other} {difference:+.3f} [{low:+.3f}, {high:+.3f}]", flush=True
            )


def asked_of(call: Example | Prediction) -> str:
    """Return what a call asks, its tools by their names."""
    return compact_json([call.input["request"], list(call.input["tools"])])


def of_item(item: Item) -> Example:
    """Return an item as an example of the demo's slot."""
    values = {"request": item.request, "tools": list(item.tools)}
    return Example(sha256_of(values), values, item.tool, "", False, "", "")


def main() -> None:
    """Train, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=FOLDER, help="where the demo worked")
    parser.add_argument("--bases", nargs="+", default=["matcher", "small"], help="names in the demo's [models]")
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(asked.demo / "hetero.toml", OUT / "hetero.toml")
    app = App.of(Workspace(OUT))
    before = registry.use(app)
    try:
        for name in asked.bases:
            asyncio.run(measure(app, asked.demo, name))
    finally:
        registry.use(before)
        app.close()


if __name__ == "__main__":
    main()
