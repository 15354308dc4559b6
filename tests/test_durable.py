"""Runs of crews that are stopped and resumed: what was done is not done again, and nobody reads what is kept."""

import asyncio
import builtins
import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import (
    Budget,
    Crew,
    CrewError,
    HeteroError,
    Memory,
    MissingExtraError,
    RoleFailed,
    Slots,
    UnknownNameError,
    UserError,
    effect,
    slot,
)
from hetero_agents.bindings import Workspace
from hetero_agents.slots import App, registry

from .bench.crew_kills import killed
from .postgres import PROGRAMS, postgres
from .support import Answers, FakeEngines, Hetero, answers, write_workspace

pytestmark = pytest.mark.anyio

OpenRuns = Callable[[Answers], App]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_runs(tmp_path: Path) -> Iterator[OpenRuns]:
    """Opens the workspace anew, as another process would; models answer from lists."""

    def open_(model: Answers) -> App:
        if registry.opened is not None:
            registry.opened.close()
        app = App.of(Workspace(write_workspace(tmp_path)))
        app.engines = FakeEngines(tmp_path, models={"fake:big": model})
        registry.use(app)
        return app

    yield open_
    if registry.opened is not None:
        registry.opened.close()
    registry.use(None)


class Task(BaseModel):
    file: str


class Patch(BaseModel):
    file: str
    text: str


@slot(name="durable.write")
async def write(file: str) -> str:
    """Write the file."""
    ...


def company(broken: set[str]) -> Crew:
    crew = Crew("durable", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        text = await write(task.file)
        if task.file in broken:
            raise ConnectionError("the network is down")
        return Patch(file=task.file, text=text)

    return crew


async def test_a_resumed_run_makes_what_is_missing_and_nothing_else(open_runs: OpenRuns) -> None:
    first, second = answers("one", "two"), answers("never asked")
    open_runs(first)
    with pytest.raises(CrewError) as error:
        await company({"b"}).run(Task(file="a"), Task(file="b"), durable=True)
    open_runs(second)
    run = await company(set()).run(resume=error.value.run.id)
    assert sorted(patch.text for patch in run.of(Patch)) == ["one", "two"]
    assert (len(first.asked), len(second.asked)) == (2, 0)


async def test_what_was_spent_before_counts_after(open_runs: OpenRuns) -> None:
    open_runs(answers("one"))
    stopped = await company(set()).run(*(Task(file=f) for f in "abc"), durable="r", budget=Budget(calls=2))
    assert (stopped.ended, stopped.spent.calls) == ("budget", 2)
    open_runs(answers("one"))
    assert (await company(set()).run(resume="r", budget=Budget(calls=2))).ended == "budget"
    run = await company(set()).run(resume="r", budget=Budget(calls=3))
    assert (run.ended, run.spent.calls, len(run.of(Patch))) == ("idle", 3, 3)


async def test_a_run_that_ended_gives_its_result_again(open_runs: OpenRuns) -> None:
    open_runs(answers("one"))
    await company(set()).run(Task(file="a"), until=Patch, durable="r")
    open_runs(answers(AssertionError("asked again")))
    assert (await company(set()).run(until=Patch, resume="r")).output.text == "one"


async def test_a_durable_run_goes_on_by_its_id_in_its_process_too(open_runs: OpenRuns) -> None:
    model = answers("one", "two")
    open_runs(model)
    stopped = await company(set()).run(Task(file="a"), Task(file="b"), durable="r", budget=Budget(calls=1))
    with pytest.raises(UserError, match="Run r is durable: go on with resume="):
        await company(set()).run(go_on=stopped)
    run = await company(set()).run(resume="r")
    assert (sorted(patch.text for patch in run.of(Patch)), len(model.asked)) == (["one", "two"], 2)


async def test_what_a_failed_call_spent_counts_after_a_resumption(open_runs: OpenRuns) -> None:
    for resume in (False, True, True):
        open_runs(answers({"no": "text"}, "good"))
        crew, more = company(set()), Budget(calls=2)
        run = await (
            crew.run(resume="r", budget=more)
            if resume
            else crew.run(Task(file="a"), durable="r", budget=Budget(calls=1))
        )
        assert (run.ended, run.spent.calls) == ("budget", 2 if resume else 1)


@slot(name="durable.checked")
async def checked(file: str) -> str:
    """Write the file; another slot is asked about it."""
    ...


@checked.check
async def ask_another(text: str) -> None:
    await write(text)


async def test_what_a_slot_spends_inside_another_ones_check_counts_once_after_a_resumption(open_runs: OpenRuns) -> None:
    crew = Crew("nested", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        return Patch(file=task.file, text=await checked(task.file))

    open_runs(answers("one", "two", "three"))
    run = await crew.run(Task(file="a"), durable="r", until=Patch)
    assert run.spent.calls == 2
    open_runs(answers("never asked"))
    again = await crew.run(resume="r", until=Patch)
    assert (again.output.text, again.spent.calls, again.spent.tokens) == ("one", 2, run.spent.tokens)


async def test_what_a_slot_spent_inside_a_check_that_failed_counts_once_too(open_runs: OpenRuns) -> None:
    crew = Crew("nested", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        return Patch(file=task.file, text=await checked(task.file))

    open_runs(answers("one", ConnectionError("down")))
    with pytest.raises(CrewError) as error:
        await crew.run(Task(file="a"), durable="r", until=Patch)
    before = error.value.run.spent.calls
    open_runs(answers("one"))
    assert (await crew.run(resume="r", until=Patch)).spent.calls == before + 2


async def test_a_call_that_a_role_tried_again_is_not_made_again(open_runs: OpenRuns) -> None:
    crew, broken = Crew("again", gives=Patch), [True]

    @crew.role
    async def work(task: Task) -> Patch:
        try:
            text = await write(task.file)
        except HeteroError:
            text = await write(task.file)
        if broken.pop() if broken else False:
            raise ConnectionError("down")
        return Patch(file=task.file, text=text)

    open_runs(answers(ConnectionError("down"), "paid for"))
    with pytest.raises(CrewError):
        await crew.run(Task(file="a"), durable="r")
    open_runs(answers("made again"))
    assert (await crew.run(resume="r", until=Patch)).output.text == "paid for"


class Hidden(BaseModel):
    text: str = Field(exclude=True)


async def test_a_message_that_does_not_come_back_from_json_is_refused_when_it_is_published(open_runs: OpenRuns) -> None:
    crew = Crew("hidden", gives=Hidden)

    @crew.role
    async def work(task: Task) -> Hidden:
        return Hidden(text="x")

    open_runs(answers("x"))
    with pytest.raises(
        CrewError, match="A Hidden does not come back from JSON as it was, so a durable run cannot keep"
    ):
        await crew.run(Task(file="a"), durable="r")
    assert (await crew.run(Task(file="a"), until=Hidden)).output.text == "x"


async def test_an_answer_that_does_not_come_back_from_json_is_refused_when_it_is_given(open_runs: OpenRuns) -> None:
    @slot(name="durable.secret")
    async def secret(file: str) -> SecretStr: ...

    crew = Crew("secrets", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        return Patch(file=task.file, text=(await secret(task.file)).get_secret_value())

    open_runs(answers("x"))
    with pytest.raises(
        CrewError, match=r"An answer of durable\.secret does not come back from JSON as it was, so a dur"
    ):
        await crew.run(Task(file="a"), durable="r")
    assert (await crew.run(Task(file="a"), until=Patch)).output.text == "x"


@pytest.mark.parametrize("wrong", ["../evil", "a/b", "", ".."])
async def test_an_id_that_is_a_path_is_refused(open_runs: OpenRuns, wrong: str) -> None:
    open_runs(answers("x"))
    with pytest.raises(UserError, match="is no id of a run: letters"):
        await company(set()).run(resume=wrong)


async def test_a_failure_with_which_the_run_went_on_stays_one(open_runs: OpenRuns) -> None:
    crew, broke = Crew("goes on", gives=(Patch, RoleFailed)), [True]

    @crew.role(on_error="go_on")
    async def work(task: Task) -> Patch:
        if broke.pop() if broke else False:
            raise ConnectionError("down")
        return Patch(file=task.file, text="")

    open_runs(answers("x"))
    await crew.run(Task(file="a"), durable="r")
    open_runs(answers("x"))
    run = await crew.run(resume="r")
    assert run.of(Patch) == []
    assert [failed.error for failed in run.failures] == ["ConnectionError: down"]


async def test_a_role_that_asks_memory_is_called_again_when_what_was_said_changed(open_runs: OpenRuns) -> None:
    seen = list[list[str]]()

    def looking(text: str) -> Crew:
        crew = Crew("memory", gives=Patch)

        @crew.role
        async def note(task: Task) -> Patch:
            if text == "new":  # its code was changed, and it had not finished
                return Patch(file=task.file, text=text)
            raise ConnectionError("down")

        @crew.role
        async def work(task: Task, memory: Memory) -> Task | None:
            return Task(file="b") if task.file == "a" else None

        @crew.role(name="look")
        async def look(task: Task, memory: Memory) -> None:
            seen.append([patch.text for patch in memory.of(Patch)])

        return crew

    open_runs(answers("x"))
    with pytest.raises(CrewError):
        await looking("old").run(Task(file="a"), durable="r")
    open_runs(answers("x"))
    await looking("new").run(resume="r")
    assert seen == [[], ["new"]]


async def test_an_agents_finished_requests_are_not_made_again(open_runs: OpenRuns) -> None:
    asked: list[int] = []

    def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append(len(messages))
        done = len(messages) > 2
        return ModelResponse(parts=[TextPart("done") if done else ToolCallPart("look", {"at": "x"})])

    helper, broken = Agent(FunctionModel(script), name="helper", capabilities=[Slots()]), [True]

    @helper.tool_plain
    def look(at: str) -> str:
        return f"seen {at}"

    crew = Crew("agents", gives=Patch)

    @crew.role
    async def work(task: Task) -> Patch:
        text = (await helper.run(task.file)).output
        if broken.pop() if broken else False:
            raise ConnectionError("down")
        return Patch(file=task.file, text=text)

    open_runs(answers("x"))
    with pytest.raises(CrewError):
        await crew.run(Task(file="a"), durable="r")
    open_runs(answers("x"))
    run = await crew.run(resume="r", until=Patch)
    assert (run.output.text, asked, run.spent.calls) == ("done", [1, 3], 2)


# --- effects ---


def pushing(done: list[str], wait: asyncio.Event | None) -> Crew:
    crew = Crew("pushing", gives=Patch)

    @crew.role(on_error="go_on")
    async def push(task: Task) -> Patch:
        async def go(key: str) -> str:
            done.append(key)
            if wait is not None:
                wait.set()
                await asyncio.Event().wait()
            return "pushed"

        return Patch(file=task.file, text=str(await effect("push", task.file, go)))

    return crew


async def cut_off(open_runs: OpenRuns, done: list[str]) -> None:
    """Stop a run in the middle of its effect."""
    begun = asyncio.Event()
    open_runs(answers("x"))
    run = asyncio.create_task(pushing(done, begun).run(Task(file="a"), durable="r"))
    await begun.wait()
    run.cancel()
    await asyncio.wait([run])
    open_runs(answers("x"))


async def test_an_effect_that_may_have_happened_is_not_done_again_without_asking(open_runs: OpenRuns) -> None:
    done: list[str] = []
    await cut_off(open_runs, done)
    with pytest.raises(CrewError, match="push may have happened before the run stopped, and nobody can be asked"):
        await pushing(done, None).run(resume="r")
    assert len(done) == 1


@pytest.mark.parametrize(("happened", "times", "text"), [(True, 1, "None"), (False, 2, "pushed")])
async def test_whoever_resumes_says_whether_an_effect_has_happened(
    open_runs: OpenRuns, happened: bool, times: int, text: str
) -> None:
    done, asked = list[str](), list[Any]()

    async def confirm(name: str, key: Any) -> bool:
        asked.append((name, key))
        return happened

    await cut_off(open_runs, done)
    run = await pushing(done, None).run(resume="r", confirm=confirm, until=Patch)
    assert (run.output.text, asked, len(done), len(set(done))) == (text, [("push", "a")], times, 1)


async def test_nobody_who_says_whether_an_effect_has_happened_leaves_the_question_open(open_runs: OpenRuns) -> None:
    async def nobody(name: str, key: Any) -> bool:
        raise EOFError

    async def happened(name: str, key: Any) -> bool:
        return True

    done: list[str] = []
    await cut_off(open_runs, done)
    for _ in range(2):
        with pytest.raises(CrewError, match="push may have happened before the run stopped, and nobody said whether"):
            await pushing(done, None).run(resume="r", confirm=nobody)
    run = await pushing(done, None).run(resume="r", confirm=happened, until=Patch)
    assert (run.output.text, len(done)) == ("None", 1)


async def test_an_effect_that_may_be_repeated_is_done_again_with_its_key(open_runs: OpenRuns) -> None:
    done, tries = list[str](), [True, False]
    crew = Crew("safe", gives=Patch)

    @crew.role
    async def push(task: Task) -> Patch:
        async def go(key: str) -> str:
            done.append(key)
            if tries.pop(0):
                raise TimeoutError
            return "pushed"

        try:
            text = await effect("push", task.file, go, safe=True)
        except TimeoutError:
            text = await effect("push", task.file, go, safe=True)
        return Patch(file=task.file, text=str(text))

    open_runs(answers("x"))
    run = await crew.run(Task(file="a"), durable="r", until=Patch)
    assert (run.output.text, len(done), len(set(done))) == ("pushed", 2, 1)


async def test_nobody_to_ask_ends_the_run_also_where_its_role_goes_on_after_errors(open_runs: OpenRuns) -> None:
    crew, done = Crew("goes on", gives=(Patch, RoleFailed)), list[str]()

    @crew.role(on_error="go_on")
    async def push(task: Task) -> Patch:
        async def go(key: str) -> str:
            done.append(key)
            if len(done) == 1:
                raise asyncio.CancelledError
            return "pushed"

        return Patch(file=task.file, text=str(await effect("push", task.file, go)))

    open_runs(answers("x"))
    with contextlib.suppress(CrewError, asyncio.CancelledError):
        await crew.run(Task(file="a"), durable="r")
    open_runs(answers("x"))
    with pytest.raises(CrewError, match="nobody can be asked"):
        await crew.run(resume="r")

    async def confirm(name: str, key: Any) -> bool:
        return False

    assert (await crew.run(resume="r", confirm=confirm, until=Patch)).output.text == "pushed"


async def test_a_finished_effect_is_not_done_again(open_runs: OpenRuns) -> None:
    done: list[str] = []
    open_runs(answers("x"))
    await pushing(done, None).run(Task(file="a"), durable="r")
    run = await pushing(done, None).run(resume="r", until=Patch)
    assert (run.output.text, len(done)) == ("pushed", 1)


async def test_outside_a_durable_run_an_effect_is_just_done() -> None:
    async def go(key: str) -> int:
        return len(key)

    assert await effect("push", "a", go) == 32


# --- what is kept ---


async def test_nobody_reads_what_a_run_keeps(open_runs: OpenRuns, tmp_path: Path) -> None:
    open_runs(answers("the recipe of the sauce"))
    await company(set()).run(Task(file="secret-file-name"), durable="r")
    open_runs(answers("x"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / ".hetero").glob("runs.db*"))
    assert b"durable.write" in stored  # names of slots and roles are
    assert b"recipe" not in stored
    assert b"secret-file" not in stored
    assert (tmp_path / ".hetero" / "runs.db").stat().st_mode & 0o077 == 0


async def test_a_run_that_another_key_sealed_is_not_begun_anew(
    open_runs: OpenRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_runs(answers("one"))
    await company(set()).run(Task(file="a"), durable="r")
    app = open_runs(answers("two"))
    monkeypatch.setattr(app.vault, "agent_key", lambda: bytes(32))
    with pytest.raises(HeteroError, match="What run r kept was sealed with another key; resume it with the key that"):
        await company(set()).run(resume="r")


def change(folder: Path, statement: str, *values: Any) -> None:
    """Change the database behind the program's back."""
    if registry.opened is not None:
        registry.opened.close()
    with contextlib.closing(sqlite3.connect(folder / ".hetero" / "runs.db")) as connection:
        assert connection.execute(statement, values).rowcount > 0
        connection.commit()


async def test_an_answer_that_was_put_in_the_place_of_another_is_noticed(open_runs: OpenRuns, tmp_path: Path) -> None:
    open_runs(answers("yes", "no"))
    await company(set()).run(Task(file="a"), Task(file="b"), durable="r")
    change(
        tmp_path,
        "UPDATE workflow_output SET output = (SELECT output FROM workflow_output WHERE workflow_uuid LIKE 'r/work/%' LIMIT 1)"
        " WHERE workflow_uuid LIKE 'r/work/%'",
    )
    open_runs(answers("x"))
    with pytest.raises(HeteroError, match="What run r kept was moved about in its database; start the run again"):
        await company(set()).run(resume="r")


async def test_a_run_in_which_nothing_was_done_for_a_week_is_deleted_when_another_begins(
    open_runs: OpenRuns, tmp_path: Path
) -> None:
    open_runs(answers("one"))
    for name in ("old", "goes on", "held"):
        await company(set()).run(Task(file="a"), durable=name.replace(" ", "-"))
    change(
        tmp_path,
        "UPDATE workflow_status SET created_at = created_at - ? WHERE NOT workflow_uuid LIKE 'goes-on/work/%'",
        8 * 86_400_000,
    )
    app = open_runs(answers("one"))
    with app.runs.held("held"):
        await company(set()).run(Task(file="a"), durable="new")
    assert set(await app.runs.known("durable")) == {"goes-on", "held", "new"}
    assert {path.name for path in (tmp_path / ".hetero" / "runs").iterdir()} == {
        "goes-on.lock",
        "held.lock",
        "new.lock",
    }


async def test_a_process_that_was_forked_keeps_no_runs(open_runs: OpenRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_runs(answers("one"))
    monkeypatch.setattr(app.runs, "_pid", 1)  # as a child finds it
    with pytest.raises(UserError, match="This process was forked from one that keeps runs; start it with spawn"):
        await company(set()).run(Task(file="a"), durable="r")


async def test_an_unknown_run_and_one_of_another_crew_are_said(open_runs: OpenRuns) -> None:
    open_runs(answers("one"))
    await company(set()).run(Task(file="a"), durable="monday")
    with pytest.raises(UnknownNameError, match="There is no run 'munday', did you mean 'monday'; runs are kept for a"):
        await company(set()).run(resume="munday")
    with pytest.raises(UserError, match="Run monday is one of crew 'durable', not of 'pushing'"):
        await pushing([], None).run(resume="monday")
    with pytest.raises(UserError, match="There is a run monday already; resume it, or give this one another id"):
        await company(set()).run(Task(file="a"), durable="monday")


async def test_a_run_that_goes_on_elsewhere_is_not_resumed_beside_it(open_runs: OpenRuns) -> None:
    done: list[str] = []
    begun = asyncio.Event()
    open_runs(answers("x"))
    run = asyncio.create_task(pushing(done, begun).run(Task(file="a"), durable="r"))
    await begun.wait()
    with pytest.raises(UserError, match="Run r goes on in another process; wait for its end"):
        await pushing(done, None).run(resume="r")
    run.cancel()
    await asyncio.wait([run])


async def test_without_dbos_the_extra_is_named(open_runs: OpenRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("dbos") or (args and name == "routing.runs"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    open_runs(answers("x"))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"A run that resumes needs packages .* 'hetero_agents\[durable\]'"):
        await company(set()).run(Task(file="a"), durable=True)


# --- killed, and on the command line ---


def test_a_run_that_is_killed_and_resumed_makes_no_finished_call_again(tmp_path: Path) -> None:
    assert killed(tmp_path / "run", random.Random(3), 2)["kills"] >= 1


@pytest.mark.skipif(PROGRAMS is None, reason="Postgres is not installed here (Debian: apt-get install postgresql)")
def test_a_run_that_is_killed_resumes_from_postgres_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres() as url:
        monkeypatch.setenv("HETERO_RUNS", url)
        assert killed(tmp_path / "run", random.Random(3), 1)["kills"] == 1
    assert not (tmp_path / "run" / ".hetero" / "runs.db").exists()


CLI = """\
from pydantic import BaseModel
from hetero_agents import Crew

class Wish(BaseModel):
    text: str

class Patch(BaseModel):
    text: str

crew = Crew("shop", gives=Patch)

@crew.role
async def work(wish: Wish) -> Patch:
    if wish.text == "bad":
        raise ValueError("no such thing")
    return Patch(text=wish.text.upper())
"""


@pytest.fixture
def shop(tmp_path: Path, hetero: Hetero) -> Hetero:
    write_workspace(tmp_path, '[app]\nmodules = ["clidesk"]\n[privacy]\ncontent = "raw"\n')
    (tmp_path / "clidesk.py").write_text(CLI)
    return hetero


def test_the_command_line_runs_a_crew_by_name_and_by_folder(shop: Hetero) -> None:
    for name in ("shop", "."):
        done = shop("run", name, "milk", "--json")
        assert done.json["output"] == {"text": "MILK"}
        assert (done.json["ended"], done.json["rounds"], len(done.json["messages"])) == ("until", 1, 2)


def test_the_command_line_resumes_the_last_run(shop: Hetero) -> None:
    first = shop("run", "shop", "milk", "--json").json
    again = shop("run", "shop", "--resume", "last", "--json").json
    assert (again["run"], again["output"]) == (first["run"], {"text": "MILK"})


def test_the_command_line_says_which_run_failed_and_how(shop: Hetero) -> None:
    done = shop("run", "shop", "bad")
    assert done.code == 1
    assert "run 2" in done.err
    assert "Crew shop stopped in round 1: work(Wish#0) failed: ValueError: no such thing" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("shop", "{}"), "That is no Wish (Wish: Field required); crew 'shop' begins with Wish."),
        (("shop", "--resume", "last"), "There is no run of crew 'shop' to resume; runs are kept for a week."),
        (
            ("shop", "milk", "--resume", "last"),
            "A run that is resumed begins with what it began with; leave VALUE out.",
        ),
        (("shop", "milk", "--calls", "0"), "A budget has the limit calls=0; it takes a number above 0."),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(shop: Hetero, arguments: tuple[str, ...], sentence: str) -> None:
    assert shop("run", *arguments).sentence == sentence
