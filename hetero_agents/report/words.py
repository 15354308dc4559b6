"""The words and the number formats that the terminal and the page share.

Figures come in as shares from 0 to 1 and seconds; they go out as text with their n and interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ANSWER_KEY = "answer key"

ANSWER_KEY_SENTENCE = (
    "The LLM of this run is played by an answer key (recorded ground truth): "
    "its score, seconds and cost say nothing about a real LLM."
)

MATCHER = "matcher on embeddings"

Kind = Literal["specialist", "base", "code", "llm"]


@dataclass(frozen=True)
class Contestant:
    """One line of a slot's comparison."""

    name: str
    """`specialist`, `base_grammar`, `base_five_shot`, `base_untaught`, `matcher`, `teacher`, or the name of a piece of plain code."""
    label: str
    kind: Kind
    score: Mapping[str, Any]
    """`score`, `low`, `high`."""
    n: int


def by_answer_key(report: Mapping[str, Any]) -> bool:
    """Return whether recorded ground truth stood in for the LLM."""
    return report["teacher_kind"] == ANSWER_KEY


def llm_label(report: Mapping[str, Any]) -> str:
    """Return what to call the LLM wherever it is shown."""
    return f"LLM ({report['teacher_kind']})"


def contestants(report: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Contestant]:
    """Return who answered a slot's held-out examples, the specialist first and the LLM last.

    Args:
        report: the whole report.
        entry: the slot's part of it.
    """
    names: list[tuple[str, str, Kind, Any]] = [
        ("specialist", "specialist", "specialist", entry["specialist"]),
        ("base_grammar", "base model, same grammar", "base", entry.get("base_grammar")),
        ("base_five_shot", "base model, five examples", "base", entry.get("base_five_shot")),
        ("base_untaught", "base model, untaught", "base", entry.get("base_untaught")),
        *(
            (name, code_label(name), "code", score)
            for name, score in sorted(plain_code(entry).items(), key=lambda item: -item[1]["score"])
        ),
        ("matcher", MATCHER, "code", entry.get("matcher")),
        ("teacher", llm_label(report), "llm", entry.get("teacher")),
    ]
    return [Contestant(name, label, kind, s, s.get("n", entry["n"])) for name, label, kind, s in names if s is not None]


def plain_code(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of all plain code that stood for a slot, by name."""
    every = dict(entry.get("plain_code_all") or {})
    if not every and entry.get("plain_code") is not None:
        every[entry.get("plain_code_name") or "best"] = entry["plain_code"]
    return every


def code_label(name: str) -> str:
    """Return what to call a piece of plain code."""
    return f"plain code, {name.replace('_', ' ')}"


def percent(share: float) -> str:
    """Return a share as `86.4 %`."""
    return f"{100 * share:.1f} %"


def interval(score: Mapping[str, Any]) -> str:
    """Return an interval of shares as `81.2–90.3`, in per cent."""
    return f"{100 * score['low']:.1f}–{100 * score['high']:.1f}"


def points(difference: Mapping[str, Any]) -> str:
    """Return a difference of shares as `+40.0`, in percentage points."""
    return _signed(difference["difference"])


def points_interval(difference: Mapping[str, Any]) -> str:
    """Return a difference's interval as `+30.1 to +50.2`, in percentage points."""
    return f"{_signed(difference['low'])} to {_signed(difference['high'])}"


def verdict(difference: Mapping[str, Any]) -> str:
    """Return what an interval of specialist minus other allows to say."""
    if difference["low"] > 0:
        return "specialist better"
    if difference["high"] < 0:
        return "specialist worse"
    return "not decided"


def goal_verdict(entry: Mapping[str, Any]) -> str | None:
    """Return how the specialist stands to the slot's goal; None where no goal was set."""
    goal = entry.get("goal")
    if goal is None:
        return None
    mine = entry["specialist"]
    if mine["score"] < goal:
        doubt = "; the interval reaches above it" if mine["high"] >= goal else ""
        return f"goal of {percent(goal)} missed{doubt}"
    doubt = "; the interval reaches below it" if mine["low"] < goal else ""
    return f"goal of {percent(goal)} reached{doubt}"


def budget_lines(budget: Mapping[str, Any]) -> list[str]:
    """Return what was shown for a slot's error budget, and what it lets through on the test part."""
    asked = f"error budget {percent(budget['error_budget'])}, confidence {percent(budget['confidence'])}"
    if budget["threshold"] is None:
        return [f"{asked}: nothing is kept, the LLM answers: {budget['missing']}"]
    kept, wrong = budget["kept_of_test"], budget["wrong_of_kept"]
    shown = (
        f"{asked}: {budget['wrong']} of {budget['kept']} kept answers wrong, at most {percent(budget['upper_bound'])}"
    )
    told = f"{percent(kept['score'])} ({interval(kept)}) of held-out calls are kept"
    if wrong:
        told += f", {percent(wrong['score'])} ({interval(wrong)}) of them wrong"
    return [shown, told]


def seconds_before(report: Mapping[str, Any]) -> float | None:
    """Return the LLM's seconds a call; None for an answer key, whose seconds are not a model's."""
    return None if by_answer_key(report) else report["seconds_per_call"]["before"]


def per_call(seconds: float | None, report: Mapping[str, Any]) -> str:
    """Return seconds a call as `0.31 s`, or why there are none."""
    if seconds is None:
        return f"n/a ({ANSWER_KEY})" if by_answer_key(report) else "not measured"
    return f"{seconds:.2f} s"


def change(before: float | None, after: float | None) -> str:
    """Return `−35 %` for what became less, `` where it cannot be said."""
    if not before or after is None:
        return ""
    return f"{100 * (after / before - 1):+.0f} %".replace("-", "−")


def duration(seconds: float) -> str:
    """Return seconds as `9.4 s`, `3 min 20 s` or `1 h 02 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
