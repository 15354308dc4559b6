"""The demo's result as one table of at most 100 columns, for the command line to print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .words import (
    ANSWER_KEY_SENTENCE,
    MATCHER,
    budget_lines,
    by_answer_key,
    change,
    duration,
    goal_verdict,
    interval,
    llm_label,
    per_call,
    percent,
    points,
    points_interval,
    seconds_before,
    verdict,
)

NONE = "–"


def demo_table(report: Mapping[str, Any]) -> RenderableType:
    """Return each slot's scores beside its baselines, and the lines that belong below them.

    Args:
        report: the demo's result as JSON.
    """
    below = Table.grid(padding=(0, 2))
    below.add_column(style="bold", no_wrap=True)
    below.add_column(overflow="fold")
    for name, text in _lines(report):
        below.add_row(Text(name), Text(text))
    warning = [Text(ANSWER_KEY_SENTENCE, style="bold yellow")] if by_answer_key(report) else []
    return Group(*warning, _table(report), below)


def _table(report: Mapping[str, Any]) -> Table:
    table = Table(
        title=Text("Right answers on held-out examples, in per cent with their 95 % intervals", style="bold"),
        title_justify="left",
        box=box.ROUNDED,
        border_style="bright_black",
        show_lines=True,
    )
    table.add_column("slot", overflow="fold")
    heads = ("specialist", "base model,\nsame answers", "base model,\nfive examples", "plain code,\nthe best")
    for head in heads:
        style = "bold green" if head == "specialist" else ""
        table.add_column(head, justify="right", style=style, header_style=style, overflow="fold")
    table.add_column(Text(llm_label(report).replace(" ", "\n", 1)), justify="right", style="dim", overflow="fold")
    for slot, entry in report["slots"].items():
        code = entry.get("plain_code_name")
        table.add_row(
            _named(slot, f"n = {entry['n']}"),
            _cell(entry["specialist"]),
            _cell(entry.get("base_grammar") or entry.get("base_untaught")),
            _cell(entry.get("base_five_shot")),
            _cell(entry.get("plain_code"), below=str(code).replace("_", " ") if code else ""),
            _cell(entry.get("teacher")),
        )
        if unseen := entry.get("unseen_tools"):
            name = Text(f"tools not in training\nn = {unseen['n']}", style="dim")
            table.add_row(name, _cell(unseen["specialist"]), NONE, NONE, _cell(unseen.get("plain_code")), NONE)
    return table


def _lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    others = {"base_grammar": "base, same grammar", "base_five_shot": "base, five examples", "plain_code": "plain code"}
    others |= {"base_untaught": "base, untaught", "matcher": MATCHER}
    for slot, entry in report["slots"].items():
        valid = f"{percent(entry['valid']['score'])} ({interval(entry['valid'])}) of the specialist's answers met the contract"
        told = [line for line in (goal_verdict(entry), valid, entry.get("chosen")) if line]
        lines += [(slot, told[0]), *(("", line) for line in told[1:])]
        if entry.get("budget"):
            lines += [("", line) for line in budget_lines(entry["budget"])]
        for name, label in others.items():
            if paired := entry["differences"].get(name):
                found = f"{points(paired)} points ({points_interval(paired)}), {verdict(paired)}"
                # It has no column: only slots whose answers are few and known have one.
                own = f" ({percent(entry[name]['score'])})" if label == MATCHER else ""
                lines.append(("", f"minus {label}{own}: {found}"))
    workflow, tokens, seconds, calls = (report[key] for key in ("workflow", "tokens", "seconds_per_call", "calls"))
    runs = {
        "before": f"before, on the {llm_label(report)}",
        "after": "after",
        "agent_after": "after, an agent deciding",
        "within_budget": "within the error budget",
    }
    for number, (key, label) in enumerate((key, label) for key, label in runs.items() if workflow.get(key)):
        run = workflow[key]
        done = f"{percent(run['score'])} of the tasks ({interval(run)}, n = {run['n']}) {label}"
        lines.append(("" if number else "workflow", done))
    by = f"{calls['by_specialist']} by specialists, {calls['by_llm']} by the {llm_label(report)}"
    lines.append(("calls", f"{calls['total']}: {by}"))
    if within := report.get("calls_within_budget"):
        lines.append(("", f"within the error budget {within['by_specialist']} of {within['total']} by specialists"))
    first, then = tokens["before"]["input"], tokens["after"]["input"]
    constant = " → ".join(f"{tokens[when]['constant']:.0f}" for when in ("before", "after"))
    prompt = (
        f"{first:.0f} → {then:.0f} prompt tokens ({change(first, then)}), {constant} of them the same in every call"
    )
    lines.append(("a call", f"{prompt}; {_seconds(report, seconds['after'])}"))
    spent = f"{duration(sum(report['seconds'].values()))}, and {duration(report['downloads_seconds'])} of downloads"
    lines.append(("time", f"{spent}, on {report['machine']['cores']} cores"))
    lines.append(("split by", report["split"]["key"]))
    return lines + [("note", note) for note in report["notes"]]


def _seconds(report: Mapping[str, Any], after: float | None) -> str:
    before = seconds_before(report)
    share = change(before, after)
    return f"{per_call(before, report)} → {per_call(after, report)}{f' ({share})' if share else ''}"


def _named(name: str, below: str) -> Text:
    return Text.assemble((name, "bold"), "\n", (below, "dim"))


def _cell(score: Mapping[str, Any] | None, below: str = "") -> Text:
    if score is None:
        return Text(NONE, style="dim")
    cell = Text.assemble(f"{100 * score['score']:.1f}", "\n", (interval(score), "not bold dim"))
    return cell.append(f"\n{below}", style="dim") if below else cell
