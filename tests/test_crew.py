"""Crews: what calls a role, what it gets, when a run ends, and what happens to roles that fail."""

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import (
    Budget,
    Crew,
    CrewDefinitionError,
    CrewError,
    Memory,
    RoleFailed,
    Slots,
    To,
    UserError,
    flush,
    slot,
)
from hetero_agents.bindings import Workspace
from hetero_agents.crew.board import Board
from hetero_agents.crew.human import said, terminal
from hetero_agents.crew.message import Message
from hetero_agents.crew.role import role_of
from hetero_agents.slots import App, registry
from hetero_agents.spans import Names
from hetero_agents.testing import MemoryVault, scripted

from .bench.call_cost.endpoint_process import mock_endpoint
from .support import write_workspace


class Requirement(BaseModel):
    text: str


class PRD(BaseModel):
    goals: list[str]


class Task(BaseModel):
    file: str
    again: bool = False


class Patch(BaseModel):
    file: str
    by: str = ""


class Approved(BaseModel):
    file: str


class Delivery(BaseModel):
    files: list[str]


@slot(name="crew.goals")
async def goals(text: str) -> list[str]:
    """Name the goals."""
    ...


class Intent(BaseModel):
    label: str


@slot(name="crew.intent")
async def intent(message: str) -> Intent:
    """Name the intent."""
    ...


ON_THE_ENDPOINT = """
[models]
big = { model = "openai-chat:m", max_tokens = 100, price = { input = 1, output = 10 } }
[tiers]
llm = { model = "big" }
[privacy]
content = "raw"
"""

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def vault() -> Iterator[MemoryVault]:
    with scripted({"crew.goals": ["a", "b", "c"]}) as vault:
        yield vault


def company() -> Crew:
    crew = Crew("company", gives=Delivery)

    @crew.role
    async def manager(requirement: Requirement) -> PRD:
        return PRD(goals=await goals(requirement.text))

    @crew.role
    async def planner(prd: PRD) -> list[Task]:
        return [Task(file=goal) for goal in prd.goals]

    @crew.role
    async def engineer(task: Task, prd: PRD) -> Patch:
        return Patch(file=task.file, by="again" if task.again else "")

    @crew.role
    async def reviewer(patch: Patch) -> Approved | To[Task]:
        if patch.file == "b" and not patch.by:
            return To(Task(file="b", again=True), engineer)
        return Approved(file=patch.file)

    @crew.role
    async def integrator(done: list[Approved]) -> Delivery:
        return Delivery(files=[each.file for each in done])

    return crew


async def test_roles_work_until_the_result_is_there() -> None:
    run = await company().run(Requirement(text="a todo list"), until=Delivery)
    assert run.output.files == ["a", "c", "b"]
    assert (run.ended, run.rounds) == ("until", 7)
    assert run.spent.calls == 1


async def test_a_message_that_calls_a_role_and_is_read_beside_is_its_cause_once() -> None:
    crew = Crew("twice", gives=Delivery)

    @crew.role
    async def integrator(work: list[PRD | Patch], prd: PRD) -> Delivery:
        return Delivery(files=prd.goals)

    run = await crew.run(PRD(goals=["a"]), until=Delivery)
    assert run.messages[-1].caused_by == (0,)


@pytest.mark.parametrize("slow", ["a", "c"])
async def test_the_same_answers_give_the_same_run_whoever_is_faster(slow: str) -> None:
    crew, others = Crew("race", gives=Patch), asyncio.Event()

    @crew.role
    async def plan(prd: PRD) -> list[Task]:
        return [Task(file=goal) for goal in prd.goals]

    @crew.role
    async def work(task: Task) -> Patch:
        if task.file == slow:
            await others.wait()
        elif task.file == "b":
            others.set()
        return Patch(file=task.file)

    run = await crew.run(PRD(goals=["a", "b", "c"]))
    assert [f"{message.label} {message.content.file}" for message in run.messages[4:]] == [
        "Patch#4 a",
        "Patch#5 b",
        "Patch#6 c",
    ]


async def test_a_role_reads_beside_what_led_to_its_message_not_what_came_last() -> None:
    crew, seen = Crew("two products", gives=()), list[tuple[str, list[str]]]()

    @crew.role
    async def plan(prd: PRD) -> list[Task]:
        return [Task(file=prd.goals[0])]

    @crew.role
    async def work(task: Task, prd: PRD) -> None:
        seen.append((task.file, prd.goals))

    await crew.run(PRD(goals=["a"]), PRD(goals=["b"]))
    assert seen == [("a", ["a"]), ("b", ["b"])]


async def test_a_role_waits_for_what_it_reads_beside_and_takes_none_where_that_is_allowed() -> None:
    crew, seen = Crew("late", gives=()), list[str]()

    @crew.role
    async def write(requirement: Requirement) -> PRD:
        return PRD(goals=[requirement.text])

    @crew.role
    async def strict(task: Task, prd: PRD) -> None:
        seen.append(f"strict {task.file} {prd.goals}")

    @crew.role
    async def easy(task: Task, prd: PRD | None) -> None:
        seen.append(f"easy {task.file} {prd}")

    run = await crew.run(Task(file="x"), Requirement(text="r"))
    assert seen == ["easy x None", "strict x ['r']"]
    assert run.why == "nobody has work."


async def test_a_list_is_collected_whole_through_a_loop_of_reviews() -> None:
    run = await company().run(Requirement(text="x"), until=Delivery)
    collected = run.messages[-1]
    assert collected.caused_by == tuple(m.id for m in run.messages if isinstance(m.content, Approved))
    assert len(collected.caused_by) == 3


async def test_what_never_comes_is_said_where_nobody_has_work() -> None:
    crew = Crew("stuck", gives=())

    @crew.role
    async def maybe(requirement: Requirement) -> PRD | None:
        return None

    @crew.role
    async def work(task: Task, prd: PRD) -> None: ...

    run = await crew.run(Requirement(text="x"), Task(file="f"))
    assert (run.ended, run.why) == ("idle", "nobody has work: work holds 1 Task and waits for PRD.")


async def test_collectors_that_feed_each_other_do_not_wait_for_ever() -> None:
    crew, order = Crew("ring", gives=()), list[str]()

    @crew.role
    async def one(tasks: list[Task]) -> Patch | None:
        order.append("one")
        return Patch(file="p") if len(order) < 3 else None

    @crew.role
    async def two(patches: list[Patch]) -> Task | None:
        order.append("two")
        return None

    await crew.run(Task(file="t"), Patch(file="q"))
    assert order == ["one", "two"]


async def test_memory_gives_what_was_said_before_and_what_the_call_took() -> None:
    crew, seen = Crew("memory", gives=()), list[tuple[list[str], str | None, int]]()

    @crew.role
    async def plan(prd: PRD) -> list[Task]:
        return [Task(file=goal) for goal in prd.goals]

    @crew.role
    async def work(task: Task, memory: Memory) -> Patch | None:
        seen.append(([t.file for t in memory.of(Task)], memory.taken[0].role, len(memory.mine())))
        return Patch(file=task.file)

    @crew.role
    async def again(patch: Patch, memory: Memory) -> Task | None:
        return Task(file="last") if memory.latest(Task) == Task(file="b") and patch.file == "a" else None

    await crew.run(PRD(goals=["a", "b"]))
    assert seen == [(["a", "b"], "plan", 0), (["a", "b"], "plan", 0), (["a", "b", "last"], "again", 2)]


async def test_a_message_to_a_role_goes_to_nobody_else() -> None:
    crew, seen = Crew("post", gives=()), list[str]()

    @crew.role
    async def ask(requirement: Requirement) -> To[Task]:
        return To(Task(file=requirement.text), "second")

    @crew.role
    async def first(task: Task) -> None:
        seen.append("first")

    @crew.role
    async def second(task: Task) -> None:
        seen.append("second")

    await crew.run(Requirement(text="x"))
    assert seen == ["second"]


async def test_what_is_for_one_role_is_read_beside_by_nobody() -> None:
    crew, seen = Crew("post", gives=()), list[str]()

    @crew.role
    async def ask(requirement: Requirement) -> list[PRD] | To[PRD]:
        return [PRD(goals=["all"])] if requirement.text == "all" else To(PRD(goals=["one"]), "other")

    @crew.role
    async def other(prd: PRD) -> None: ...

    @crew.role
    async def reader(task: Task, prd: PRD) -> None:
        seen.extend(prd.goals)

    @crew.role
    async def late(prd: PRD) -> Task:
        return Task(file="x")

    await crew.run(Requirement(text="all"), Requirement(text="one"))
    assert seen == ["all"]


async def test_failures_are_collected_whole() -> None:
    crew, seen = Crew("failures", gives=()), list[int]()

    @crew.role(on_error="go_on")
    async def work(task: Task) -> Patch:
        raise ValueError("no")

    @crew.role(on_error="go_on")
    async def more(patch: Patch) -> None:
        raise ValueError("no")

    @crew.role
    async def see(failed: list[RoleFailed]) -> None:
        seen.append(len(failed))

    await crew.run(Task(file="a"), Patch(file="b"))
    assert seen == [2]


async def test_a_parameter_with_a_default_is_a_setting_and_no_message() -> None:
    crew, seen = Crew("settings", gives=()), list[str]()

    @crew.role
    async def work(task: Task, language: str = "en") -> None:
        seen.append(language)

    await crew.run(Task(file="a"))
    assert seen == ["en"]


async def test_no_more_calls_go_on_at_a_time_than_the_run_allows() -> None:
    crew, now, most = Crew("narrow", gives=()), 0, 0

    @crew.role
    async def work(task: Task) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    await crew.run(*(Task(file=f) for f in "abcdef"), at_once=3)
    assert most == 3


async def test_a_run_without_what_was_asked_for_counts_as_failed(vault: MemoryVault) -> None:
    await company().run(Requirement(text="x"), until=Delivery, max_rounds=1)
    assert flush()
    (root,) = [span for span in vault.spans if span["parent_id"] is None]
    assert root["attributes"][Names.OUTCOME] == "failed"


async def test_a_condition_that_fails_ends_the_run_with_what_there_is() -> None:
    with pytest.raises(CrewError, match="its condition `until` failed: AttributeError") as error:
        await company().run(Requirement(text="x"), until=lambda content: content.nothing)
    assert [message.label for message in error.value.run.messages] == ["Requirement#0", "PRD#1"]


async def test_a_role_that_cancels_itself_failed() -> None:
    crew = Crew("cancels", gives=())

    @crew.role
    async def work(task: Task) -> None:
        raise asyncio.CancelledError

    with pytest.raises(CrewError, match=r"work\(Task#0\) failed: something inside it cancelled it\."):
        await crew.run(Task(file="a"))


async def test_a_budget_that_ends_in_a_group_of_tasks_is_one_all_the_same() -> None:
    crew = Crew("groups", gives=())

    @crew.role
    async def work(task: Task) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(goals("a"))
            group.create_task(goals("b"))

    assert (await crew.run(Task(file="a"), budget=Budget(calls=1))).ended == "budget"


async def test_calls_of_a_role_are_no_more_at_a_time_than_it_says() -> None:
    crew, now, most = Crew("narrow", gives=Patch), 0, 0

    @crew.role
    async def plan(prd: PRD) -> list[Task]:
        return [Task(file=goal) for goal in prd.goals]

    @crew.role(at_once=2)
    async def work(task: Task) -> Patch:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return Patch(file=task.file)

    await crew.run(PRD(goals=list("abcdefgh")))
    assert most == 2


async def test_a_run_makes_no_more_rounds_than_it_may_and_goes_on_later() -> None:
    crew = company()
    run = await crew.run(Requirement(text="x"), until=Delivery, max_rounds=3)
    assert (run.ended, run.rounds) == ("max_rounds", 3)
    with pytest.raises(
        CrewError, match=r"did not give what it was asked for: it has made 3 rounds, as many as it may\."
    ):
        _ = run.output
    more = await crew.run(go_on=run, until=Delivery)
    assert (more.output.files, more.rounds) == (["a", "c", "b"], 7)


async def test_what_a_run_that_goes_on_gives_is_what_it_made() -> None:
    crew = company()
    first = await crew.run(Requirement(text="x"), until=Delivery)
    more = await crew.run(Requirement(text="y"), go_on=first, until=Delivery)
    assert more.output is more.of(Delivery)[-1]
    assert more.output is not first.output
    assert len(more.of(Delivery)) == 2


async def test_the_run_that_another_one_goes_on_from_stays_as_it_was() -> None:
    crew = company()
    run = await crew.run(Requirement(text="x"), until=Delivery, max_rounds=3)
    before = list(run.messages)
    more, again = [await crew.run(go_on=run, until=Delivery) for _ in range(2)]
    assert (list(run.messages), run.rounds) == (before, 3)
    assert [message.content for message in more.messages] == [message.content for message in again.messages]
    assert len(more.messages) > len(before)


# --- what is found before a run ---


async def test_what_nobody_takes_and_whom_nobody_feeds_is_said_with_names_before_the_run() -> None:
    crew, called = Crew("apart"), list[str]()

    @crew.role
    async def writer(requirement: Requirement) -> PRD:
        called.append("writer")
        return PRD(goals=[])

    @crew.role
    async def engineer(task: Task) -> None: ...

    with pytest.raises(CrewDefinitionError) as error:
        await crew.run(Requirement(text="x"))
    assert str(error.value) == (
        "The roles of crew 'apart' do not fit together: engineer waits for Task, which nobody publishes; "
        "nobody takes PRD, which writer publishes (name it in until= or in Crew(gives=) if it is a result)."
    )
    assert called == []


async def test_a_message_that_nobody_takes_does_not_begin_a_run() -> None:
    with pytest.raises(CrewDefinitionError, match="nobody takes Patch2, which the run begins with"):
        await company().run(Patch2(), Requirement(text="x"), until=Delivery)


class Patch2(BaseModel):
    """Taken by nobody."""


@dataclass
class Handle:
    """Holds what cannot be sent."""

    connection: socket.socket


@dataclass
class Words:
    """Needs one text."""

    text: str
    times: int = 1


async def sync_free(requirement: Requirement) -> PRD: ...


def not_async(requirement: Requirement) -> PRD: ...


async def untyped(requirement) -> PRD: ...  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]


async def no_return(requirement: Requirement): ...  # pyright: ignore


async def nothing_taken() -> PRD: ...


async def generic(requirement: dict[str, str]) -> PRD: ...


async def unsendable(handle: Handle) -> PRD: ...


async def late_list(requirement: Requirement, tasks: list[Task]) -> PRD: ...


async def stars(*requirements: Requirement) -> PRD: ...


async def optional_first(requirement: Requirement | None) -> PRD: ...


REFUSED: list[tuple[Callable[..., Any], str]] = [  # pyright: ignore[reportUnknownVariableType]
    (not_async, "Role 'not_async' is no `async def` function; declare it `async def`."),
    (untyped, "Role 'untyped' has no type for 'requirement'; the type is what it subscribes to."),
    (no_return, "Role 'no_return' has no return type; it is what the role publishes (None for nothing)."),
    (nothing_taken, "Role 'nothing_taken' takes no message; give it a parameter whose type it waits for."),
    (generic, "Role 'generic' has the type dict at 'requirement'; a message is an instance of a class"),
    (unsendable, "Role 'unsendable' has the type Handle at 'handle', which pydantic cannot serialise"),
    (late_list, "Role 'late_list' takes a list as 'tasks'; only the first parameter collects messages"),
    (stars, "Role 'stars' takes *requirements: tests.test_crew.Requirement; each of its parameters has a name"),
    (optional_first, "Role 'optional_first' waits for 'requirement', its first parameter, so that is never None."),
]


@pytest.mark.parametrize(("function", "sentence"), REFUSED)
def test_a_function_that_cannot_be_a_role_is_refused_in_a_sentence(function: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(CrewDefinitionError) as error:
        Crew("bad").role(function)
    assert str(error.value).startswith(sentence)


def test_two_roles_of_one_name_are_refused() -> None:
    crew = Crew("twins")
    crew.role(sync_free)
    with pytest.raises(CrewDefinitionError, match="Crew 'twins' has two roles named 'sync_free'; give one of them"):
        crew.role(sync_free)
    crew.role(name="other")(sync_free)
    assert list(crew.roles) == ["sync_free", "other"]


async def test_a_run_without_a_message_says_what_it_begins_with() -> None:
    with pytest.raises(UserError, match="A run of crew 'company' begins with a message; it takes Requirement"):
        await company().run()


# --- roles that fail ---


def failing(on_error: Any, fails: Callable[[], Any], timeout: float | None = None) -> Crew:
    crew = Crew("failing", gives=(Patch, RoleFailed))

    @crew.role
    async def plan(prd: PRD) -> list[Task]:
        return [Task(file=goal) for goal in prd.goals]

    @crew.role(on_error=on_error, timeout=timeout)
    async def work(task: Task) -> Patch:
        if task.file == "b":
            made = fails()
            return await made if asyncio.iscoroutine(made) else made
        return Patch(file=task.file)

    return crew


def broken() -> Any:
    raise ValueError("the disk is full")


async def stubborn() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return


@pytest.mark.parametrize(
    ("fails", "seconds", "sentence"),
    [
        (broken, None, "ValueError: the disk is full"),
        (lambda: "text", None, "work returned str, and its return type says Patch."),
        (lambda: None, None, "work returned nothing, and its return type says Patch."),
        (lambda: [Patch(file="b")], None, "work returned list, and its return type says Patch."),
        (
            lambda: To(Patch(file="b"), "nobody"),
            None,
            "work addressed a message to nobody, which is no role of failing.",
        ),
        (lambda: To(Patch(file="b"), "plan"), None, "work addressed Patch to plan, which takes PRD."),
        (stubborn, 0.01, "no answer in 0.01 s."),
    ],
)
async def test_a_role_that_fails_ends_the_run_after_its_round_with_what_there_is(
    fails: Callable[[], Any], seconds: float | None, sentence: str
) -> None:
    with pytest.raises(CrewError) as error:
        await failing("stop", fails, seconds).run(PRD(goals=["a", "b", "c"]))
    assert str(error.value) == f"Crew failing stopped in round 2: work(Task#2) failed: {sentence}"
    assert [patch.file for patch in error.value.run.of(Patch)] == ["a", "c"]
    assert error.value.run.ended == "failed"


async def test_a_role_that_goes_on_publishes_its_failure() -> None:
    run = await failing("go_on", broken).run(PRD(goals=["a", "b", "c"]))
    assert [patch.file for patch in run.of(Patch)] == ["a", "c"]
    assert run.failures == run.of(RoleFailed) == [RoleFailed("work", "ValueError: the disk is full", (2,))]


async def test_a_failed_run_goes_on_with_the_call_that_failed() -> None:
    broke = [True]

    def once() -> Any:
        if broke.pop() if broke else False:
            raise ValueError("the network is down")
        return Patch(file="b", by="second try")

    crew = failing("stop", once)
    with pytest.raises(CrewError) as error:
        await crew.run(PRD(goals=["a", "b", "c"]))
    run = await crew.run(go_on=error.value.run)
    assert [(patch.file, patch.by) for patch in run.of(Patch)] == [("a", ""), ("c", ""), ("b", "second try")]


async def test_a_cancelled_run_leaves_no_role_at_work() -> None:
    crew, ended, begun = Crew("cancelled", gives=()), list[str](), asyncio.Event()

    @crew.role
    async def work(task: Task) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(task.file)

    run = asyncio.create_task(crew.run(Task(file="a"), Task(file="b")))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ended == ["a", "b"]


# --- what a role can be ---


async def test_a_slot_is_a_role() -> None:
    @slot(name="crew.design")
    async def design(prd: PRD) -> Patch:
        """Design it."""
        ...

    crew = Crew("slots", gives=Patch)
    crew.role(design)
    with scripted({"crew.design": {"file": "x", "by": "a model"}}):
        run = await crew.run(PRD(goals=["a"]), until=Patch)
    assert run.output.by == "a model"


async def test_an_agent_is_a_role_and_counts_against_the_budget() -> None:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(f"got {messages[0].parts[-1].content}")])  # type: ignore[union-attr]

    helper = Agent(FunctionModel(answer), name="helper", output_type=str, capabilities=[Slots()])
    crew = Crew("agents")
    crew.agent(helper, takes=Requirement, prompt=lambda requirement: requirement.text)
    run = await crew.run(Requirement(text="milk"), until=str)
    assert (run.output, run.spent.calls) == ("got milk", 1)


async def test_a_human_who_was_not_fast_enough_answers_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, screen = os.openpty()
    with os.fdopen(screen, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await terminal("boss", "first")
        os.write(keyboard, b"yes\n")
        assert await terminal("boss", "second") == "yes"
        os.write(keyboard, b"\x04")
        with pytest.raises(EOFError):
            await terminal("boss", "third")
    os.close(keyboard)


async def test_a_human_is_a_role_and_is_asked_again_after_a_slip() -> None:
    slips: list[str | None] = []
    answers = iter(['{"no": 1}', "", "todo.py"])

    async def ask(role: str, message: PRD, wrong: str | None) -> str:
        assert message.goals == ["a"]
        slips.append(wrong)
        return next(answers)

    crew = Crew("humans")
    crew.human("boss", takes=PRD, gives=Approved, ask=ask)
    run = await crew.run(PRD(goals=["a"]), until=Approved)
    assert run.output.file == "todo.py"
    assert slips == [None, "That is no Approved (Approved: Field required).", "Nothing was said."]


def test_words_become_the_message_that_they_mean() -> None:
    assert said("todo.py", [Approved]) == Approved(file="todo.py")
    assert said('{"goals": ["a"]}', [Approved, PRD]) == PRD(goals=["a"])
    assert said("plain", [str]) == "plain"
    assert said("plain", [Words]) == Words("plain")
    with pytest.raises(UserError, match="That is no PRD"):
        said("text", [PRD])


def test_a_text_that_its_message_refuses_is_a_sentence() -> None:
    class Wish(BaseModel):
        text: str = Field(min_length=5)

    with pytest.raises(
        UserError, match=r"That is no Wish or PRD \(Wish: String should have at least 5 characters; PRD: "
    ):
        said("hi", [Wish, PRD])


# --- what is seen of it ---


async def test_spans_tell_rounds_roles_and_who_caused_what(vault: MemoryVault) -> None:
    run = await company().run(Requirement(text="x"), until=Delivery)
    assert flush()
    by_id = {span["span_id"]: span for span in vault.spans}
    (root,) = [span for span in vault.spans if span["parent_id"] is None]
    assert (root["name"], root["trace_id"]) == ("invoke_workflow company", run.trace_id)
    (manager,) = [span for span in vault.spans if span["name"] == "invoke_agent manager"]
    (planner,) = [span for span in vault.spans if span["name"] == "invoke_agent planner"]
    assert by_id[manager["parent_id"] or ""]["name"] == "round 1"
    assert by_id[by_id[manager["parent_id"] or ""]["parent_id"] or ""] is root
    assert planner["attributes"][Names.TAKES] == ["PRD#1"]
    assert planner["attributes"][Names.GIVES] == ["Task", "Task", "Task"]
    assert [link["span_id"] for link in planner["links"]] == [manager["span_id"]]
    (asked,) = [span for span in vault.spans if span["name"] == "slot crew.goals"]
    assert asked["parent_id"] == manager["span_id"]


def test_the_graph_shows_who_calls_whom_and_who_reads_what() -> None:
    assert (
        company().graph()
        == """\
flowchart LR
    manager["manager"]
    planner["planner"]
    engineer["engineer"]
    reviewer["reviewer"]
    integrator["integrator"]
    begin((begin))
    begin -->|Requirement| manager
    manager -->|PRD| planner
    manager -.->|PRD| engineer
    planner -->|Task, each| engineer
    engineer -->|Patch| reviewer
    reviewer -->|all Approved| integrator
    reviewer -->|Task| engineer
    done((done))
    integrator -->|Delivery| done
"""
    )


async def test_a_budget_ends_the_run_with_what_it_has_and_more_lets_it_go_on() -> None:
    crew = Crew("spender", gives=Patch)

    @crew.role
    async def plan(prd: PRD) -> list[Task]:
        return [Task(file=goal) for goal in prd.goals]

    @crew.role
    async def work(task: Task) -> Patch:
        return Patch(file=task.file, by=",".join(await goals(task.file)))

    run = await crew.run(PRD(goals=["a", "b", "c", "d"]), budget=Budget(calls=3))
    assert (run.ended, run.spent.calls, len(run.of(Patch))) == ("budget", 3, 3)
    assert run.why.startswith("The budget of 3 calls leaves no room for another call: 3 are spent or reserved")
    more = await crew.run(go_on=run, budget=Budget(calls=10))
    assert (more.ended, more.spent.calls, len(more.of(Patch))) == ("idle", 4, 4)


async def test_a_budget_of_seconds_cuts_a_round_off_and_keeps_what_is_ready() -> None:
    crew = Crew("slow", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        if task.file == "b":
            await asyncio.Event().wait()
        return Patch(file=task.file)

    run = await crew.run(Task(file="a"), Task(file="b"), budget=Budget(seconds=0.05))
    assert (run.ended, [patch.file for patch in run.of(Patch)]) == ("budget", ["a"])


@pytest.mark.parametrize("budget", [Budget(calls=7), Budget(tokens=2_500), Budget(money=0.005)], ids=str)
async def test_a_budget_that_is_spent_inside_a_round_lets_no_request_through_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: Budget
) -> None:
    crew = Crew("many", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        by = [await intent(f"{task.file} {turn}") for turn in ("first", "second")]
        return Patch(file=task.file, by=by[-1].label)

    workspace = Workspace(write_workspace(tmp_path, ON_THE_ENDPOINT))
    with mock_endpoint(delay=0.005) as endpoint, contextlib.closing(App.of(workspace, MemoryVault())) as app:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        registry.use(app)
        run = await crew.run(*(Task(file=str(number)) for number in range(20)), budget=budget, at_once=20)
        requests, at_once = endpoint.counts()
    assert (run.ended, run.rounds) == ("budget", 1)
    assert (run.spent.calls, run.spent.tokens) == (requests, requests * 15)
    assert at_once > 1
    for limit, most in vars(budget).items():
        assert most is None or getattr(run.spent, limit) <= most
    assert requests == 7 or budget.calls is None


async def test_what_is_read_beside_is_the_newest_of_all_that_led_to_a_message() -> None:
    async def read(task: Task, prd: PRD) -> None: ...

    rng = random.Random(0)
    board = Board({"read": role_of(read, "read")})
    ancestors: list[set[int]] = []
    for number in range(300):
        causes = tuple(rng.sample(range(number), min(number, rng.choice([0, 1, 1, 2, 3]))))
        content = rng.choice([PRD(goals=[]), Task(file=""), Task(file=""), Patch(file="")])
        ancestors.append({number}.union(*(ancestors[cause] for cause in causes)))
        board.publish(Message(number, content, None, 0, causes))
        for call in board.take():
            taken, joined = call.taken[0], call.joined[0]
            prds = [message.id for message in board.messages if isinstance(message.content, PRD)]
            led = [each for each in prds if each in ancestors[taken.id]]
            assert joined is not None
            assert joined.id == max(led or prds)
