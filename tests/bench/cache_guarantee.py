"""Is the guarantee of a cache by meaning true? Certificates on many simulated data sets, beside the risk of the world that they are drawn from.

A call is about a meaning: a point near the centre of its family, with an answer that it shares with some of its neighbours. Some
meanings are asked about often, and one call in 50 is a near-duplicate with an answer of its own ("order A-17", "order A-18"). Each draw is another data set
of that world, answered by meaning and certified by the code of `hetero distill SLOT --cache-only`. The true risk at a likeness is the rate of wrong answers
among those that are given from there on, over all tried calls of data sets of their own; a violation is a certificate at whose
likeness it is above the budget.

    python -m tests.bench.cache_guarantee [--draws 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from bisect import bisect_left
from itertools import accumulate
from pathlib import Path

from hetero_agents import slot
from hetero_agents.bindings import Workspace
from hetero_agents.contract import sha256_of
from hetero_agents.distill import wilson
from hetero_agents.distill.curate import BUDGET_SHARES, Dataset, Example, Part
from hetero_agents.distill.loop import comparator_of
from hetero_agents.distill.meaning import Trial, cache_lock, trial
from hetero_agents.slots import App
from hetero_agents.testing import MemoryVault
from tests.support import TOML, FakeEngines

BUDGETS = (0.05, 0.10, 0.15, 0.20)
CALLS = 2000
TRUTH = 30
"""Data sets on which the true risk is measured."""

SIZE = 12
"""Numbers of an embedding."""


@slot(name="bench.answer")
async def answer(text: str) -> str:
    """Answer it."""
    ...


class World:
    """Families of meanings; data sets are drawn from it, and each text's embedding is known."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.families = [self._point() for _ in range(40)]
        self.vectors: dict[str, list[float]] = {}

    def _point(self) -> list[float]:
        return [self.rng.gauss(0, 1) for _ in range(SIZE)]

    def _near(self, centre: list[float], spread: float) -> list[float]:
        values = [value + self.rng.gauss(0, spread) for value in centre]
        length = sum(value * value for value in values) ** 0.5
        return [value / length * SIZE**0.5 for value in values]

    def dataset(self) -> Dataset:
        """Draw one, divided as `hetero distill` does it: a meaning is never divided."""
        self.vectors = {}
        parts: dict[Part, list[Example]] = {part: [] for part in BUDGET_SHARES}
        count = 0
        while count < CALLS:
            family = self.rng.randrange(len(self.families))
            centre = self._near(self.families[family], 0.25)
            said = f"f{family}" if self.rng.random() < 0.98 else f"m{self.rng.random()}"
            (part,) = self.rng.choices(list(BUDGET_SHARES), weights=list(BUDGET_SHARES.values()))
            cluster = f"{self.rng.random()}"
            for _ in range(min(30, int(self.rng.paretovariate(1.4)))):
                own = self.rng.random() < 0.02
                text, output = f"{self.rng.random()}", f"o{self.rng.random()}" if own else said
                length = SIZE**0.5
                self.vectors[text] = [value / length for value in self._near(centre, 0.15)]
                values = {"text": text}
                trace = f"{count:032x}", f"{count:016x}"
                parts[part].append(Example(sha256_of(values), values, output, "big", False, *trace, cluster=cluster))
                count += 1
        return Dataset(parts, "input", {})


def risks(trials: list[Trial]) -> tuple[list[float], list[float], int]:
    """Return likenesses, lowest first, the rate of wrong answers from each on, and how many calls were tried."""
    tried = [t for found in trials for part in (found.fixing, found.proving) for t in part.values()]
    given = sorted(((t.signals["likeness"], t.wrong) for t in tried if t.signals), reverse=True)
    wrong = list(accumulate(bad for _, bad in given))
    rates = [bad / number for number, bad in enumerate(wrong, 1)]
    return [likeness for likeness, _ in reversed(given)], rates[::-1], len(tried)


async def measure(root: Path, draws: int) -> list[dict[str, float]]:
    """Draw, certify and compare with the world."""
    entry = f'[slots."{answer.id}"]\ncache = "semantic"\nerror_budget = {{}}\n'
    (root / "hetero.toml").write_text(TOML + entry.format(BUDGETS[0]))
    world = World(random.Random(0))
    app = App.of(Workspace(root), MemoryVault())
    app.engines = FakeEngines(root, models={}, vector=lambda text: world.vectors[text])
    try:
        compare = await comparator_of(app, answer)

        async def drawn() -> Trial:
            return await trial(app, answer, world.dataset(), compare, lambda step, done, total: None)

        likenesses, rates, tried = risks([await drawn() for _ in range(TRUTH)])
        print(
            f"true risk on {tried} tried calls of {TRUTH} data sets; of all that are answered {rates[0]:.3f} are wrong"
        )
        trials = [await drawn() for _ in range(draws)]
        rows: list[dict[str, float]] = []
        for budget in BUDGETS:
            (root / "hetero.toml").write_text(TOML + entry.format(budget))
            made = [cache_lock(app, answer, found, "the truth") for found in trials]
            least = [one.likeness for one in made if one.likeness is not None]
            at = [min(bisect_left(likenesses, likeness), len(rates) - 1) for likeness in least]
            violations = sum(rates[index] > budget for index in at)
            kept = sum(len(likenesses) - index for index in at) / tried / draws
            rows.append(
                {"budget": budget, "draws": draws, "certified": len(least), "violations": violations, "kept": kept}
            )
            rate = wilson(violations, draws)
            print(
                f"{budget:6g}  certified {len(least)}/{draws}  violations {rate.score:.3f} [{rate.low:.3f}, {rate.high:.3f}]  kept {kept:.3f}"
            )
        return rows
    finally:
        app.close()


def main() -> None:
    """Print a table, and write `.bench/cache_guarantee.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder), parser.parse_args().draws))
    out = Path(".bench")
    out.mkdir(exist_ok=True)
    (out / "cache_guarantee.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
