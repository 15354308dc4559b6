"""`make demo`: the whole loop on one machine, in `.hetero/demo`, with honest figures.

Run the desk on the LLM -> choose a base for each slot and distill it -> promote -> run held-out work, with all of the specialists'
answers and then within the error budget -> report. Each step is kept, so a second run uses what the first one made, and an interrupted one goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydantic_ai.exceptions import AgentRunError

from hetero_agents import HeteroError, UserError, code_agent, flush, workflow_outcome
from hetero_agents.bindings import ModelConfig, Workspace
from hetero_agents.bindings.lock import write_atomically
from hetero_agents.cli import common
from hetero_agents.contract import sha256_of
from hetero_agents.distill import Distilled, Recipe, distill
from hetero_agents.distill.curate import Example
from hetero_agents.distill.evaluate import predict
from hetero_agents.engines import EMBEDDER, SERVER_SLOTS
from hetero_agents.engines.catalog import fetch_weights, find_weights
from hetero_agents.report import demo_table, write_report
from hetero_agents.slots import App, registry
from hetero_agents.spans import Names

from . import desk as agents
from .figures import SLOTS, WEIGHTS, by_input, call_of, items_of_part, line_of, mean, share, slot_report, tokens
from .work import Item, answer_lines, load_items

HERE = Path(__file__).parent
FOLDER = Path(".hetero") / "demo"
ANSWER_KEY = "answer-key"
AT_ONCE = 16
CODE_RUNS = 30
"""Held-out runs of the whole desk in code agency; each slot alone is measured on all held-out calls."""
AGENT_RUNS = 6
"""Held-out runs of the root agent."""

RECIPES = {
    "desk.choose": Recipe(epochs=3.0, max_length=256, vary_options=True),
    "desk.fill": Recipe(epochs=1.3, max_length=320),
}

CANDIDATES = {"desk.choose": ("small", "matcher"), "desk.fill": ()}
"""Bases among which a bake-off chooses; `fill` writes, which only one of them can."""


@dataclass(frozen=True)
class Runs:
    """Runs of the desk on items, in one agency."""

    ok: dict[str, bool]
    """Whether BFCL accepts the call, by item."""
    seconds: float
    """Mean seconds a run."""
    calls: int
    """Model calls: of the slots, and of the root agent where there is one."""
    by_specialist: int


@code_agent(name="desk.work")
async def one_run(item: Item, agency: str) -> bool:
    """Serve one item in one agency, say whether BFCL accepts the call, and return it."""
    if agency == "code":
        call = await agents.desk(item.request, item.tools)
    else:
        call = (await agents.desk_root.run(item.prompt)).output
    ok = call.tool == item.tool and item.accepts(call.arguments)
    workflow_outcome(ok=ok)
    return ok


def main(*, llm: str | None, train_on_outputs: bool, fresh: bool, as_json: bool) -> None:
    """Run the demo and print its table, or with `as_json` its report."""
    # The table says it too.
    warnings.filterwarnings("ignore", message=".* is not used: nothing that it answers is certified")
    llm = _which_llm(llm, train_on_outputs)
    started = time.perf_counter()
    with common.fetch_progress() as progress:
        items = load_items(progress)
        for weights in (WEIGHTS, EMBEDDER):
            fetch_weights(find_weights(weights), progress)
    fetched = time.perf_counter() - started
    work = sha256_of([llm, [slot.contract.sha256 for slot in SLOTS.values()], list(answer_lines(items))])
    stamp = FOLDER / "work.sha256"
    if fresh or (FOLDER.exists() and (not stamp.exists() or stamp.read_text() != work)):
        if not fresh:
            common.err.print(f"The work in {FOLDER} is of another version or another LLM: the demo begins again.")
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_atomically(stamp, work.encode())
    clock = _Clock(FOLDER / "seconds.json")
    clock.add("downloads", "", fetched)
    _write_workspace(llm, items)
    registry.use(App.of(Workspace(FOLDER)))
    report, predictions = asyncio.run(_loop(items, llm, clock))
    write_atomically(FOLDER / "report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    lines = "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in predictions)
    write_atomically(FOLDER / "predictions.jsonl", lines.encode())
    write_report(report, predictions, FOLDER / "report.html")
    if as_json:
        common.print_json(report)
    else:
        common.out.print(demo_table(report))
        common.out.print(
            f"Look at {FOLDER / 'report.html'}; every held-out answer is in {FOLDER / 'predictions.jsonl'}.",
            soft_wrap=True,
        )


def _which_llm(llm: str | None, train_on_outputs: bool) -> str:
    if llm is None:
        llm = "openai:gpt-5.2" if os.environ.get("OPENAI_API_KEY") else ANSWER_KEY
    if llm != ANSWER_KEY and not train_on_outputs:
        raise UserError(
            f"The demo would send about 1,500 calls to {llm} and train on its answers: say --train-on-outputs if its "
            f"terms allow that, or --llm {ANSWER_KEY} to let recorded answers play the LLM."
        )
    return llm


def _write_toml(llm: str, *, budgets: bool) -> None:
    """Write the workspace's hetero.toml; without budgets a specialist answers all calls of its slot."""
    lines = (HERE / "hetero.toml").read_text("utf-8").splitlines(keepends=True)
    toml = "".join(line for line in lines if budgets or not line.startswith("error_budget"))
    if llm != ANSWER_KEY:
        toml = toml.replace("replay:answers.jsonl", llm)
    write_atomically(FOLDER / "hetero.toml", toml.encode())


def _write_workspace(llm: str, items: Sequence[Item]) -> None:
    _write_toml(llm, budgets=True)
    shutil.copyfile(HERE / "desk.py", FOLDER / "desk.py")
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in answer_lines(list(items)))
    write_atomically(FOLDER / "answers.jsonl", "".join(lines).encode())


async def _loop(items: Sequence[Item], llm: str, clock: _Clock) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    seen = [item for item in items if not item.unseen]
    with common.step_progress() as progress:
        before = await _kept_runs("llm_run", seen, "code", {"llm": llm}, clock, progress, at_once=AT_ONCE)
        made: dict[str, Distilled] = {}
        for name, slot in SLOTS.items():
            with clock.phase(f"distill {name}", sha256_of([RECIPES[name].sha256, *CANDIDATES[name]])) as lap:
                made[name] = await distill(
                    registry.app,
                    slot,
                    candidates=CANDIDATES[name],
                    recipe=RECIPES[name],
                    progress=lambda step, done, total, name=name: progress(f"{name}: {step}", done, total),
                )
                lap.counts = not made[name].reused
            registry.app.workspace.activate(slot.id, made[name].specialist_id)
            registry.app.state.forget(made[name].specialist_id)  # as `hetero promote` does
        budgets = {name: d.specialist.certificate for name, d in made.items()}
        specialists: dict[str, Any] = {name: [d.specialist_id, d.specialist.adapter_sha256] for name, d in made.items()}
        held_out = [item for item in items_of_part(made["desk.choose"], items, "test") if not item.unseen]
        _write_toml(llm, budgets=False)
        after = await _kept_runs("held_out", held_out[:CODE_RUNS], "code", specialists, clock, progress)
        as_agent = await _kept_runs("held_out_agent", held_out[:AGENT_RUNS], "agent", specialists, clock, progress)
        _write_toml(llm, budgets=True)
        shown = {**specialists, "budgets": [c and c.model_dump(exclude={"created"}) for c in budgets.values()]}
        within = await _kept_runs("held_out_budget", held_out[:CODE_RUNS], "code", shown, clock, progress)
        unseen = [item for item in items if item.unseen]
        unseen_lines = await _unseen_tools(unseen, made, specialists, clock, progress)
    predictions = [
        line_of(name, p, known) for name, d in made.items() for known in [by_input(name, items)] for p in d.predictions
    ]
    report = {
        "teacher_kind": "answer key" if llm == ANSWER_KEY else llm,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "slots": {
            name: slot_report(
                name, d, [p for p in predictions if p["slot"] == name], [p for p in unseen_lines if p["slot"] == name]
            )
            for name, d in made.items()
        },
        "calls": {
            "total": after.calls + as_agent.calls,
            "by_specialist": after.by_specialist + as_agent.by_specialist,
            "by_llm": after.calls + as_agent.calls - after.by_specialist - as_agent.by_specialist,
        },
        "calls_within_budget": {
            "total": within.calls,
            "by_specialist": within.by_specialist,
            "by_llm": within.calls - within.by_specialist,
        },
        "workflow": {
            "before": share([before.ok[item] for item in after.ok]),
            "after": share(list(after.ok.values())),
            "agent_after": share(list(as_agent.ok.values())),
            "within_budget": share(list(within.ok.values())),
        },
        "tokens": tokens(held_out, {name for name, d in made.items() if d.specialist.matcher}),
        "seconds_per_call": {
            "before": None if llm == ANSWER_KEY else before.seconds / len(SLOTS),
            "after": mean(
                [p["seconds"] for p in predictions if p["phase"] == "specialist" and p["seconds"] is not None]
            ),
        },
        "seconds": {name: value for name, value in clock.seconds.items() if name != "downloads"},
        "downloads_seconds": clock.seconds["downloads"],
        "split": {
            "key": made["desk.choose"].dataset.split_key,
            "trained_items": sorted({item.id for d in made.values() for item in items_of_part(d, items, "train")}),
        },
        "notes": _notes(llm),
    }
    return report, predictions + unseen_lines


# -- runs --------------------------------------------------------------------------------------


async def _kept_runs(
    name: str,
    items: Sequence[Item],
    agency: str,
    made_by: dict[str, Any],
    clock: _Clock,
    progress: Any,
    at_once: int = SERVER_SLOTS,
) -> Runs:
    """Run the desk on items, or give what an earlier run of the demo with the same models kept."""
    note, gate = FOLDER / f"{name}.jsonl", asyncio.Semaphore(at_once)
    lines: list[dict[str, Any]] = []
    for line in note.read_text().splitlines() if note.exists() else ():
        with suppress(ValueError):  # a line that a kill cut short: its item runs again
            lines.append(json.loads(line))
    if not lines or lines[0]["made_by"] != made_by:
        lines = [{"made_by": made_by, "began": time.time_ns()}]
        write_atomically(note, (json.dumps(lines[0]) + "\n").encode())
    done: dict[str, dict[str, Any]] = {line["item"]: line for line in lines[1:]}
    missing = [item for item in items if item.id not in done]

    async def one(item: Item, file: TextIO) -> None:
        async with gate:
            started = time.perf_counter()
            try:
                ok = await one_run(item, agency)
            except (HeteroError, AgentRunError):
                ok = False  # among them the states that an answer key does not know
            done[item.id] = {"item": item.id, "ok": ok, "seconds": time.perf_counter() - started}
            file.write(json.dumps(done[item.id]) + "\n")
            file.flush()
        progress(name, len(done), len(items))

    if missing:
        with clock.phase(name, sha256_of(made_by)), note.open("a") as file:
            await asyncio.gather(*(one(item, file) for item in missing))
            flush()
    runs = [done[item.id] for item in items]
    calls = _answered_by(since=lines[0]["began"], until=note.stat().st_mtime_ns)
    return Runs({run["item"]: run["ok"] for run in runs}, mean([run["seconds"] for run in runs]), *calls)


def _answered_by(since: int, until: int) -> tuple[int, int]:
    """Model calls between two times, those of the root agent among them, and how many a specialist answered."""
    calls = [
        span["attributes"]
        for name in (*SLOTS, agents.desk_root.name)
        for span in registry.app.vault.read(slot=name)
        if span["attributes"].get(Names.SLOT) == name and since <= span["start"] <= until
    ]
    return len(calls), sum(Names.SPECIALIST in call for call in calls)


async def _unseen_tools(
    items: Sequence[Item], made: dict[str, Distilled], made_by: dict[str, Any], clock: _Clock, progress: Any
) -> list[dict[str, Any]]:
    """Each specialist alone on the tools that it was not trained on; nothing of it is logged, so nothing is trained on it later."""
    note = FOLDER / "unseen.json"
    if note.exists() and (kept := json.loads(note.read_text()))["made_by"] == made_by:
        return kept["lines"]
    lines: list[dict[str, Any]] = []
    with clock.phase("unseen_tools", sha256_of(made_by)):
        for name, distilled in made.items():
            endpoint = await registry.app.engines.specialist(
                distilled.specialist_id, distilled.specialist, ModelConfig(model=distilled.specialist.base)
            )
            contract, known = SLOTS[name].contract, by_input(name, items)
            examples = [
                Example(sha256_of(values), values, target, "", False, "", "")
                for item in items
                for values, target in [call_of(name, item)]
            ]
            asked = predict("unseen_tools", endpoint, contract, examples, at_once=SERVER_SLOTS)
            async for p in asked:
                lines.append(line_of(name, p, known))
                progress("unseen_tools", len(lines), len(made) * len(items))
    write_atomically(note, json.dumps({"made_by": made_by, "lines": lines}, ensure_ascii=False).encode())
    return lines


def _notes(llm: str) -> list[str]:
    notes = [
        "Right means: BFCL accepts the answer. Tools recur between training and test, requests do not; tools that no specialist saw are counted apart.",
        f"The workflow is run on {CODE_RUNS} held-out requests in code agency and {AGENT_RUNS} with the root agent; a slot's own score is on all held-out calls.",
        "Within the error budget a specialist gives only the answers that it was shown to be sure enough of, on calls kept apart for that; the LLM gives the others.",
    ]
    if llm == ANSWER_KEY:
        notes.insert(
            0,
            "The LLM is played by an answer key (BFCL's accepted calls): its score, seconds and cost say nothing about a real LLM.",
        )
    return notes


class _Lap:
    counts = True
    """False where the phase found its work done."""


class _Clock:
    """Seconds by phase, kept over runs of the demo: an interrupted phase adds up, one that is of other work starts at zero."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._laps: dict[str, tuple[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def seconds(self) -> dict[str, float]:
        return {name: round(seconds, 1) for name, (_, seconds) in self._laps.items()}

    @contextmanager
    def phase(self, name: str, of: str) -> Generator[_Lap]:
        """Measure a phase of some work, whether it ends or is interrupted."""
        started, lap = time.perf_counter(), _Lap()
        try:
            yield lap
        finally:
            if lap.counts:
                self.add(name, of, time.perf_counter() - started)

    def add(self, name: str, of: str, seconds: float) -> None:
        before, spent = self._laps.get(name, (of, 0.0))
        self._laps[name] = of, seconds + (spent if before == of else 0.0)
        write_atomically(self._path, json.dumps(self._laps).encode())
