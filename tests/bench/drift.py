"""How soon audits notice that a specialist has become worse, and how many wrong answers it gives until then.

Simulated streams of kept answers; a share of them is audited, as `State` does it. Before the change 2 % are wrong, with a budget of 5 %; afterwards
20 %, at once or growing over 2,000 answers. Drift-free streams of 20,000 answers are wrong at the budget itself, where alarms are likeliest.

    python -m tests.bench.drift [--streams 200]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from statistics import median

from hetero_agents.distill import wilson
from hetero_agents.routing import ALPHA, wealth_against_good

BUDGET, GOOD, BAD = 0.05, 0.02, 0.20
CHANGE, SLOW, LENGTH = 5000, 2000, 20_000


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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    streams = parser.parse_args().streams
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
