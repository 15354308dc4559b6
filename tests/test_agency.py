"""Runs: code agents, outcomes, subjects, and the registry that slots and agents are found in."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hetero_agents import (
    CodeAgent,
    SlotDefinitionError,
    UnknownNameError,
    UserError,
    code_agent,
    slot,
    subject,
    workflow_outcome,
)
from hetero_agents.slots import App, registry
from hetero_agents.spans import SpanRecord, Trace, read_traces

from .conftest import OpenApp
from .support import answers


def asking_agent(then: Callable[[str], object] = str) -> CodeAgent[[str], str]:
    """Return a code agent that asks a slot twice and does something with the answer."""

    @slot(name="agency.name")
    async def name(message: str) -> str: ...

    @code_agent(name="agency.desk")
    async def desk(message: str) -> str:
        first, second = await name(message), await name(message)
        then(first)
        return first + second

    return desk


def only_run(app: App) -> Trace:
    app.tracing.flush()
    [trace] = read_traces(app.vault)
    return trace


def run(open_app: OpenApp, then: Callable[[str], object] = str) -> Trace:
    app = open_app({"fake:big": answers("a", "b")})
    assert asyncio.run(asking_agent(then)("x")) == "ab"
    return only_run(app)


# -- the root span ---------------------------------------------------------------------------------


def test_a_code_agent_opens_a_workflow_span_and_nothing_more(open_app: OpenApp) -> None:
    [root] = run(open_app).roots
    assert root["name"] == "invoke_workflow agency.desk"
    assert root["attributes"] == {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": "agency.desk"}


def test_slots_inside_a_code_agent_are_its_children_in_one_trace(open_app: OpenApp) -> None:
    trace = run(open_app)
    [root] = trace.roots
    assert [child["name"] for child in trace.children(root)] == ["slot agency.name"] * 2
    assert {span["trace_id"] for span in trace.spans} == {root["trace_id"]}


def test_slots_called_at_once_are_children_too(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("a")})

    @slot(name="agency.one")
    async def one(message: str) -> str: ...

    @code_agent(name="agency.many")
    async def many() -> list[str]:
        return list(await asyncio.gather(*map(one, "abc")))

    assert asyncio.run(many()) == ["a"] * 3
    trace = only_run(app)
    assert len(trace.children(trace.roots[0])) == 3


def test_an_exception_passes_and_marks_the_run_failed(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("a")})

    def fail(answer: str) -> None:
        raise KeyError("no such order")

    with pytest.raises(KeyError, match="no such order"):
        asyncio.run(asking_agent(fail)("x"))
    trace = only_run(app)
    assert trace.outcome == "failed"
    assert trace.roots[0]["attributes"]["hetero.outcome"] == "failed"


def test_a_sync_code_agent_is_refused() -> None:
    def desk() -> str:
        return "x"

    with pytest.raises(SlotDefinitionError, match="declare it `async def`"):
        code_agent(name="agency.sync")(desk)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUnknownMemberType]


# -- outcomes --------------------------------------------------------------------------------------


def evaluations(span: SpanRecord) -> list[dict[str, Any]]:
    return [event["attributes"] for event in span["events"] if event["name"] == "gen_ai.evaluation.result"]


def test_a_run_nobody_spoke_of_is_unknown(open_app: OpenApp) -> None:
    assert run(open_app).outcome == "unknown"


@pytest.mark.parametrize(
    ("ok", "score", "outcome", "written"), [(True, None, "ok", 1.0), (False, 0.25, "failed", 0.25)]
)
def test_an_outcome_stands_on_the_root_span_with_an_evaluation_event(
    open_app: OpenApp, ok: bool, score: float | None, outcome: str, written: float
) -> None:
    trace = run(open_app, lambda answer: workflow_outcome(ok=ok, score=score))
    assert trace.outcome == outcome
    [root] = trace.roots
    assert root["attributes"]["hetero.outcome"] == outcome
    assert evaluations(root) == [
        {
            "gen_ai.evaluation.name": "workflow_outcome",
            "gen_ai.evaluation.score.label": outcome,
            "gen_ai.evaluation.score.value": written,
        }
    ]


def test_an_outcome_said_in_a_nested_agent_is_that_of_the_whole_run(open_app: OpenApp) -> None:
    app = open_app({})

    @code_agent(name="agency.inner")
    async def inner() -> None:
        workflow_outcome(ok=True)

    @code_agent(name="agency.outer")
    async def outer() -> None:
        await inner()

    asyncio.run(outer())
    trace = only_run(app)
    assert trace.outcome == "ok"
    assert trace.roots[0]["attributes"]["gen_ai.workflow.name"] == "agency.outer"


def test_an_outcome_outside_a_run_is_refused() -> None:
    with pytest.raises(UserError, match="called outside a run; call it inside a @code_agent"):
        workflow_outcome(ok=True)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_out_of_range_is_refused(open_app: OpenApp, score: float) -> None:
    open_app({"fake:big": answers("a")})
    with pytest.raises(UserError, match="it goes from 0 to 1"):
        asyncio.run(asking_agent(lambda answer: workflow_outcome(ok=True, score=score))("x"))


# -- subjects --------------------------------------------------------------------------------------


def test_a_subject_is_named_on_the_run_and_its_slots_and_not_afterwards(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("a")})
    desk = asking_agent()

    async def two_runs() -> None:
        with subject("patient-7"):
            await desk("x")
        await desk("y")

    asyncio.run(two_runs())
    app.tracing.flush()
    named, unnamed = sorted(read_traces(app.vault), key=lambda trace: trace.spans[0]["start"])
    ours = [span["attributes"] for span in named.spans if not span["name"].startswith("chat")]
    assert [attributes.get("hetero.subject") for attributes in ours] == ["patient-7"] * 3
    assert all("hetero.subject" not in span["attributes"] for span in unnamed.spans)


# -- the registry ----------------------------------------------------------------------------------

SOURCE = "from hetero_agents import code_agent, slot\n@slot\nasync def classify(text: str) -> str: ...\n"
TWIN = "from hetero_agents import code_agent\n@code_agent\nasync def classify(text: str) -> str:\n    return text\n"


def load(path: Path, source: str) -> None:
    """Run a file as the module `desk`."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    exec(compile(source, str(path), "exec"), {"__name__": "pack.desk"})


@pytest.mark.parametrize(("source", "kind"), [(SOURCE, "slot"), (TWIN, "code agent")])
def test_the_same_id_from_two_files_is_an_error_that_names_both(tmp_path: Path, source: str, kind: str) -> None:
    first, second = tmp_path / "a" / "desk.py", tmp_path / "b" / "desk.py"
    load(first, source)
    with pytest.raises(SlotDefinitionError) as caught:
        load(second, source)
    assert str(caught.value) == (
        f"The {kind} 'desk.classify' is declared in {first} and again in {second}; give one of them another name with name=."
    )


def test_the_same_id_from_the_same_file_replaces(tmp_path: Path) -> None:
    load(tmp_path / "desk.py", SOURCE)
    before = registry.slot("desk.classify")
    load(tmp_path / "desk.py", SOURCE)
    assert registry.slot("desk.classify") is not before


def test_an_id_is_the_modules_last_part_and_the_functions_name(tmp_path: Path) -> None:
    load(tmp_path / "desk.py", SOURCE)
    assert "desk.classify" in registry.slots


def test_in_main_the_files_stem_is_the_module(tmp_path: Path) -> None:
    script = tmp_path / "night_desk.py"
    script.write_text(SOURCE + "print(classify.id)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("night_desk.classify\n", "")


def test_an_unknown_slot_says_which_was_meant(tmp_path: Path) -> None:
    load(tmp_path / "desk.py", SOURCE)
    with pytest.raises(UnknownNameError, match=r"no slot 'desk\.clasify', did you mean 'desk\.classify'"):
        registry.slot("desk.clasify")
