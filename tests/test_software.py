"""The software company: its procedure, its limits, and that MetaGPT's faults are not in it."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from examples.software_company import key, problems
from hetero_agents import Budget, CrewError, CrewRun, flush
from hetero_agents.bindings import Workspace
from hetero_agents.errors import ConfigError, UserError
from hetero_agents.roles.software import Delivery, Requirement, company
from hetero_agents.roles.software import project as project_module
from hetero_agents.roles.software.messages import Draft, Patch, Rejected, Step, Task
from hetero_agents.roles.software.office import MENDS
from hetero_agents.roles.software.project import Project, new_folder
from hetero_agents.roles.software.reviewer import REWRITES, reviewer
from hetero_agents.slots import App, registry
from hetero_agents.spans import Names, read_traces
from hetero_agents.testing import MemoryVault, scripted
from hetero_agents.tools.git import Git

from .conftest import OpenApp
from .support import answers

ROLES = Path(project_module.__file__).parent
EXAMPLE = Path(key.__file__).parent
TODO = Requirement(text="a todo list")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the next runs of the tests say, by failing file; all pass where it is empty. Files are written, git is not run."""
    said: list[dict[str, str]] = []

    async def nothing(*_: Any) -> list[Any]:
        return []

    async def failing(_: Project) -> dict[str, str]:
        return said.pop(0) if said else {}

    monkeypatch.setattr(Git, "git_init", nothing)
    monkeypatch.setattr(Git, "git_status", nothing)
    monkeypatch.setattr(Project, "failing", failing)
    return said


def document(**changes: Any) -> dict[str, Any]:
    """Every document of the company in one, as JSON."""
    return {"goals": [], "user_stories": [], "competitors": [], "requirements": [], "unclear": [], **changes}


def design(*files: str) -> dict[str, Any]:
    return {"approach": "", "files": [*files], "class_diagram": "", "call_flow": "", "unclear": []}


def steps(*files: str) -> list[dict[str, str]]:
    return [{"file": file, "what": f"what {file} does"} for file in files]


def tasks(*files: str) -> dict[str, Any]:
    return {"packages": [], "steps": steps(*files), "api": "", "shared": ""}


def script(*files: str, **changes: Any) -> dict[str, Any]:
    """Answers of all slots for a program of these files; changes by the slot's last part."""
    given: dict[str, Any] = {
        "product_manager.issue_kind": {"reason": "", "kind": "requirement"},
        "product_manager.is_related": {"reason": "", "related": False},
        "product_manager.write_prd": document(),
        "architect.write_design": design(*files),
        "project_manager.write_tasks": tasks(*files),
        "engineer.plan_change": {"steps": steps(*files)},
        "engineer.write_code": "x = 1\n",
        "engineer.rewrite": "x = 2\n",
        "engineer.summarise": {"text": "", "todos": []},
        "engineer.is_pass": True,
        "engineer.debug": "x = 3\n",
        "reviewer.review": {"comments": [], "verdict": "LGTM"},
        "tester.write_test": "def test_x(): ...\n",
        "tester.blame": files[0],
        "tester.mend_test": "def test_y(): ...\n",
    }
    return {slot: changes.get(slot.partition(".")[2], answer) for slot, answer in given.items()}


def in_turn(*given: Any) -> Callable[[str], Any]:
    """Answers one after the other, the last one for ever."""
    left = list(given)
    return lambda prompt: left.pop(0) if len(left) > 1 else left[0]


def prompts(vault: MemoryVault, slot: str) -> list[dict[str, Any]]:
    """Return the arguments of each call of a slot."""
    flush()
    spans = sorted(vault.spans, key=lambda span: span["start"])
    return [
        json.loads(s["attributes"][Names.INPUT])
        for s in spans
        if s["attributes"].get(Names.SLOT) == slot and Names.INPUT in s["attributes"]
    ]


async def work(folder: Path, requirement: Requirement = TODO, **options: Any) -> CrewRun[Delivery]:
    return await company(folder, **options).run(requirement, until=Delivery)


# -- the procedure ---------------------------------------------------------------------------------


async def test_a_requirement_becomes_a_program_with_tests(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    with scripted(script("store.py", "app/todo.py")):
        delivery = (await work(tmp_path)).output
    project = tmp_path / "a-todo-list"
    assert delivery.path == str(project)
    assert delivery.files == ["app/todo.py", "store.py", "tests/test_app__todo.py", "tests/test_store.py"]
    assert (delivery.passed, delivery.mended, delivery.open) == (True, 0, [])
    assert (project / "app" / "todo.py").read_text() == "x = 1\n"
    assert json.loads((project / "docs" / "1" / "design.json").read_text())["files"] == ["store.py", "app/todo.py"]


async def test_files_are_written_in_the_order_of_the_tasks_and_each_sees_those_before_it(
    tmp_path: Path, runs: list[dict[str, str]]
) -> None:
    with scripted(script("b.py", "a.py")) as vault:
        await work(tmp_path)
    seen = [call["task"] for call in prompts(vault, "engineer.write_code")]
    assert [(task["file"], [other["file"] for other in task["others"]]) for task in seen] == [
        ("b.py", []),
        ("a.py", ["b.py"]),
    ]


async def test_a_file_that_is_rejected_is_rewritten_by_the_comments(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    verdicts = in_turn({"comments": ["too short"], "verdict": "LBTM"}, {"comments": [], "verdict": "LGTM"})
    with scripted(script("a.py", review=verdicts)) as vault:
        run = await work(tmp_path)
    assert [call["comments"] for call in prompts(vault, "engineer.rewrite")] == [["too short"]]
    assert (tmp_path / "a-todo-list" / "a.py").read_text() == "x = 2\n"
    assert run.output.open == []


async def test_a_reviewer_who_is_never_content_ends_after_two_rewrites_and_it_is_said(
    tmp_path: Path, runs: list[dict[str, str]]
) -> None:
    with scripted(script("a.py", review={"comments": ["no"], "verdict": "LBTM"})) as vault:
        run = await work(tmp_path)
    assert len(prompts(vault, "engineer.rewrite")) == REWRITES == 2
    assert (run.output.passed, run.output.open) == (True, ["a.py: no"])


async def test_debugging_ends_after_five_rounds_and_it_is_said(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    runs += [{"tests/test_a.py": "1 != 2"}] * 9
    with scripted(script("a.py")) as vault:
        delivery = (await work(tmp_path)).output
    assert len(prompts(vault, "engineer.debug")) == delivery.mended == MENDS == 5
    assert not delivery.passed
    assert (delivery.failing, delivery.open) == (["tests/test_a.py"], ["tests/test_a.py does not pass."])


@pytest.mark.parametrize(("failing", "outcome"), [({}, "ok"), ({"tests/test_a.py": "no"}, "failed")])
async def test_how_the_run_ended_is_what_its_tests_say(
    tmp_path: Path, runs: list[dict[str, str]], failing: dict[str, str], outcome: str
) -> None:
    runs += [failing] * 9
    with scripted(script("a.py")) as vault:
        run = await work(tmp_path)
        flush()
        (trace,) = read_traces(vault, traces=[run.trace_id])
    assert trace.outcome == outcome


async def test_what_documents_leave_open_is_said(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    with scripted(script("a.py", write_prd=document(unclear=["Which language?"]))):
        assert (await work(tmp_path)).output.open == ["Which language?"]


async def test_the_code_as_a_whole_is_looked_at_where_that_is_asked_for(
    tmp_path: Path, runs: list[dict[str, str]]
) -> None:
    todos = in_turn({"text": "", "todos": steps("a.py", "new.py")}, {"text": "", "todos": []})
    with scripted(script("a.py", summarise=todos, is_pass=in_turn(False, True))) as vault:
        run = await work(tmp_path, summaries=3)
    written = [(call["task"]["file"], call["task"]["old"]) for call in prompts(vault, "engineer.write_code")]
    assert written == [("a.py", ""), ("a.py", "x = 1\n"), ("new.py", "")]
    assert len(prompts(vault, "engineer.summarise")) == 2
    assert "tests/test_new.py" in run.output.files


async def test_files_that_are_no_python_are_written_and_not_tested(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    with scripted(script("README.md", write_code="# Todo: (\n")) as vault:
        run = await work(tmp_path)
    assert (run.output.files, run.output.passed) == (["README.md"], True)
    assert prompts(vault, "tester.write_test") == []


async def test_the_same_answers_give_the_same_run(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    told: list[list[Any]] = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        runs[:] = [{"tests/test_a.py": "no", "tests/test_b.py": "no"}]
        with scripted(script("a.py", "b.py")):
            run = await work(folder)
        told.append([(m.label, m.role, m.caused_by, m.content) for m in run.messages if m.kind is not Delivery])
    assert told[0] == told[1]


async def test_a_role_can_be_called_alone() -> None:
    task = Task(requirement="", file="a.py", what="", shared="", others=[], old="")
    with scripted({"reviewer.review": {"comments": ["no"], "verdict": "LBTM"}}):
        assert await reviewer(Draft(task=task, text="", rewrites=1)) == Rejected(
            draft=Draft(task=task, text="", rewrites=1), comments=["no"]
        )
        assert await reviewer(Draft(task=task, text="", rewrites=2)) == Patch(file="a.py", text="", open=["no"])


def test_each_kind_of_call_of_metagpt_is_a_slot_with_a_typed_answer() -> None:
    declared = {
        slot: str(registry.slots[slot].contract.hints["return"]) for slot in registry.slots if slot in script("a")
    }
    assert declared.keys() == script("a").keys()
    assert {slot for slot, answer in declared.items() if answer == str(str)} == {
        "engineer.write_code",  # whole files, which are text
        "engineer.rewrite",
        "engineer.debug",
        "tester.write_test",
        "tester.mend_test",
    }


def test_the_roles_are_short() -> None:
    roles = ["product_manager", "architect", "project_manager", "engineer", "reviewer", "tester", "company"]
    assert sum(len((ROLES / f"{role}.py").read_text().splitlines()) for role in roles) <= 350


def test_the_picture_in_the_docs_is_the_crews() -> None:
    page = (ROLES.resolve().parents[1] / "docs" / "software-company.md").read_text("utf-8")
    assert f"```mermaid\n{company(Path()).graph()}```" in page


# -- a project that is there -----------------------------------------------------------------------


@pytest.fixture
async def begun(tmp_path: Path, runs: list[dict[str, str]]) -> Path:
    """A folder with the project `a-todo-list`, of which `a.py` is a part."""
    with scripted(script("a.py")):
        await work(tmp_path)
    return tmp_path


MORE = Requirement(text="more of it", project="a-todo-list")


async def test_a_bug_needs_no_new_plan_but_a_change_of_what_is_there(begun: Path) -> None:
    answers = script("a.py", issue_kind={"reason": "", "kind": "bug"}, write_code="x = 9\n")
    with scripted(answers) as vault:
        run = await work(begun, MORE)
    assert prompts(vault, "product_manager.write_prd") == []
    (planned,) = prompts(vault, "engineer.plan_change")
    assert (planned["blueprint"]["requirement"], planned["files"]) == (
        "more of it",
        [{"file": "a.py", "text": "x = 1\n"}],
    )
    (written,) = prompts(vault, "engineer.write_code")
    assert written["task"]["old"] == "x = 1\n"
    assert prompts(vault, "tester.write_test")[0]["untested"]["old"] == "def test_x(): ...\n"
    assert (begun / "a-todo-list" / "a.py").read_text() == "x = 9\n"
    assert run.output.passed


async def test_a_document_is_held_against_a_requirement_once_though_bugs_repeat_it(begun: Path) -> None:
    with scripted(script("a.py", issue_kind={"reason": "", "kind": "bug"})):
        await work(begun, MORE)
    with scripted(script("a.py")) as vault:
        await work(begun, MORE)
    assert len(prompts(vault, "product_manager.is_related")) == 1


@pytest.mark.parametrize("related", [True, False])
async def test_a_related_document_goes_into_the_new_one(begun: Path, related: bool) -> None:
    with scripted(script("new.py", is_related={"reason": "", "related": related})) as vault:
        await work(begun, MORE)
    (asked,) = prompts(vault, "product_manager.write_prd")
    assert (asked["files"], len(asked["earlier"])) == (["a.py", "tests/test_a.py"], int(related))
    assert (begun / "a-todo-list" / "docs" / "2" / "prd.json").exists()


async def test_a_change_without_steps_goes_on_to_the_tests(begun: Path) -> None:
    with scripted(script("a.py", plan_change={"steps": []})) as vault:
        assert (await work(begun, MORE)).output.passed
    assert prompts(vault, "engineer.write_code") == []


async def test_a_project_that_is_not_there_is_said(tmp_path: Path) -> None:
    with scripted({}), pytest.raises(CrewError, match="There is no project 'a-todo-list'"):
        await work(tmp_path, MORE)


async def test_a_blueprint_that_cannot_be_read_is_said(begun: Path) -> None:
    (begun / "a-todo-list" / "docs" / "1" / "tasks.json").write_text("{")
    with scripted({}), pytest.raises(CrewError, match=r"docs/1 cannot be read .* mend it or delete the folder"):
        await work(begun, MORE)


async def test_a_blueprint_takes_the_place_of_no_other(begun: Path) -> None:
    docs = begun / "a-todo-list" / "docs"
    (docs / "1").rename(docs / "2")
    kept = (docs / "2" / "prd.json").read_bytes()
    with scripted(script("new.py")):
        await work(begun, MORE)
    assert sorted(os.listdir(docs)) == ["2", "3"]
    assert (docs / "2" / "prd.json").read_bytes() == kept


async def test_a_hidden_file_that_is_there_is_changed_and_not_written_anew(begun: Path) -> None:
    (begun / "a-todo-list" / ".env.example").write_text("PORT=1\n")
    with scripted(script(".env.example")) as vault:
        await work(begun, MORE)
    assert prompts(vault, "engineer.plan_change")[0]["files"] == [{"file": ".env.example", "text": "PORT=1\n"}]


def test_a_new_project_never_takes_the_folder_of_another(tmp_path: Path) -> None:
    names = [new_folder(tmp_path, "A todo-list, please: with `tags` and more", key) for key in "abc"]
    assert names == [f"a-todo-list-please-with-tags{end}" for end in ("", "-2", "-3")]
    (tmp_path / "project").mkdir()  # somebody's, and empty
    assert new_folder(tmp_path, "?!", "d") == "project-2"
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "project", "project-2"])


# -- MetaGPT's faults ------------------------------------------------------------------------------


async def test_a_budget_stops_inside_a_round_and_more_goes_on(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    crew, asked = company(tmp_path), list[str]()
    files = [f"f{n}.py" for n in range(6)]

    def written(prompt: str) -> str:
        asked.append(prompt)
        return "def test_x(): ...\n"

    with scripted(script(*files, write_test=written)):
        before = 3 + 2 * len(files)
        run = await crew.run(TODO, until=Delivery, budget=Budget(calls=before + 2))
        assert (run.ended, run.spent.calls, len(asked)) == ("budget", before + 2, 2)
        assert len(run.of(Patch)) == len(files) + 2
        whole = await crew.run(until=Delivery, go_on=run)
    assert (whole.output.passed, len(asked)) == (True, len(files))


async def test_a_model_without_a_price_is_an_error_under_a_budget_of_money(tmp_path: Path, open_app: OpenApp) -> None:
    open_app(
        {"fake:big": answers(document())},
        '[models]\nbig = {model = "fake:big", max_tokens = 9}\n[tiers]\nllm = {model = "big"}\n[privacy]\ncontent = "raw"\n',
    )
    crew = company(tmp_path)
    with pytest.raises(CrewError, match="The price of big is not known") as stopped:
        await crew.run(TODO, until=Delivery, budget=Budget(money=1))
    assert isinstance(stopped.value.__cause__, ConfigError)


async def test_an_error_is_raised_with_all_that_was_made(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    with (
        scripted(script("a.py", write_code=RuntimeError("out of order"))),
        pytest.raises(
            CrewError, match=r"engineer\(Task#\d+, Blueprint#\d+\) failed: RuntimeError: out of order"
        ) as stopped,
    ):
        await work(tmp_path)
    assert [message.kind.__name__ for message in stopped.value.run.messages][-2:] == ["Blueprint", "Task"]


async def test_what_the_test_run_printed_reaches_the_engineer(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    runs.append({"tests/test_a.py": "E   assert 1 == 2"})
    with scripted(script("a.py")) as vault:
        run = await work(tmp_path)
    (asked,) = prompts(vault, "engineer.debug")
    assert asked["output"] == "E   assert 1 == 2"
    assert (asked["source"], asked["test"]["text"]) == ({"file": "a.py", "text": "x = 1\n"}, "def test_x(): ...\n")
    assert (run.output.passed, run.output.mended) == (True, 1)


@pytest.mark.parametrize(("cause", "code", "test"), [("a.py", 3, "x"), ("tests/test_a.py", 1, "y")])
async def test_what_is_wrong_is_mended_be_it_code_or_test(
    tmp_path: Path, runs: list[dict[str, str]], cause: str, code: int, test: str
) -> None:
    runs.append({"tests/test_a.py": "no"})
    with scripted(script("a.py", blame=cause)) as vault:
        await work(tmp_path)
    assert [call["names"] for call in prompts(vault, "tester.blame")] == [["a.py", "tests/test_a.py"]]
    project = tmp_path / "a-todo-list"
    assert (project / "a.py").read_text() == f"x = {code}\n"
    assert (project / "tests" / "test_a.py").read_text() == f"def test_{test}(): ...\n"


async def test_no_other_file_can_be_blamed(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    runs.append({"tests/test_a.py": "no"})
    with scripted(script("a.py", blame=in_turn("/etc/passwd", "a.py"))):
        assert (await work(tmp_path)).output.passed


async def test_free_text_in_place_of_tasks_is_refused_and_mended(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    said = in_turn("## Tasks\n[CONTENT]{'steps': [['a.py', 'all']]}[/CONTENT]", tasks("a.py"))
    with scripted(script("a.py", write_tasks=said)):
        assert (await work(tmp_path)).output.passed


def test_no_role_parses_text_by_regular_expressions() -> None:
    assert [
        path.name
        for path in ROLES.glob("*.py")
        if re.search(r"^\s*(import re|from re) ?", path.read_text(), flags=re.M)
    ] == []


# -- answers that nobody may trust -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../evil.py",
        "/etc/cron.d/evil",
        "a/../../b.py",
        "",
        ".git/hooks/post-commit",
        "a/.GIT/config",
        "a\\b",
        "a\nb",
        "./a.py",
        "a//b",
    ],
)
def test_a_path_that_leads_out_of_the_project_stands_in_no_message(path: str) -> None:
    with pytest.raises(ValidationError, match="is not the path of a file inside the project"):
        Step(file=path, what="")
    with pytest.raises(ValidationError, match="is not the path of a file inside the project"):
        Requirement(text="", project=path)


@pytest.mark.parametrize("slot", ["write_design", "write_tasks", "plan_change"])
async def test_a_path_outside_is_told_to_the_model_which_mends_it(begun: Path, slot: str) -> None:
    bad = {
        "write_design": design("../evil.py"),
        "write_tasks": tasks("../evil.py"),
        "plan_change": {"steps": steps("../evil.py")},
    }
    good = {"write_design": design("a.py"), "write_tasks": tasks("a.py"), "plan_change": {"steps": steps("a.py")}}
    with scripted(script("a.py", **{slot: in_turn(bad[slot], good[slot])})):
        assert (await work(begun, MORE)).output.passed
    assert os.listdir(begun) == ["a-todo-list"]


async def test_a_link_in_a_project_does_not_lead_a_file_out_of_it(
    begun: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (begun / "a-todo-list" / "lib").symlink_to(outside)
    with (
        scripted(script("lib/evil.py")),
        pytest.raises(CrewError, match=r"'lib/evil\.py' cannot be used: a part of it is a link"),
    ):
        await work(begun, MORE)
    assert os.listdir(outside) == []


async def test_steps_that_are_not_the_designs_are_mended(tmp_path: Path, runs: list[dict[str, str]]) -> None:
    with scripted(script("a.py", "b.py", write_tasks=in_turn(tasks("a.py"), tasks("b.py", "a.py")))):
        assert len((await work(tmp_path)).output.files) == 4


@pytest.mark.parametrize("text", ["```python\nx = 1\n```", "Here it is: x = 1", "x = \0"])
async def test_an_answer_that_is_no_python_is_mended(tmp_path: Path, runs: list[dict[str, str]], text: str) -> None:
    with scripted(script("a.py", write_code=in_turn(text, "x = 1\n"))):
        await work(tmp_path)
    assert (tmp_path / "a-todo-list" / "a.py").read_text() == "x = 1\n"


# -- the real sandbox, the real git ----------------------------------------------------------------


async def test_tests_run_in_a_copy_so_that_what_they_do_to_the_project_is_undone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "test_a.py").write_text(
        "from pathlib import Path\n\ndef test_a():\n    Path('a.py').write_text('')\n    Path('b.py').touch()\n    assert not Path('.git').exists()\n"
    )
    (tmp_path / ".git").mkdir()
    assert await project.failing() == {}
    assert project.files() == ["a.py", "test_a.py"]
    assert (tmp_path / "a.py").read_text() == "x = 1\n"


async def test_the_output_of_a_failing_test_is_the_same_in_every_run(tmp_path: Path) -> None:
    (tmp_path / "test_good.py").write_text("def test_good(): ...\n")
    (tmp_path / "test_bad.py").write_text("def test_bad():\n    assert 1 == 2\n")
    first, second = await asyncio.gather(Project(tmp_path).failing(), Project(tmp_path).failing())
    assert first == second
    assert first.keys() == {"test_bad.py"}
    assert "test_bad.py:2: in test_bad\n    assert 1 == 2\n" in first["test_bad.py"]


async def test_what_is_kept_is_committed_and_what_is_the_same_is_not(tmp_path: Path) -> None:
    project, git = Project(tmp_path), Git(tmp_path)
    (tmp_path / "mine.txt").write_text("not the company's")
    await project.open()
    await project.keep({"a.py": "x = 1\n"}, "Write a.py")
    await project.keep({"a.py": "x = 1\n"}, "Write a.py")
    assert [commit.message for commit in await git.git_log()] == ["Write a.py"]
    assert [change.path for change in await git.git_status()] == ["mine.txt"]
    for number in range(3000):  # so much that git's words of it are cut
        (tmp_path / f"{number:040} is somebody else's, and there are many of it").touch()
    await project.keep({"z.py": "x = 1\n"}, "Write z.py")
    assert (await git.git_log())[0].message == "Write z.py"


async def test_what_was_done_before_a_kill_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that the company does to the disk is cut off once after it was done, before the run could keep that it was."""
    cut = list[str]()

    def stop(what: str) -> None:
        if what not in cut:
            cut.append(what)
            raise ConnectionError(what)

    def new(*arguments: Any, real: Callable[..., str] = new_folder) -> str:
        name = real(*arguments)
        stop("new_folder")
        return name

    async def open_project(project: Project, real: Any = Project.open) -> None:
        await real(project)
        stop("open")

    async def keep(project: Project, files: dict[str, str], message: str, real: Any = Project.keep) -> None:
        await real(project, files, message)
        stop(message)

    async def nothing(*_: Any) -> dict[str, str]:
        return {}

    monkeypatch.setattr("hetero_agents.roles.software.office.new_folder", new)
    monkeypatch.setattr(Project, "open", open_project)
    monkeypatch.setattr(Project, "keep", keep)
    monkeypatch.setattr(Project, "failing", nothing)
    crew, commits = company(tmp_path), ["Write tests/test_a.py", "Write a.py", "Plan: a todo list"]
    with scripted(script("a.py")):
        with pytest.raises(CrewError, match="new_folder"):
            await crew.run(TODO, until=Delivery, durable="r")
        for what in ("open", *reversed(commits)):
            with pytest.raises(CrewError, match=what):
                await crew.run(until=Delivery, resume="r")
        assert (await crew.run(until=Delivery, resume="r")).output.passed
    assert os.listdir(tmp_path) == ["a-todo-list"]
    git = Git(tmp_path / "a-todo-list")
    assert [commit.message for commit in await git.git_log()] == commits
    assert await git.git_status() == []


async def test_without_pytest_it_is_said_which_extra_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None: ...

    monkeypatch.setattr("importlib.util.find_spec", absent)
    with pytest.raises(UserError, match=r"pip install 'hetero_agents\[software\]'"):
        await Project(tmp_path).failing()


# -- the example -----------------------------------------------------------------------------------


@pytest.fixture
def answer_key(tmp_path: Path) -> Iterator[MemoryVault]:
    """The example's workspace, in which its recorded answers play the LLM."""
    for name in ("hetero.toml", "answers.jsonl"):
        shutil.copyfile(EXAMPLE / name, tmp_path / name)
    app = App.of(Workspace(tmp_path), vault := MemoryVault())
    registry.use(app)
    yield vault
    app.close()


async def test_the_recorded_answers_fit_the_code(
    tmp_path: Path, answer_key: MemoryVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(Git, "git_init", nothing)  # another test shows git; here it would take most of the time
    monkeypatch.setattr(Git, "git_status", nothing)
    first = (await work(tmp_path / "artefacts", key.REQUIREMENTS[0])).output
    assert (first.passed, first.mended, first.files) == (
        True,
        1,
        ["store.py", "tests/test_store.py", "tests/test_todo.py", "todo.py"],
    )
    assert len(prompts(answer_key, "engineer.rewrite")) == 1
    (bug,) = prompts(answer_key, "engineer.debug")
    assert "assert store.todos[0].done" in bug["output"]
    monkeypatch.setattr(Project, "failing", nothing)
    second = (await work(tmp_path / "artefacts", key.REQUIREMENTS[1])).output
    assert (second.passed, second.mended) == (True, 0)
    lines = [json.loads(line) for line in (EXAMPLE / "answers.jsonl").read_text("utf-8").splitlines()]
    asked = {json.dumps([line["slot"], line["input"]], sort_keys=True) for line in lines}
    made = {
        json.dumps([slot, call], sort_keys=True)
        for slot in {line["slot"] for line in lines}
        for call in prompts(answer_key, slot)
    }
    assert asked == made


# -- the study -------------------------------------------------------------------------------------

LAST = problems.Problem(
    number=1,
    prompt='def last(numbers: list) -> int:\n    """Return the last number. Of none return 0.\n    >>> last([1, 2])\n    2\n    """\n',
    name="last",
    solution="    return numbers[-1] if len(numbers) > 0 else 0\n",
    check="def check(candidate):\n    assert candidate([1, 2]) == 2\n    assert candidate([]) == 0\n",
)


async def test_a_bug_that_is_put_in_makes_the_tests_fail(tmp_path: Path) -> None:
    draft = await problems.wrong_draft(LAST, tmp_path)
    assert await LAST.is_met_by(LAST.code, tmp_path) is True
    assert await LAST.is_met_by(draft, tmp_path) is False


def test_a_wrong_test_asks_for_the_opposite_in_one_place() -> None:
    assert LAST.wrong_tests.count("assert not") == 1
    assert LAST.tests.count("assert not") == 0


def test_the_templates_of_the_study_meet_the_contracts() -> None:
    assert LAST.sentences == ["Return the last number.", "Of none return 0."]
    for name, said in problems.documents(LAST).items():
        assert registry.slot(name).contract.output.validate_python(said)
