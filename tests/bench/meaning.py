"""What a cache by meaning gives on real requests: the tool desk's `choose`, answered by its answer key, with nobody before the cache.

Certified as `hetero distill desk.choose --cache-only` does it. Beside it, on the calls that prove: at each likeness, how many have an
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

from examples.tool_desk.desk import choose
from examples.tool_desk.work import answer_lines, load_items
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
big = {{ model = "replay:answers.jsonl", train_on_outputs = true }}
[tiers]
llm = {{ model = "big" }}
[slots."desk.choose"]
cache = "semantic"
split_by = "request"
error_budget = {budget}
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
    items = load_items()
    (root / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answer_lines(items)))
    (root / "hetero.toml").write_text(TOML.format(budget=budgets[0]))
    app = App.of(Workspace(root), MemoryVault())
    app.not_embedding = True  # while the data comes in
    registry.use(app)
    try:
        for item in items:
            await choose(item.request, list(item.tools))
        compare, dataset = await comparator_of(app, choose), curated(app, choose)
        found = await trial(app, choose, dataset, compare, lambda step, done, total: None)
        proving = list(found.proving.values())
        print(f"{len(items)} calls; {len(found.fixing)} fix, {len(proving)} prove; parts split by {dataset.split_key}")
        for least in LIKENESSES:
            print(_at(least, proving))
        for budget in budgets:
            (root / "hetero.toml").write_text(TOML.format(budget=budget))
            print(certificate_text(cache_lock(app, choose, found, f"answers of {dataset.teacher}").certificate))
    finally:
        app.close()


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
