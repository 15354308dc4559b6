"""The ready-made tools: what each does, what each refuses, and that an agent can use it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents.errors import UserError
from hetero_agents.tools import sandbox
from hetero_agents.tools.fetch import Fetch
from hetero_agents.tools.files import Files
from hetero_agents.tools.git import Git
from hetero_agents.tools.python import Python
from hetero_agents.tools.sandbox import Limits
from hetero_agents.tools.search import Match, Search
from hetero_agents.tools.shell import Shell

T = TypeVar("T")

needs_sandbox = pytest.mark.skipif(sandbox.isolation() == "none", reason="nothing here can confine a command")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> Files:
    return Files(root)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_written_with_its_folders_read_edited_and_listed(files: Files, root: Path) -> None:
    assert files.write_file("a/b/x.txt", "grüße\n") == "Wrote 8 bytes to a/b/x.txt."
    assert files.read_file("a/b/x.txt") == "grüße\n"
    files.edit_file("a/b/x.txt", "grüße", "bye")
    assert (root / "a" / "b" / "x.txt").read_text() == "bye\n"
    files.write_file("z", "")
    assert files.list_files() == files.list_files("") == ["a/", "z"]
    assert files.list_files("a/b/") == ["x.txt"]
    with pytest.raises(ModelRetry, match=r"'\.\.' is not a path inside"):
        files.list_files("..")


def test_an_absolute_path_inside_the_root_is_one_of_it(files: Files, root: Path) -> None:
    files.write_file(str(root / "x"), "text")
    assert files.read_file(str(root / "x")) == "text"


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "", ".", "a\0b", "{root}/../secret"])
def test_a_path_that_leads_out_of_the_root_is_refused(files: Files, root: Path, path: str) -> None:
    (root / "a").mkdir()
    path = path.format(root=root)
    uses: list[Callable[[], str]] = [
        lambda: files.read_file(path),
        lambda: files.write_file(path, "x"),
        lambda: files.edit_file(path, "secret", "x"),
    ]
    for use in uses:
        with pytest.raises(ModelRetry, match="not a path inside the working folder"):
            use()
    assert (root.parent / "secret").read_text() == "secret"


def test_a_link_is_not_followed(files: Files, root: Path) -> None:
    (root / "file").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent)
    uses: list[Callable[[], object]] = [
        lambda: files.read_file("file"),
        lambda: files.write_file("file", "x"),
        lambda: files.read_file("folder/secret"),
        lambda: files.write_file("folder/secret", "x"),
        lambda: files.write_file("folder/new/x", "x"),
        lambda: files.list_files("folder"),
    ]
    for use in uses:
        with pytest.raises(ModelRetry, match=r"is a link or no folder|is not a file"):
            use()
    assert (root.parent / "secret").read_text() == "secret"
    assert not (root.parent / "new").exists()


def test_what_is_no_file_does_not_hold_a_reader_up(files: Files, root: Path) -> None:
    os.mkfifo(root / "pipe")
    for path in ("pipe", "."):
        with pytest.raises(ModelRetry):
            files.read_file(path)
    with pytest.raises(ModelRetry, match="not a file"):
        files.read_file("pipe")


MISTAKES: list[tuple[Callable[[Files], object], str]] = [
    (lambda files: files.read_file("none"), "'none' cannot be used: no such file"),
    (lambda files: files.read_file("binary"), "not text in UTF-8"),
    (lambda files: files.read_file("large"), "larger than the 1,000 bytes"),
    (lambda files: files.write_file("x", "x" * 1001), "1,001 bytes and a file may have 1,000"),
    (lambda files: files.edit_file("twice", "a", "b"), "occurs 2 times"),
    (lambda files: files.edit_file("twice", "c", "b"), "occurs 0 times"),
    (lambda files: files.edit_file("twice", "", "b"), "occurs 0 times"),
    (lambda files: files.list_files("none"), "cannot be used"),
    (lambda files: files.list_files("many"), "11 entries, more than 10"),
]


@pytest.mark.parametrize(("act", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_told_in_a_sentence(root: Path, act: Callable[[Files], object], said: str) -> None:
    (root / "binary").write_bytes(b"\xff\xfe")
    (root / "large").write_text("x" * 1001)
    (root / "twice").write_text("a a")
    (root / "many").mkdir()
    for number in range(11):
        (root / "many" / str(number)).touch()
    with pytest.raises(ModelRetry, match=said):
        act(Files(root, max_bytes=1000, max_entries=10))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    files: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_file("x", "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ModelRetry, match="no space left"):
        files.write_file("x", "new")
    assert ([path.name for path in root.iterdir()], (root / "x").read_text()) == (["x"], "old")


def test_a_file_keeps_its_permissions(files: Files, root: Path) -> None:
    files.write_file("x.sh", "old")
    (root / "x.sh").chmod(0o755)
    files.write_file("x.sh", "new")
    assert (root / "x.sh").stat().st_mode & 0o777 == 0o755


def test_a_root_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make it first"):
        Files(tmp_path / "none").list_files()


# -- shell and Python ------------------------------------------------------------------------------


@needs_sandbox
def test_a_command_is_run_without_a_shell(root: Path) -> None:
    (root / "two words").write_text("x\n")
    ran = run(Shell(root, allow=("echo", "cat")).run_command("echo 'a b' $HOME * | cat > out; `id`"))
    assert ran.stdout == "a b $HOME * | cat > out; `id`\n"
    assert run(Shell(root, allow=["cat"]).run_command("cat 'two words'")).stdout == "x\n"


@pytest.mark.parametrize("command", ["rm -rf .", "./cat x", "/bin/cat x", "", "   ", "PATH=. cat x", "ca"])
def test_a_program_that_is_not_on_the_list_is_refused(root: Path, command: str) -> None:
    with pytest.raises(ModelRetry, match="may not be run"):
        run(Shell(root, allow=["cat"]).run_command(command))


def test_an_allow_list_that_is_one_text_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="in a tuple or a set"):
        Shell(root, allow="cat")


def test_an_open_quote_is_told(root: Path) -> None:
    with pytest.raises(ModelRetry, match="No closing quotation"):
        run(Shell(root, allow=["cat"]).run_command("cat 'x"))


@needs_sandbox
def test_python_runs_in_the_root_with_its_modules_and_packages(root: Path) -> None:
    (root / "mine.py").write_text("answer = 42\n")
    (root / "test_mine.py").write_text(
        "def test_answer(tmp_path):\n    from mine import answer\n    assert answer == 42\n"
    )
    code = "import mine, pytest, sys; print(mine.answer); sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    ran = run(Python(root, Limits(wall_seconds=60)).run_python(code))
    assert ran.stdout.startswith("42\n"), ran.stderr
    assert (ran.returncode, "1 passed" in ran.stdout or "100%" in ran.stdout) == (0, True), ran.stdout


@needs_sandbox
def test_what_a_program_did_wrong_is_returned_and_not_raised(root: Path) -> None:
    ran = run(Python(root).run_python("1 / 0"))
    assert ran.returncode == 1
    assert ran.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_program_too_long_to_be_passed_is_refused(root: Path) -> None:
    with pytest.raises(ModelRetry, match="write it to a file"):
        run(Python(root).run_python("#" * 100_001))


# -- git -------------------------------------------------------------------------------------------


@needs_sandbox
def test_a_folder_becomes_a_repository_with_commits(root: Path) -> None:
    git = Git(root, name="Ada", email="ada@example.org")

    async def work() -> None:
        await git.git_init()
        (root / "grüße.txt").write_text("one\n")
        (root / "b").write_text("b")
        assert [(change.path, change.state) for change in await git.git_status()] == [("b", "??"), ("grüße.txt", "??")]
        first = await git.git_commit("The first\n\nwith a body", ["grüße.txt"])
        assert (first.author, first.message) == ("Ada", "The first\n\nwith a body")
        assert [change.path for change in await git.git_status()] == ["b"]
        (root / "grüße.txt").write_text("two\n")
        assert "-one\n+two" in await git.git_diff()
        second = await git.git_commit("The second")
        assert [commit.sha for commit in await git.git_log()] == [second.sha, first.sha]
        assert await git.git_log(1) == [second]
        assert await git.git_show("grüße.txt", first.sha) == "one\n"
        assert "+two" in await git.git_diff(f"{first.sha}..{second.sha}")

    run(work())


@needs_sandbox
def test_git_that_is_cancelled_leaves_no_lock_that_would_keep_the_next_one_out(root: Path) -> None:
    git = Git(root)

    async def cancel() -> None:
        await git.git_init()
        (root / "large").write_bytes(os.urandom(30_000_000))  # so that it takes a while
        running = asyncio.ensure_future(git.git_commit("Add it"))
        while not (root / ".git" / "index.lock").exists():
            assert not running.done()
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    run(cancel())
    assert not (root / ".git" / "index.lock").exists()


@needs_sandbox
def test_what_git_refuses_is_told_in_its_words(root: Path) -> None:
    git = Git(root)
    with pytest.raises(ModelRetry, match="not a git repository"):
        run(git.git_status())
    run(git.git_init())
    with pytest.raises(ModelRetry, match="nothing to commit"):
        run(git.git_commit("Nothing"))
    with pytest.raises(ModelRetry, match="'--output=x' names no commit"):
        run(git.git_diff("--output=x"))


@needs_sandbox
def test_programs_that_a_repository_names_are_not_run_outside_the_sandbox(root: Path, tmp_path: Path) -> None:
    """Whoever writes files in a folder can write its `.git/config` and its hooks."""
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    act = f"#!/bin/sh\ntouch {tmp_path}/escaped {root}/hook-ran\n"
    for hook in ("pre-commit", "post-commit", "post-index-change"):
        (root / ".git" / "hooks" / hook).write_text(act)
        (root / ".git" / "hooks" / hook).chmod(0o755)
    with (root / ".git" / "config").open("a") as config:
        config.write(
            f'[filter "x"]\n\tclean = "touch {tmp_path}/escaped; cat"\n[core]\n\tfsmonitor = touch {tmp_path}/escaped\n'
        )
        config.write(f"[diff]\n\texternal = touch {tmp_path}/escaped\n")
    (root / ".gitattributes").write_text("* filter=x\n")

    async def work() -> None:
        await Git(root).git_commit("All")
        (root / ".gitattributes").write_text("* filter=x\n\n")
        assert await Git(root).git_diff()

    run(work())
    assert not (tmp_path / "escaped").exists()
    assert not (root / "hook-ran").exists()


# -- search ----------------------------------------------------------------------------------------


@needs_sandbox
def test_lines_are_found_by_text_and_by_pattern(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "x.py").write_text("one\ndef two(): ...\n")
    (root / "b.txt").write_text("Two.\n")
    (root / ".hidden").write_text("two")
    (root / "binary").write_bytes(b"two\0")
    (root / "link").symlink_to(root.parent / "secret")
    search = Search(root)
    assert run(search.search_files("two")) == [Match("a/x.py", 2, "def two(): ...")]
    assert [match.path for match in run(search.search_files("two", ignore_case=True))] == ["b.txt", "a/x.py"]
    assert [match.path for match in run(search.search_files(r"^def \w+\(", "*.py", regex=True))] == ["a/x.py"]
    assert run(search.search_files("def (")) == run(search.search_files("secret")) == []


@needs_sandbox
def test_a_pattern_that_never_ends_is_ended(root: Path) -> None:
    (root / "x").write_text("y" * 60 + "x")
    with pytest.raises(ModelRetry, match="limit of time; look for plain text"):
        run(Search(root, limits=Limits(wall_seconds=0.5)).search_files("(y+)+$", regex=True))


@needs_sandbox
def test_a_search_returns_no_more_than_asked_for_and_says_what_is_no_pattern(root: Path) -> None:
    (root / "x").write_text("y\n" * 100)
    assert len(run(Search(root, max_matches=3).search_files("y"))) == 3
    with pytest.raises(ModelRetry, match="not a regular expression: unterminated"):
        run(Search(root).search_files("[", regex=True))


# -- in an agent -----------------------------------------------------------------------------------


def calls(name: str, **arguments: object) -> FunctionModel:
    """A model that calls one tool and answers with what came back."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        last = messages[-1].parts[-1]
        if isinstance(last, ToolReturnPart | RetryPromptPart):
            told = last.model_response_str() if isinstance(last, ToolReturnPart) else f"retry: {last.content}"
            return ModelResponse(parts=[TextPart(told)])
        return ModelResponse(parts=[ToolCallPart(name, arguments)])

    return FunctionModel(answer)


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("read_file", {"path": "x.txt"}, "hello"),
        ("read_file", {"path": "../secret"}, "retry: '../secret' is not a path inside"),
        ("write_file", {"path": "y", "text": "a"}, "Wrote 1 bytes to y."),
        ("edit_file", {"path": "x.txt", "old": "hello", "new": "bye"}, "Wrote 3 bytes to x.txt."),
        ("list_files", {}, '["x.txt"]'),
        ("run_command", {"command": "cat x.txt"}, '"stdout":"hello"'),
        ("run_command", {"command": "rm x.txt"}, "retry: The program 'rm' may not be run"),
        ("run_python", {"code": "print(6 * 7)"}, '"stdout":"42\\n"'),
        ("git_init", {}, "repository"),
        ("git_log", {}, "retry: git log did not work"),
        ("search_files", {"text": "ell"}, '[{"path":"x.txt","line":1,"text":"hello"}]'),
        ("fetch", {"url": "http://127.0.0.1/"}, "retry: '127.0.0.1' is at 127.0.0.1, which is not a public address"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_agent_uses_a_tool_and_is_told_what_to_mend(
    root: Path, name: str, arguments: dict[str, object], told: str
) -> None:
    (root / "x.txt").write_text("hello")
    agent = Agent(calls(name, **arguments), tools=tools(root))
    assert told in run(agent.run("Do it.")).output


def test_a_model_is_told_what_each_tool_and_parameter_is(root: Path) -> None:
    seen: dict[str, AgentInfo] = {}

    def look(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen["info"] = info
        return ModelResponse(parts=[TextPart("seen")])

    run(Agent(FunctionModel(look), tools=tools(root)).run("Look."))
    offered = seen["info"].function_tools
    assert len(offered) == 14
    for tool in offered:
        assert tool.description, tool.name
        properties: dict[str, dict[str, object]] = tool.parameters_json_schema["properties"]
        assert [name for name, schema in properties.items() if "description" not in schema] == [], tool.name
        assert "self" not in json.dumps(tool.parameters_json_schema)


def test_an_agent_uses_the_tools_of_an_mcp_server(root: Path) -> None:
    (root / "clock.py").write_text(
        "from mcp.server import MCPServer\n"
        "server = MCPServer('clock')\n"
        "@server.tool()\n"
        "def add_hours(hour: int, hours: int) -> int:\n"
        "    return (hour + hours) % 24\n"
        "server.run()\n"
    )
    server = MCPToolset(StdioTransport(sys.executable, [str(root / "clock.py")], keep_alive=False))
    agent = Agent(calls("clock_add_hours", hour=23, hours=2), toolsets=[server.prefixed("clock")], tools=tools(root))
    assert run(agent.run("What time is it?")).output == "1"


def tools(root: Path) -> list[Callable[..., Any]]:
    files, git = Files(root), Git(root)
    return [
        *(files.read_file, files.write_file, files.edit_file, files.list_files),
        *(git.git_init, git.git_status, git.git_commit, git.git_log, git.git_diff, git.git_show),
        *(Shell(root, allow=["cat"]).run_command, Python(root).run_python, Search(root).search_files, Fetch().fetch),
    ]
