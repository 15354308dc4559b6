"""Is the error budget's guarantee true? Certificates on many draws from a population whose risk is known.

A population is a whole pool of recorded answers as they are, refused ones among them: of each slot whose predictions lie in the folders (`make demo`, the studies of
`narrow_tasks` and `loan_clerk`, `tests.bench.curve --record`), and of all of them together. `--made` takes each slot's pool made larger by a score model
fitted to it instead: signals are drawn from the recorded ones with some noise, and an answer is right with the probability that a logistic
function of the signals gives: a world in which the calibrator is of the right form, without clusters or refusals. A draw has 500 calls, with replacement; a violation is a certificate although the population's risk, at the certified
threshold, is above the budget. Beside it, on the same draws: the threshold that keeps most with at most the budget of errors on the draw, without a
guarantee, and random deferral.

    python -m tests.bench.guarantee [--draws 200] [--made] [--phases specialist] [--folders FOLDER ...]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hetero_agents.contract import Sha256
from hetero_agents.distill import wilson
from hetero_agents.distill.certify import Tried, certify, fit, scores_of, sureness
from hetero_agents.distill.evaluate import read_predictions, same

DEMO = Path(".hetero") / "demo" / ".hetero" / "distill"
FOLDERS = (DEMO, Path(".hetero/narrow_tasks"), Path(".hetero/loan_clerk"), Path(".bench/curve"))
BUDGETS = (0.01, 0.02, 0.05, 0.10)
POPULATION = 5000
DRAW = 500
SELECT = 150
"""Calls of a draw that fix calibrator and thresholds; the others certify."""

NO_CHECKS = Sha256("0" * 64)


@dataclass(frozen=True)
class Row:
    """One slot at one budget."""

    slot: str
    budget: float
    certified: int
    violations: int
    kept: float
    """Mean share of the population that is kept, 0 where nothing is certified."""
    tuned_violations: int
    tuned_kept: float
    random_kept: float


def recorded(folders: Sequence[Path], phases: Sequence[str]) -> dict[str, list[Tried]]:
    """Return what was answered to held-out calls, right by equality, by slot and phase; of several trainings the last one's."""
    files = sorted(
        (file for folder in folders for file in folder.rglob("predictions.jsonl")),
        key=lambda file: file.stat().st_mtime,
    )
    found: dict[str, list[Tried]] = {}
    for file in files:
        slot = next(folder.name for folder in file.parents if "." in folder.name[1:])
        for phase in phases:
            answers = [p for (of, _), p in read_predictions(file).items() if of == phase]
            if answers:
                found[f"{slot} {phase}"] = [
                    Tried(p.key, p.signals, not (p.valid and same(p.output, p.target)), not p.valid) for p in answers
                ]
    return found


def population(seen: Sequence[Tried], rng: random.Random) -> list[Tried]:
    """Return a population like what was seen: of as many as are wanted, with labels of a model fitted to it."""
    known = [t for t in seen if t.signals and not t.refused]
    model = fit(known)
    assert model is not None
    made: list[Tried] = []
    for number in range(POPULATION):
        signals = {name: value * rng.uniform(0.9, 1.1) for name, value in (rng.choice(known).signals or {}).items()}
        fresh = Tried(f"{number}", signals, wrong=False, refused=False)
        wrong = rng.random() > sureness(model, fresh)
        made.append(Tried(f"{number}", signals, wrong, refused=False))
    return made


def measure(slot: str, people: Sequence[Tried], budget: float, draws: int, rng: random.Random) -> Row:
    """Draw, certify and compare with the population."""
    certified = violations = tuned_violations = 0
    kept, tuned_kept = 0.0, 0.0
    for _ in range(draws):
        drawn = [Tried(f"{i}", t.signals, t.wrong, t.refused) for i, t in enumerate(rng.choices(people, k=DRAW))]
        shown = certify(
            drawn[:SELECT],
            drawn[SELECT:],
            [],
            error_budget=budget,
            confidence=0.95,
            samples=1,
            against="",
            checks_sha256=NO_CHECKS,
            compare="",
        )
        scored = scores_of(shown.calibrator, people)
        if shown.threshold is not None:
            share, risk = at(scored, shown.threshold)
            certified, kept, violations = certified + 1, kept + share, violations + (risk > budget)
        threshold = tuned(scores_of(shown.calibrator, drawn), budget)
        if threshold is not None:
            share, risk = at(scored, threshold)
            tuned_kept, tuned_violations = tuned_kept + share, tuned_violations + (risk > budget)
    # Random deferral has the risk of the whole population, whatever it keeps.
    all_wrong = sum(t.wrong for t in people) / len(people)
    random_kept = 1.0 if all_wrong <= budget else 0.0
    return Row(slot, budget, certified, violations, kept / draws, tuned_violations, tuned_kept / draws, random_kept)


def at(scored: Sequence[tuple[float, bool]], threshold: float) -> tuple[float, float]:
    """Return which share of a population a threshold keeps, and how much of that is wrong."""
    wrong = [bad for sure, bad in scored if sure >= threshold]
    return len(wrong) / len(scored), sum(wrong) / len(wrong) if wrong else 0.0


def tuned(scores: Sequence[tuple[float, bool]], budget: float) -> float | None:
    """Return the lowest threshold with at most the budget of errors on the draw."""
    best, wrong = None, 0
    for number, (sure, bad) in enumerate(sorted(scores, reverse=True), 1):
        wrong += bad
        if wrong / number <= budget:
            best = sure
    return best


def main() -> None:
    """Print a table, and write `.bench/guarantee.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--made", action="store_true", help="populations made larger by a score model")
    parser.add_argument("--phases", nargs="+", default=["specialist"], help="whose answers: specialist, base_grammar")
    parser.add_argument("--folders", nargs="+", type=Path, default=FOLDERS)
    asked = parser.parse_args()
    draws: int = asked.draws
    rows: list[Row] = []
    pools = recorded(asked.folders, asked.phases)
    if len(pools) > 1 and not asked.made:
        pools["all of them"] = [t for pool in pools.values() for t in pool]
    print("slot           budget  certified  violations (95 %)          kept   tuned: violations  kept   random: kept")
    for slot, seen in pools.items():
        rng = random.Random(slot)
        people = population(seen, rng) if asked.made else seen
        wrong = sum(t.wrong for t in people) / len(people)
        print(f"{slot}: {len(seen)} recorded answers, population {len(people)}, {wrong:.3f} of it wrong")
        for budget in BUDGETS:
            row = measure(slot, people, budget, draws, rng)
            rows.append(row)
            rate = wilson(row.violations, draws)
            print(
                f"{slot:<14} {budget:6g}  {row.certified:4d}/{draws}   {rate.score:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
                f"   {row.kept:10.3f}   {row.tuned_violations / draws:17.3f} {row.tuned_kept:5.3f} {row.random_kept:14.3f}"
            )
    out = Path(".bench")
    out.mkdir(exist_ok=True)
    (out / "guarantee.json").write_text(json.dumps([row.__dict__ for row in rows], indent=1))


if __name__ == "__main__":
    main()
