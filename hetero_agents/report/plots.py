# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The page's plots: SVG text that takes its colours and its font from the page's style sheet.

Drawn by matplotlib's Figure objects, never by pyplot, so no global figure stays behind.
"""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from .words import Kind, by_answer_key, contestants, interval, per_call, percent, seconds_before

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that no plot would choose; the SVG leaves with the style sheet's variables in their place.
INK, MUTED, LINE, SURFACE = "#101112", "#606162", "#d0d1d2", "#fefdfc"
COLOURS: dict[Kind, str] = {"specialist": "#2060a1", "base": "#c06011", "code": "#804090", "llm": "#507050"}
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    SURFACE: "--surface",
    **{colour: f"--{kind}" for kind, colour in COLOURS.items()},
}

LABEL = 38
"""Most characters of a name beside its figures."""

WIDTH = 5.4
"""Inches of 72 units: narrow enough that the text is still read on a phone."""


def learning_curve(entry: Mapping[str, Any], name: str) -> str | None:
    """Return the training loss over the examples seen as SVG; None where none was recorded.

    Args:
        entry: a slot's part of the report.
        name: what tells the plot's ids from another plot's.
    """
    curve: Sequence[tuple[float, float]] = entry["learning_curve"]
    if not curve:
        return None
    with _figure(2.7) as (figure, axes):
        seen, loss = [point[0] for point in curve], [point[1] for point in curve]
        dots = "o" if len(curve) <= 40 else None
        axes.plot(seen, loss, color=COLOURS["specialist"], linewidth=2, marker=dots, markersize=3.5)
        axes.set_xlabel("training examples seen")
        axes.set_ylabel("training loss")
        axes.set_ylim(bottom=0, top=max(loss) * 1.1 or 1)
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        axes.annotate(
            f"{loss[-1]:.2f}",
            (seen[-1], loss[-1]),
            (0, 8),
            textcoords="offset points",
            ha="right",
            color=COLOURS["specialist"],
        )
        return _svg(figure, name)


def accuracy(report: Mapping[str, Any], entry: Mapping[str, Any], name: str) -> str:
    """Return every contestant's share of right answers with its 95 % interval as SVG.

    An answer key is drawn hollow: it is no model.

    Args:
        report: the whole report.
        entry: the slot's part of it.
        name: what tells the plot's ids from another plot's.
    """
    rows = contestants(report, entry)
    with _figure(0.6 + 0.5 * len(rows)) as (figure, axes):
        for y, row in enumerate(reversed(rows)):
            value, low, high = (100 * row.score[key] for key in ("score", "low", "high"))
            hollow = row.kind == "llm" and by_answer_key(report)
            axes.plot([0, 100], [y, y], color=LINE, linewidth=1, zorder=1)
            axes.errorbar(
                [value],
                [y],
                # A score at the end of its interval may pass it by a rounding error, and matplotlib refuses that.
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                fmt="o",
                markersize=7.5,
                color=COLOURS[row.kind],
                markerfacecolor=SURFACE if hollow else COLOURS[row.kind],
                markeredgewidth=1.8,
                elinewidth=2.4,
                capsize=4,
                clip_on=False,
                zorder=3,
            )
            # The whole name stands in the table below the plot.
            label = row.label if len(row.label) <= LABEL else f"{row.label[: LABEL - 1]}…"
            axes.text(0, y + 0.24, label, va="bottom", color=INK)
            axes.text(100, y + 0.24, f"{value:.1f} ({interval(row.score)})", va="bottom", ha="right", color=MUTED)
        axes.set_yticks([])
        axes.set_ylim(-0.4, len(rows) - 0.2)
        axes.set_xlim(-1.5, 101.5)
        axes.set_xticks(range(0, 101, 25))
        axes.spines["left"].set_visible(False)
        label = "right answers, % (95 % interval)"
        if (goal := entry.get("goal")) is not None:
            label += f"; upright: the goal of {percent(goal)}"
            ends = [[y + end for y in range(len(rows))] for end in (-0.2, 0.2)]
            axes.vlines([100 * goal] * len(rows), *ends, color=MUTED, linewidth=1.5, zorder=2)
        axes.set_xlabel(label)
        return _svg(figure, name)


def before_after(report: Mapping[str, Any], name: str) -> str:
    """Return prompt tokens and seconds a call, before and after, as SVG.

    Args:
        report: the whole report.
        name: what tells the plot's ids from another plot's.
    """
    tokens, after = report["tokens"], report["seconds_per_call"]["after"]
    before = seconds_before(report)
    panels = [
        ("prompt tokens a call", [(v, f"{v:.0f}") for v in (tokens["before"]["input"], tokens["after"]["input"])]),
        ("seconds a call", [(v, per_call(v, report)) for v in (before, after)]),
    ]
    with _figure(3.1, rows=2) as (figure, *both):
        for axes, (title, bars) in zip(both, panels, strict=True):
            top = max(value or 0 for value, _ in bars) or 1
            for y, (value, text) in enumerate(reversed(bars)):
                colour = COLOURS["specialist" if y == 0 else "llm"]
                axes.barh([y], [value or 0], height=0.55, color=colour)
                axes.annotate(
                    text,
                    (value or 0, y),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    color=INK if value else MUTED,
                )
            axes.set_yticks([0, 1], ["after", "before"])
            axes.set_xlim(0, 1.25 * top)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.set_title(title, loc="left", fontsize=11, color=MUTED)
        return _svg(figure, name)


def pareto(rounds: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return candidates' right answers over the seconds of a call as SVG, and the line of those that no other beats in both.

    Args:
        rounds: `name`, `round`, `score` and `seconds` of each candidate in each round.
        name: what tells the plot's ids from another plot's.
    """
    with _figure(3.6) as (figure, axes):
        for entry in rounds:
            value, low, high = (100 * entry["score"][key] for key in ("score", "low", "high"))
            colour = COLOURS["specialist" if entry["train_seconds"] else "base"]
            reach = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(
                [entry["seconds"]], [value], yerr=reach, fmt="o", markersize=7, color=colour, capsize=3, elinewidth=1
            )
            label = f"{entry['name']}, {entry['round']}"
            axes.annotate(
                label[:LABEL], (entry["seconds"], value), (7, 5), textcoords="offset points", color=INK, fontsize=9
            )
        best = [e for e in rounds if not any(_beats(other, e) for other in rounds)]
        front = sorted((e["seconds"], 100 * e["score"]["score"]) for e in best)
        axes.plot([x for x, _ in front], [y for _, y in front], color=MUTED, linewidth=1, linestyle="--", zorder=1)
        axes.set_xlabel("seconds a call")
        axes.set_ylabel("right answers, % (95 % interval)")
        axes.yaxis.label.set_color(MUTED)
        axes.set_xlim(left=0, right=1.6 * max(e["seconds"] for e in rounds) or 1)
        axes.set_ylim(0, 105)
        axes.grid(axis="y")
        return _svg(figure, name)


def curve(slot: Mapping[str, Any], name: str) -> str:
    """Return how many of a specialist's answers are wrong by how many it gives alone, surest first, as SVG.

    Args:
        slot: one slot of what `hetero report` found, with `curve` and `movable`.
        name: what tells the plot's ids from another plot's.
    """
    with _figure(3.2) as (figure, axes):
        axes.plot(*zip(*((100 * x, 100 * y) for x, y in slot["curve"]), strict=True), color=COLOURS["specialist"])
        for movable in slot["movable"]:
            if movable["certified"]:
                at = 100 * movable["share"]["score"], 100 * movable["error_budget"]
                axes.plot(*at, "o", color=INK, markersize=6)
                axes.annotate(f"{at[1]:g} %", at, (6, 4), textcoords="offset points", color=INK, fontsize=9)
        axes.set_xlabel("kept, % of held-out calls; dots: what is certified, at its budget")
        axes.set_ylabel("wrong among them, %")
        axes.yaxis.label.set_color(MUTED)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        return _svg(figure, name)


def reliability(bins: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return how often answers are right by how sure they are as SVG; on the line both are the same.

    Args:
        bins: `sure`, `right` and `n` of each.
        name: what tells the plot's ids from another plot's.
    """
    with _figure(3.2) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=LINE, linewidth=1, zorder=1)
        points = [(100 * b["sure"], 100 * b["right"]) for b in bins]
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS["specialist"], markersize=6, linewidth=1)
        axes.set_xlabel("sure, % (mean of a tenth of the answers)")
        axes.set_ylabel("right, %")
        axes.yaxis.label.set_color(MUTED)
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 103)
        return _svg(figure, name)


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one is better in right answers or seconds, and not worse in the other."""
    mine, theirs = (one["score"]["score"], -one["seconds"]), (other["score"]["score"], -other["seconds"])
    return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]


@contextmanager
def _figure(height: float, rows: int = 1) -> Generator[tuple[Any, ...]]:
    """Give a Figure and its axes, one below the other, in the page's style."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("The HTML report", "distill") from error
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "hetero_agents",
        # A slot's name may hold a dollar sign.
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": LINE,
        "xtick.color": MUTED,
        "ytick.color": LINE,
        "ytick.labelcolor": INK,
        "grid.color": LINE,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        every: list[Axes] = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
        for axes in every:
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=0)
        yield figure, *every


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element whose ids begin with `name` and which names no address outside."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text, count=1
    )
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
