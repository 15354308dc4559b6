"""`python -m tests.bench.crossfit`: the demo's recipes on all of the demo's calls, each answered by a specialist that was not taught it; after `make demo`.

The calls of each slot, all four parts of them, are cut into three folds by near-duplicate clusters. A specialist is trained on two folds, of which a twentieth
says when it is enough, and answers the third: with two thirds of the calls in place of the demo's 0.56. Half an hour of two free cores; what is there is used. The
answers lie in `.bench/crossfit`, where `python -m tests.bench.guarantee --folders .bench/crossfit` takes them as a population.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from collections import Counter
from pathlib import Path

from examples.tool_desk.demo import FOLDER, RECIPES
from examples.tool_desk.figures import SLOTS
from hetero_agents.bindings import SpecialistId, Workspace
from hetero_agents.contract import compact_json, sha256_of
from hetero_agents.distill import wilson
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.evaluate import same
from hetero_agents.distill.measure import Contestant, answers_of
from hetero_agents.distill.specialise import base_of, specialise
from hetero_agents.slots import App

OUT = Path(".bench") / "crossfit"
FOLDS = 3
LOOKED_AT = 20
"""One in so many of a fold's training calls is not taught but looked at, to see when it is enough."""


async def answered(app: App, name: str, demo: Path, base_name: str) -> None:
    """Train a slot's specialists, have each answer its fold, and print how many are right."""
    contract, recipe = SLOTS[name].contract, RECIPES[name]
    data = max((demo / ".hetero" / "distill" / name).glob("*/dataset.json"), key=lambda file: file.stat().st_mtime)
    examples = [example for part in Dataset.from_json(data.read_text("utf-8")).parts.values() for example in part]
    # Answers of another recipe, contract or data are others.
    key = sha256_of([base_name, recipe.sha256, contract.sha256, [example.key for example in examples]])
    base, folder = base_of(app, base_name), OUT / name / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    right, of_tools = list[bool](), Counter[tuple[int, bool]]()
    for fold in range(FOLDS):
        held = [e for e in examples if number(e) % FOLDS == fold]
        others = [e for e in examples if number(e) % FOLDS != fold]
        looked_at = [e for e in others if number(e) // FOLDS % LOOKED_AT == 0]
        train = [e for e in others if number(e) // FOLDS % LOOKED_AT]
        parts = Dataset({"train": train, "select": looked_at, "certify": [], "test": held}, f"fold {fold}", {}, 0, 0)
        made = await specialise(app, contract, parts, base, recipe, lambda step, done, total: None)
        one = SpecialistId(f"{name}@{fold + 1}")
        endpoint = await app.engines.specialist(one, made.specialist, base.config)
        times = Counter(compact_json(e.output) for e in train)
        async for p in answers_of(Contestant("specialist", endpoint), contract, held, folder):
            right.append(p.valid and same(p.output, p.target))
            of_tools[min(times[compact_json(p.target)], 10), right[-1]] += 1
        print(
            f"{name} on {base_name}, fold {fold}: {made.trained.examples} taught in {made.trained.seconds:.0f} s, so far {wilson(sum(right), len(right))}",
            flush=True,
        )
    for least, most in ((0, 0), (1, 2), (3, 9), (10, 10)):
        some = [
            sum(n for (times, ok), n in of_tools.items() if least <= times <= most and ok is want)
            for want in (True, False)
        ]
        print(
            f"  answers taught {least}{f' to {most}' if most > least else ' times and more' if most == 10 else ''}: {some[0]} of {sum(some)} right"
        )


def number(example: Example) -> int:
    """A number of an example's cluster."""
    return int(example.cluster, 16)


def main() -> None:
    """Train, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=FOLDER, help="where the demo worked")
    parser.add_argument("--slots", nargs="+", default=list(SLOTS))
    parser.add_argument("--base", default="small", help="a name in the demo's [models]")
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(asked.demo / "hetero.toml", OUT / "hetero.toml")
    app = App.of(Workspace(OUT))
    try:
        for name in asked.slots:
            asyncio.run(answered(app, name, asked.demo, asked.base))
    finally:
        app.close()


if __name__ == "__main__":
    main()
