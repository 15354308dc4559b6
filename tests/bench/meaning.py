"""What a cache by meaning gives on real calls, answered by answer keys, with nobody before the cache: the tool desk's `choose`, `same_product`.

Certified as `hetero distill SLOT --cache-only` does it. Beside it, on the calls that prove: at each likeness, how many have an
earlier question that is so near, and how often its answer is wrong; and what a look-up costs.

    python -m tests.bench.meaning [--budgets 0.05 0.1 0.2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.narrow_tasks.shop import same_product
from examples.narrow_tasks.work import Call, product_calls
from examples.tool_desk.desk import choose
from examples.tool_desk.work import load_items
from hetero_agents import Slot
from hetero_agents.bindings import Workspace
from hetero_agents.cli.common import certificate_text
from hetero_agents.distill import wilson
from hetero_agents.distill.certify import Tried
from hetero_agents.distill.loop import comparator_of, curated
from hetero_agents.distill.meaning import cache_lock, trial
from hetero_agents.routing import REMEMBERED, AnswerCache, Kept
from hetero_agents.slots import App, registry
from hetero_agents.testing import MemoryVault

TOML = """
[models]
big = { model = "replay:answers.jsonl", train_on_outputs = true }
[tiers]
llm = { model = "big" }
[privacy]
content = "raw"
"""
LIKENESSES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    budgets: list[float] = parser.parse_args().budgets
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), budgets))
        _look_ups(Path(folder))


async def _measure(root: Path, budgets: list[float]) -> None:
    requests = [({"request": item.request, "tools": list(item.tools)}, item.tool) for item in load_items()]
    work: list[tuple[Slot[..., Any], list[Call]]] = [(choose, requests), (same_product, product_calls())]
    lines = [{"slot": slot.id, "input": values, "output": answer} for slot, calls in work for values, answer in calls]
    (root / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "hetero.toml").write_text(TOML)  # without a cache while the calls come in
    app = App.of(Workspace(root), MemoryVault())
    registry.use(app)
    try:
        for slot, calls in work:
            for values, _ in calls:
                await slot(**values)
            _cached(root, slot, budgets[0])
            compare, dataset = await comparator_of(app, slot), curated(app, slot)
            found = await trial(app, slot, dataset, compare, lambda step, done, total: None)
            proving = list(found.proving.values())
            print(f"{slot.id}: {len(calls)} calls; {len(found.fixing)} fix, {len(proving)} prove")
            for least in LIKENESSES:
                print(_at(least, proving))
            for budget in budgets:
                _cached(root, slot, budget)
                print(certificate_text(cache_lock(app, slot, found, f"answers of {dataset.teacher}").certificate))
    finally:
        app.close()


def _cached(root: Path, slot: Slot[..., Any], budget: float) -> None:
    """Give a slot a cache by meaning and an error budget."""
    entry = f'[slots."{slot.id}"]\ncache = "semantic"\nerror_budget = {budget}\n'
    entry += 'split_by = "request"\n' if slot is choose else ""  # as the example has it
    (root / "hetero.toml").write_text(TOML + entry)


def _at(least: float, proving: list[Tried]) -> str:
    near = [t for t in proving if t.signals and t.signals["likeness"] >= least]
    wrong = wilson(sum(t.wrong for t in near), len(near))
    return f"likeness {least:g}: {len(near)} of {len(proving)} answered, wrong {wrong.score:.3f} [{wrong.low:.3f}, {wrong.high:.3f}]"


def _look_ups(root: Path) -> None:
    """Time a look-up among as many questions as are compared at most, in milliseconds."""
    rng = random.Random(0)
    cache = AnswerCache(root / "timed.db", lambda: bytes(32))
    kept = Kept("answer", "model", "big", None, True, None)

    def vector() -> list[float]:
        values = [rng.gauss(0, 1) for _ in range(384)]
        length = sum(value * value for value in values) ** 0.5
        return [value / length for value in values]

    for number in range(REMEMBERED):
        cache.keep_near(kept, 3600, [vector()], [str(number)], "scope")
    seconds: list[float] = []
    for _ in range(101):
        asked = [vector()]
        started = time.perf_counter()
        cache.find_near(asked, "scope")
        seconds.append(time.perf_counter() - started)
    cache.close()
    half = sorted(seconds[1:])[50]
    print(f"a look-up among {REMEMBERED}: first {seconds[0] * 1e3:.0f} ms, then {half * 1e3:.2f} ms (half of 100)")


if __name__ == "__main__":
    main()
