"""How far a classifier on embeddings gets on the demo's `choose`, beside the specialist, on the demo's own test part; after `make demo`.

python -m tests.bench.classifier [--demo .hetero/demo]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from examples.tool_desk.desk import choose
from hetero_agents.contract import compact_json
from hetero_agents.distill import paired_difference, wilson
from hetero_agents.distill.classifier import classified
from hetero_agents.distill.curate import Dataset
from hetero_agents.distill.evaluate import read_predictions, same
from hetero_agents.engines import Engines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path(".hetero") / "demo", help="where the demo worked")
    folder = parser.parse_args().demo / ".hetero" / "distill" / choose.id
    data = max(folder.glob("*/dataset.json"), key=lambda file: file.stat().st_mtime)
    dataset = Dataset.from_json(data.read_text("utf-8"))
    train, test = dataset.parts["train"], dataset.parts["test"]
    specialist = read_predictions(data.with_name("predictions.jsonl"))
    theirs = [same(specialist["specialist", e.key].output, e.output) for e in test]
    engines, began = Engines(Path()), time.perf_counter()
    try:
        made = asyncio.run(classified(engines.embed, choose.contract, train, test))
    finally:
        engines.close()
    right, known = [same(p.output, p.target) for p in made], {compact_json(e.output) for e in train}
    print(f"classifier {wilson(sum(right), len(right))}")
    print(f"specialist {wilson(sum(theirs), len(theirs))}, minus the classifier {paired_difference(theirs, right)}")
    seen = sum(compact_json(e.output) in known for e in test)
    print(f"{len(train)} train calls with {len(known)} answers; {seen} of {len(test)} test calls have one of them")
    print(f"{time.perf_counter() - began:.1f} s, embeddings and their engine's start among them")


if __name__ == "__main__":
    main()
