# ruff: noqa: TID253
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Do further signals of confidence help? Calibrators of several sets of them, on what the demo's specialists answered.

Each is fitted to a random part of the recorded answers, as large as a select part is, and measured on the others: log loss, and AUC of right against
wrong. `chosen` is what `hetero distill` does: the first signals, and of the further ones what cross-validation on the same part lets in.

    python -m tests.bench.signals [--draws 100]
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from hetero_agents.distill.certify import FURTHER, Tried, fit, sureness
from tests.bench.guarantee import DEMO, recorded

SIZES = (44, 118, 200)
"""Answers that a calibrator is fitted to: the demo's select part, that with a router, and more than it has."""


@dataclass(frozen=True)
class Row:
    """One set of signals, fitted to so many answers of a slot."""

    slot: str
    fitted_to: int
    signals: str
    loss: float
    worse: float
    """Log loss above that of the first signals alone, in the mean of the draws."""
    spread: float
    """Standard deviation of that over the draws."""
    auc: float


def main() -> None:
    """Print a table, and write `.bench/signals.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    rows: list[Row] = []
    for slot, seen in recorded([DEMO], ["specialist"]).items():
        answers = [t for t in seen if t.signals and not t.refused]
        right = sum(not t.wrong for t in answers) / len(answers)
        print(f"{slot}: {len(answers)} recorded answers, {right:.3f} of them right; alone, AUC: {alone(answers)}")
        for size in SIZES:
            if size < 0.8 * len(answers):
                found, taken = measured(slot, answers, size, draws)
                print(f"  fitted to {size}; chosen in so many of {draws} draws: {taken}")
                for row in found:
                    print(
                        f"    {row.signals:<40} loss {row.loss:.3f} ({row.worse:+.3f}, sd {row.spread:.3f})  AUC {row.auc:.3f}"
                    )
                rows += found
    out = Path(".bench")
    out.mkdir(exist_ok=True)
    (out / "signals.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))


def alone(answers: Sequence[Tried]) -> str:
    """Return the AUC of each signal that all answers have."""
    from sklearn.metrics import roc_auc_score

    right = [not t.wrong for t in answers]
    names = sorted(set[str].intersection(*(set(t.signals or {}) for t in answers)))
    return ", ".join(f"{n} {roc_auc_score(right, [(t.signals or {})[n] for t in answers]):.3f}" for n in names)


def measured(slot: str, answers: Sequence[Tried], size: int, draws: int) -> tuple[list[Row], dict[str, int]]:
    """Return what each set of signals gives, and how often each further signal was chosen."""
    from sklearn.metrics import log_loss, roc_auc_score

    have = set[str].intersection(*(set(t.signals or {}) for t in answers))
    first, more = sorted(have.difference(FURTHER, {"product"})), sorted(have.intersection(FURTHER))
    ends_too = sorted(have.difference(FURTHER, {"text"}))
    sets = {"+".join(names): names for names in (first, ends_too, *([*first, name] for name in more), [*first, *more])}
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in (*sets, "chosen")}
    taken: Counter[str] = Counter()
    rng = random.Random(0)
    for _ in range(draws):
        drawn = rng.sample(answers, len(answers))
        right = [not t.wrong for t in drawn[size:]]
        for name in scores:
            names = sets.get(name, [*first, *more])
            shown = [replace(t, signals={n: (t.signals or {})[n] for n in names}) for t in drawn]
            calibrator = fit(shown[:size]) if name == "chosen" else fit(shown[:size], further=())
            assert calibrator is not None
            if name == "chosen":
                taken.update(set(calibrator.weights).intersection(more))
            sure = [sureness(calibrator, t) for t in shown[size:]]
            scores[name].append((float(log_loss(right, sure)), float(roc_auc_score(right, sure))))
    before = np.array([loss for loss, _ in scores["+".join(first)]])
    rows: list[Row] = []
    for name, given in scores.items():
        losses, areas = np.array(given).T
        worse = losses - before
        rows.append(Row(slot, size, name, losses.mean(), worse.mean(), worse.std(), areas.mean()))
    return rows, dict(taken)


if __name__ == "__main__":
    main()
