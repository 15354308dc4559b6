"""The demo's result as one HTML file that opens anywhere, without a network.

Everything is inside: style, script, plots. The page's own content security policy forbids any load,
and what models wrote is escaped, so a hostile answer stays text.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bindings.lock import write_atomically
from ..errors import MissingExtraError
from . import plots, words

if TYPE_CHECKING:
    from jinja2 import Environment

ANSWERS = 40
"""Most answers that are listed for each slot."""

WRONG_FIRST = 28
"""Wrong answers that are listed before right ones get the rest of the places."""

DIFFERENCES = {
    "base_grammar": "base model, same grammar",
    "base_five_shot": "base model, five examples",
    "base_untaught": "base model, untaught",
    "plain_code": "plain code",
    "matcher": words.MATCHER,
}

RUNS = {
    "before": "before",
    "after": "after",
    "agent_after": "after, an agent deciding",
    "within_budget": "within the error budget",
}


def write_report(report: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the page.

    Args:
        report: the demo's result as JSON.
        predictions: every contestant's answer to every held-out example.
        path: where the page goes; a reader sees the old one or the new one.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    write_page(
        path,
        "template.html",
        report=report,
        change=words.change,
        per_call=words.per_call,
        answer_key=words.by_answer_key(report),
        answer_key_sentence=words.ANSWER_KEY_SENTENCE,
        llm=words.llm_label(report),
        slots=[_slot(report, name, number) for number, name in enumerate(report["slots"])],
        runs=[(label, report["workflow"][key]) for key, label in RUNS.items() if report["workflow"].get(key)],
        seconds_before=words.seconds_before(report),
        before_after=plots.before_after(report, "calls"),
        answers=_answers(predictions),
        listed=ANSWERS,
        script_sha256=_script_sha256(),
    )


def write_bake_off(path: Path, slot: str, rounds: Sequence[Mapping[str, Any]], why: str) -> None:
    """Write the page of a bake-off: quality against cost, and each round.

    Args:
        path: where the page goes; a reader sees the old one or the new one.
        slot: the slot's id.
        rounds: `name`, `round`, `score`, `seconds`, `gb`, `train_seconds` and `kept` of each candidate in each round.
        why: the sentence that says who won.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    write_page(path, "bake-off.html", slot=slot, rounds=rounds, why=why, pareto=plots.pareto(rounds, "pareto"))


def write_movable(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page that `hetero report` gives: what can move, slot by slot.

    Args:
        path: where the page goes; a reader sees the old one or the new one.
        found: what the command prints as JSON.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    slots = [
        (
            slot,
            plots.curve(slot, f"curve{number}") if slot["curve"] else None,
            plots.reliability(slot["reliability"], f"sure{number}") if slot["reliability"] else None,
        )
        for number, slot in enumerate(found["slots"])
    ]
    write_page(path, "movable.html", found=found, slots=slots)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill one of this room's templates and write it whole.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("The HTML report", "distill") from error
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    _teach(environment)
    write_atomically(path, environment.get_template(template).render(**values).encode())


def _source(name: str) -> str:
    return importlib.resources.files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")


def _teach(environment: Environment) -> None:
    """Give the template the words' functions as filters."""
    environment.filters.update(
        percent=words.percent,
        interval=words.interval,
        points=words.points,
        points_interval=words.points_interval,
        verdict=words.verdict,
        duration=words.duration,
        pretty=_pretty,
    )


def _slot(report: Mapping[str, Any], name: str, number: int) -> dict[str, Any]:
    entry = report["slots"][name]
    code = entry.get("plain_code_name")
    return {
        "name": name,
        "entry": entry,
        "goal": words.goal_verdict(entry),
        "contestants": words.contestants(report, entry),
        "differences": [
            (
                f"{words.code_label(code)} (the best)" if key == "plain_code" and code else label,
                entry["differences"][key],
            )
            for key, label in DIFFERENCES.items()
            if entry["differences"].get(key)
        ],
        "unseen": entry.get("unseen_tools"),
        "budget": words.budget_lines(entry["budget"]) if entry.get("budget") else [],
        "reliability": _reliability(entry.get("budget"), f"sure{number}"),
        "learning_curve": plots.learning_curve(entry, f"loss{number}"),
        "accuracy": plots.accuracy(report, entry, f"accuracy{number}"),
    }


def _reliability(budget: Mapping[str, Any] | None, name: str) -> str | None:
    return plots.reliability(budget["reliability"], name) if budget and budget["reliability"] else None


def _answers(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the specialist's answers by slot, wrong ones first, each with what the others said."""
    others: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for line in predictions:
        if label := _other(line):
            others.setdefault((line["slot"], line["item"]), []).append((label, line))
    slots = list(dict.fromkeys(line["slot"] for line in predictions if line["phase"] == "specialist"))
    found: list[dict[str, Any]] = []
    for slot in slots:
        mine = [line for line in predictions if line["phase"] == "specialist" and line["slot"] == slot]
        wrong, right = [line for line in mine if not line["right"]], [line for line in mine if line["right"]]
        wrongs = wrong[: max(WRONG_FIRST, ANSWERS - len(right))]
        shown = wrongs + right[: ANSWERS - len(wrongs)]
        found.append(
            {
                "slot": slot,
                "total": len(mine),
                "wrong": len(wrong),
                "wrong_listed": len(wrongs),
                "listed": len(shown),
                "rows": [
                    {"line": line, "title": _title(line["input"]), "others": others.get((slot, line["item"]), [])}
                    for line in shown
                ],
            }
        )
    return found


def _other(line: Mapping[str, Any]) -> str | None:
    if line["phase"] == "plain_code":
        return words.code_label(line["model"])
    return DIFFERENCES.get(line["phase"])


def _title(arguments: Mapping[str, Any]) -> str:
    """Return what tells a call from another: its first text, or all of it."""
    return next((value for value in arguments.values() if isinstance(value, str)), None) or json.dumps(
        arguments, ensure_ascii=False
    )


def _pretty(value: Any) -> str:
    """Return a text as it is and other JSON on as many lines as it needs."""
    if isinstance(value, str):
        return value
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= 100 else json.dumps(value, ensure_ascii=False, indent=2)


def _script_sha256() -> str:
    """Return the hash by which the content security policy knows the page's own script."""
    script = re.search(r"<script>(.*?)</script>", _source("template.html"), flags=re.DOTALL)
    assert script is not None
    return base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
