"""`python -m examples.software_company.study`: the company works on a hundred requirements from HumanEval, in `.hetero/software_company`.

An answer key plays the LLM (`problems.py`), so this shows what the procedure does with given answers: whether mistakes that were
put in are found and sent to the role that must mend them, what comes out, and who has to be asked how often. It says nothing of how
well a model plans, codes or judges. With `--distill` it also trains a specialist for each narrow slot, from the same calls; that takes
a while. Run again, it uses what it made. With `--unsafe` it also works where nothing can confine what models wrote.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from hetero_agents import CrewRun, DistillError, flush
from hetero_agents.bindings import Workspace
from hetero_agents.bindings.lock import write_atomically
from hetero_agents.cli import common
from hetero_agents.distill import Recipe, distill, wilson
from hetero_agents.roles.software import Delivery, Requirement, company
from hetero_agents.roles.software.messages import Bug, Build, Failed, Patch, Rejected
from hetero_agents.slots import App, registry
from hetero_agents.spans import Names
from hetero_agents.testing import Script, scripted

from .problems import Problem, Seed, documents, load_problems, wrong_draft

HERE = Path(__file__).parent
FOLDER = Path(".hetero") / "software_company"
AT_ONCE = 2
"""Requirements at a time: tests are run in as many processes."""

NARROW = {"reviewer.review": Recipe(epochs=2.0, max_length=1024), "tester.blame": Recipe(epochs=3.0, max_length=2048)}
"""Slots whose answers are one of a few, and how they are trained."""


@dataclass(frozen=True)
class Outcome:
    """What became of a requirement."""

    number: int
    seed: Seed
    passed: bool
    """By the company's own run of the tests, which are HumanEval's."""
    right: bool
    """By HumanEval's tests, run apart from the company on the file that it delivered."""
    rejected: int
    """Drafts that the reviewer rejected."""
    mended: int
    """Rounds of debugging."""
    sent_to: str
    """Who was to mend what the first failing run found; empty where none failed."""
    tested: int
    """Runs of tests that passed: MetaGPT asks a model for each whether it did."""
    seconds: float

    @property
    def found(self) -> bool:
        """Whether a mistake that only a test run can find was found, and sent to the role that must mend it."""
        return self.mended > 0 and self.sent_to == {"unseen bug": "engineer", "wrong test": "tester"}.get(self.seed)


def main() -> None:
    """Run the study, print its table and write its report."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with common.fetch_progress() as progress:
        problems = load_problems(progress)
    unsafe = common.told_unsafe() if "--unsafe" in sys.argv[1:] else nullcontext()
    with unsafe, common.step_progress() as progress:
        outcomes, calls = asyncio.run(_work(problems, progress))
        report = _report(outcomes, calls)
        if "--distill" in sys.argv[1:]:
            report["distilled"] = asyncio.run(_distil(calls, progress))
    write_atomically(FOLDER / "report.json", json.dumps(report, indent=1).encode())
    table = Table("what", "share (95 %)", title="An answer key plays the LLM", title_justify="left")
    for name, (some, of) in report["shares"].items():
        table.add_row(name, common.score_text(wilson(some, of)))
    common.out.print(table)
    common.print_json(report)


# -- the work --------------------------------------------------------------------------------------


async def _work(
    problems: Sequence[Problem], progress: Callable[[str, int, int], None]
) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """Let the company work on all problems, or on those that an earlier run did not get to."""
    drafts = await _wrong_drafts(problems, progress)
    made: dict[int, dict[str, Any]] = {}
    for path in (FOLDER / "outcomes").glob("*.json"):
        made[int(path.stem)] = json.loads(path.read_text("utf-8"))
    left = [problem for problem in problems if problem.number not in made]
    gate = asyncio.Semaphore(AT_ONCE)
    (FOLDER / "outcomes").mkdir(exist_ok=True)

    with scripted(_script(problems, drafts)) as vault, tempfile.TemporaryDirectory() as folder:

        async def one(problem: Problem) -> None:
            async with gate:
                started = time.perf_counter()
                crew = company(Path(folder) / f"{problem.number}")
                run = await crew.run(Requirement(text=problem.requirement), until=Delivery)
                outcome = await _outcome(problem, run, time.perf_counter() - started)
            flush()
            of_run = sorted((s for s in vault.spans if s["trace_id"] == run.trace_id), key=lambda span: span["start"])
            slots = [span["attributes"] for span in of_run if Names.INPUT in span["attributes"]]
            calls = [
                {"slot": a[Names.SLOT], "input": json.loads(a[Names.INPUT]), "output": json.loads(a[Names.OUTPUT])}
                for a in slots
            ]
            made[problem.number] = {"outcome": asdict(outcome), "calls": calls}
            path = FOLDER / "outcomes" / f"{problem.number}.json"
            write_atomically(path, json.dumps(made[problem.number]).encode())
            progress("requirements", len(made), len(problems))

        await asyncio.gather(*(one(problem) for problem in left))
    entries = [made[problem.number] for problem in problems]
    return [Outcome(**entry["outcome"]) for entry in entries], [call for entry in entries for call in entry["calls"]]


async def _wrong_drafts(problems: Sequence[Problem], progress: Callable[[str, int, int], None]) -> dict[str, str]:
    """A wrong draft of each problem that begins with one, by its file; looked for once."""
    note = FOLDER / "drafts.json"
    if note.exists():
        return json.loads(note.read_text("utf-8"))
    drafts: dict[str, str] = {}
    wanted = [problem for problem in problems if problem.seed in ("unseen bug", "rejected bug")]
    with tempfile.TemporaryDirectory() as folder:
        for problem in wanted:
            drafts[problem.file] = await wrong_draft(problem, Path(folder))
            progress("drafts with a bug", len(drafts), len(wanted))
    write_atomically(note, json.dumps(drafts).encode())
    return drafts


def _script(problems: Sequence[Problem], drafts: Mapping[str, str]) -> dict[str, Script]:
    """The answer key: what each slot says of each problem, which every prompt names by its file."""

    def of(prompt: str) -> Problem:
        return next(problem for problem in problems if problem.file in prompt)

    def review(prompt: str) -> dict[str, Any]:
        problem = of(prompt)
        bad = problem.seed == "rejected bug" and drafts[problem.file] in prompt
        return {
            "comments": ["It gives a wrong result."] if bad else [],
            "verdict": "LBTM" if bad else "LGTM",
        }

    def blame(prompt: str) -> str:
        problem = of(prompt)
        return problem.test if problem.seed == "wrong test" else problem.file

    def document(slot: str) -> Script:
        return lambda prompt: documents(of(prompt))[slot]

    return {
        **{slot: document(slot) for slot in documents(problems[0])},
        "engineer.write_code": lambda prompt: drafts.get(of(prompt).file, of(prompt).code),
        "engineer.rewrite": lambda prompt: of(prompt).code,
        "engineer.debug": lambda prompt: of(prompt).code,
        "reviewer.review": review,
        "tester.write_test": lambda prompt: (
            of(prompt).wrong_tests if of(prompt).seed == "wrong test" else of(prompt).tests
        ),
        "tester.blame": blame,
        "tester.mend_test": lambda prompt: of(prompt).tests,
    }


async def _outcome(problem: Problem, run: CrewRun[Delivery], seconds: float) -> Outcome:
    delivery = run.output
    failed = [message.id for message in run.messages if message.kind is Failed]
    mending = [m for m in run.messages if m.caused_by and m.caused_by[0] in failed and m.kind in (Bug, Patch)]
    sent_to = "" if not mending else "engineer" if mending[0].kind is Bug else "tester"
    code = (Path(delivery.path) / problem.file).read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        right = await problem.is_met_by(code, Path(folder))
    return Outcome(
        number=problem.number,
        seed=problem.seed,
        passed=delivery.passed,
        right=right is True,
        rejected=len(run.of(Rejected)),
        mended=delivery.mended,
        sent_to=sent_to,
        tested=len(run.of(Build)) - delivery.mended - (not delivery.passed),
        seconds=seconds,
    )


# -- the figures -----------------------------------------------------------------------------------


def _report(outcomes: Sequence[Outcome], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    count = Counter(str(call["slot"]) for call in calls)
    by_code = sum(outcome.tested for outcome in outcomes)
    asked = len(calls) + by_code
    seeded = [outcome for outcome in outcomes if outcome.seed in ("unseen bug", "wrong test")]
    constant = {slot: _most_common([call for call in calls if call["slot"] == slot]) for slot in NARROW}
    return {
        "shares": {
            "requirements whose tests pass": (sum(o.passed for o in outcomes), len(outcomes)),
            "requirements right by HumanEval's tests, run apart": (sum(o.right for o in outcomes), len(outcomes)),
            **{
                f"{seed}: found by the tests and sent to who must mend it": (sum(o.found for o in some), len(some))
                for seed in ("unseen bug", "wrong test")
                for some in [[outcome for outcome in seeded if outcome.seed == seed]]
            },
            "calls of the same work in MetaGPT that plain code answers here": (by_code, asked),
            **{f"calls of the same work that are {slot}": (count[slot], asked) for slot in NARROW},
            **{f"{slot}: the commonest answer is right": share for slot, share in constant.items()},
        },
        "calls": dict(count.most_common()),
        "seconds": sum(outcome.seconds for outcome in outcomes) / len(outcomes),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def _most_common(calls: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Calls that the commonest kind of answer is right for, and all."""
    kinds = Counter(_kind(call["output"]) for call in calls)
    return max(kinds.values()), kinds.total()


def _kind(answer: dict[str, str] | str) -> str:
    """The verdict of a review; of a blamed file, whether it is code or test."""
    return answer["verdict"] if isinstance(answer, dict) else "test" if answer.startswith("tests/") else "code"


async def _distil(
    calls: Sequence[Mapping[str, Any]], progress: Callable[[str, int, int], None]
) -> dict[str, dict[str, Any] | str]:
    """Train a specialist for each narrow slot on the calls of the study, and measure it."""
    shutil.copyfile(HERE / "hetero.toml", FOLDER / "hetero.toml")
    shutil.copyfile(HERE / "crew.py", FOLDER / "crew.py")
    lines = (json.dumps(call, ensure_ascii=False) + "\n" for call in calls)
    write_atomically(FOLDER / "answers.jsonl", "".join(lines).encode())
    app = App.of(Workspace(FOLDER))
    before = registry.use(app)
    found: dict[str, dict[str, Any] | str] = {}
    try:
        for name, recipe in NARROW.items():
            slot = registry.slot(name)
            mine = [call for call in calls if call["slot"] == name]
            ran = FOLDER / f"ran-{name}"
            if not ran.exists():
                for done, call in enumerate(mine, 1):
                    await slot(**slot.contract.load(call["input"]))
                    progress(f"{name}: run on the answer key", done, len(mine))
                flush()
                ran.touch()
            try:
                made = await distill(
                    app,
                    slot,
                    recipe=recipe,
                    progress=lambda step, done, total, name=name: progress(f"{name}: {step}", done, total),
                )
            except DistillError as error:
                found[name] = str(error)
                continue
            scores = {who: score.model_dump() for who, score in made.specialist.scores.items()}
            found[name] = {"train_seconds": made.specialist.train_seconds, "scores": scores}
    finally:
        registry.use(before)
        app.close()
    return found


if __name__ == "__main__":
    main()
