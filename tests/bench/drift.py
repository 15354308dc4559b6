"""How soon audits notice that a specialist has become worse, and how many wrong answers it gives until then.

Simulated streams of kept answers; a share of them is audited, as `State` does it. Before the change 2 % are wrong, with a budget of 5 %; afterwards
20 %, at once or growing over 2,000 answers. Drift-free streams of 20,000 answers are wrong at the budget itself, where alarms are likeliest.

With `--inputs`: how soon `hetero iterate` notices that inputs have become others. Runs are drawn from embeddings of the demo's requests, jittered so that none are
alike: 800 before the training, with half of the tools for half of the requests; then 1,000 like those, and then others: 80 % for these tools, or all. It is looked
after every 50 then. Drift-free streams have 3,000 runs, and all their gamblers are counted. Takes the weights of embeddings and the demo's requests.

    python -m tests.bench.drift [--streams 200] [--inputs]
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from examples.tool_desk.work import load_items
from hetero_agents.distill import wilson
from hetero_agents.engines import Engines
from hetero_agents.rollout.inputs import BLOCK, evidence, first_of
from hetero_agents.routing import ALPHA, wealth_against_good

BUDGET, GOOD, BAD = 0.05, 0.02, 0.20
CHANGE, SLOW, LENGTH = 5000, 2000, 20_000
BEFORE, STEADY, OTHERS, LONG = 800, 1000, 1000, 3000


def alarm(risk: Callable[[int], float], share: float, rng: random.Random, length: int) -> tuple[int | None, int]:
    """Return at which answer of a stream the alarm is raised, if it is, and how many wrong answers came after the change until then."""
    audited: list[bool] = []
    through = 0
    for number in range(length):
        wrong = rng.random() < risk(number)
        through += wrong and number >= CHANGE
        if rng.random() < share:
            audited.append(wrong)
            if wrong and wealth_against_good(audited, BUDGET) >= 1 / ALPHA:  # nothing grows by a right answer
                return number, through
    return None, through


async def requests() -> tuple[list[list[float]], list[str]]:
    """Return embeddings of the demo's requests, and their tools."""
    engines, items = Engines(Path.cwd()), load_items()
    found = await engines.embed([item.request for item in items])
    engines.close()
    return found, [item.tool for item in items]


def inputs(streams: int) -> None:
    """Print when others are noticed, and how often there are none and an alarm is raised."""
    import numpy as np

    vectors, tools = asyncio.run(requests())
    rng = np.random.default_rng(0)
    half = set(rng.permutation(sorted(set(tools)))[::2])
    mine = np.array([tool in half for tool in tools])
    kinds = np.array(vectors)[mine], np.array(vectors)[~mine]

    def drawn(*mix: tuple[int, float]) -> Any:
        """So many runs each, a share of them of the first kind."""
        first = np.concatenate([rng.random(n) < share for n, share in mix])
        rows = [kinds[0 if one else 1] for one in first]
        made = np.array([row[rng.integers(len(row))] for row in rows]) + rng.normal(
            0, 0.02, (len(rows), len(vectors[0]))
        )
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    print(
        f"inputs: {len(kinds[0])} and {len(kinds[1])} requests of two kinds, {BEFORE} runs before, change after {STEADY}"
    )
    for share in (0.8, 1.0):
        late: list[int] = []
        for _ in range(streams // 5):
            before, since = drawn((BEFORE, 0.5)), drawn((STEADY, 0.5), (OTHERS, share))
            at = next((n for n in range(50, OTHERS + 1, 50) if looked(before, since[: STEADY + n])), None)
            late += [] if at is None else [at]
        late.sort()
        half_in, most_in = (late[int(part * (len(late) - 1))] if late else 0 for part in (0.5, 0.9))
        print(
            f"50 % to {share:.0%}: noticed {len(late)} of {streams // 5} within {OTHERS} runs, half of these within {half_in}, 9 of 10 within {most_in}"
        )
    alarms = sum(evidence(drawn((BEFORE, 0.5)), drawn((LONG, 0.5))) >= 1 / ALPHA for _ in range(streams))
    rate = wilson(alarms, streams)
    print(
        f"no change: {alarms} of {streams} streams of {LONG} runs raised an alarm ({rate.score:.3f} [{rate.low:.3f}, {rate.high:.3f}])"
    )


def looked(before: Any, since: Any) -> bool:
    """Look as `hetero iterate` does, at the latest runs alone."""
    first = first_of(len(since))
    return evidence(before, since[first * BLOCK :], first) >= 1 / ALPHA


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--inputs", action="store_true")
    given = parser.parse_args()
    if given.inputs:
        inputs(given.streams)
        return
    streams = given.streams
    kinds: dict[str, Callable[[int], float]] = {
        "sudden": lambda n: BAD if n >= CHANGE else GOOD,
        "slow": lambda n: GOOD + (BAD - GOOD) * min(1.0, max(0, n - CHANGE) / SLOW),
    }
    print(f"error budget {BUDGET}, {GOOD} wrong before answer {CHANGE}, {BAD} after; {streams} streams of {LENGTH}")
    for share in (0.01, 0.02, 0.05, 0.10):
        for kind, risk in kinds.items():
            rng = random.Random(f"{kind} {share}")
            found = [alarm(risk, share, rng, LENGTH) for _ in range(streams)]
            late = sorted(at - CHANGE for at, _ in found if at is not None and at >= CHANGE)
            early = sum(at is not None and at < CHANGE for at, _ in found)
            wrong = median(through for _, through in found)
            print(
                f"audit {share:4g}, {kind:<6}: noticed {len(late)} of {streams - early}, after {median(late) if late else float('nan'):.0f} answers "
                f"(9 of 10 within {late[int(0.9 * (len(late) - 1))] if late else 0}), {wrong:.0f} wrong answers until then; {early} alarms before"
            )
        rng = random.Random(share)
        alarms = sum(alarm(lambda n: BUDGET, share, rng, LENGTH)[0] is not None for _ in range(streams))
        rate = wilson(alarms, streams)
        print(
            f"audit {share:4g}, no drift: {alarms} of {streams} streams raised an alarm ({rate.score:.3f} [{rate.low:.3f}, {rate.high:.3f}])"
        )


if __name__ == "__main__":
    main()
