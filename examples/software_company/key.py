"""`python -m examples.software_company.key`: write `answers.jsonl`, the recorded answers that play the LLM in this example.

The company works once on the answers below, which people wrote, and each slot call is recorded with its arguments. The first draft
of `todo.py` is one that the reviewer rejects, and `store.py` has a bug that no reviewer sees and a test finds. Afterwards a bug is
reported on the program that is there.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from hetero_agents import flush
from hetero_agents.bindings.lock import write_atomically
from hetero_agents.roles.software import Delivery, Requirement, company
from hetero_agents.spans import Names
from hetero_agents.testing import Script, scripted

ANSWERS = Path(__file__).with_name("answers.jsonl")

REQUIREMENTS = (
    Requirement(text="a command-line todo list"),
    Requirement(text="`done` says nothing about a todo that was done before", project="a-command-line-todo-list"),
)

STORE = '''"""Todos in a JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Todo:
    """One thing to do."""

    text: str
    done: bool = False


class Store:
    """The todos of one file, numbered from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        entries = json.loads(path.read_text("utf-8")) if path.exists() else []
        self.todos = [Todo(**entry) for entry in entries]

    def add(self, text: str) -> int:
        """Add a todo and return its number."""
        self.todos.append(Todo(text))
        self._save()
        return len(self.todos)

    def finish(self, number: int) -> Todo:
        """Mark a todo as done and return it.

        Raises:
            KeyError: there is none of that number.
        """
        if not 1 <= number <= len(self.todos):
            raise KeyError(number)
        todo = self.todos[number - 1]
        todo.done = True
        self._save()
        return todo

    def _save(self) -> None:
        entries = [asdict(todo) for todo in self.todos]
        self.path.write_text(json.dumps(entries, indent=1), "utf-8")
'''

WRONG_STORE = STORE.replace("self.todos[number - 1]", "self.todos[number - 2]")
"""Off by one: with a single todo nobody sees it."""

TODO = '''"""A todo list on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="todo", description=__doc__)
    parser.add_argument("--file", type=Path, default=Path("todos.json"), help="where the todos are kept")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add", help="add a todo").add_argument("text")
    commands.add_parser("list", help="show all todos")
    commands.add_parser("done", help="mark a todo as done").add_argument("number", type=int)
    given = parser.parse_args(arguments)
    store = Store(given.file)
    if given.command == "add":
        print(f"{store.add(given.text)}. {given.text}")
    elif given.command == "done":
        try:
            store.finish(given.number)
        except KeyError:
            print(f"There is no todo {given.number}.", file=sys.stderr)
            return 1
    else:
        for number, todo in enumerate(store.todos, 1):
            print(f"{number}. [{'x' if todo.done else ' '}] {todo.text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''

HASTY_TODO = TODO.replace(
    """        try:
            store.finish(given.number)
        except KeyError:
            print(f"There is no todo {given.number}.", file=sys.stderr)
            return 1
""",
    "        store.finish(given.number)\n",
)

SECOND_TODO = TODO.replace(
    """        try:
            store.finish(given.number)
""",
    """        try:
            if store.todo(given.number).done:
                print(f"Todo {given.number} was done before.")
            store.finish(given.number)
""",
)

SECOND_STORE = STORE.replace(
    '''    def finish(self, number: int) -> Todo:
        """Mark a todo as done and return it.
''',
    '''    def todo(self, number: int) -> Todo:
        """Return a todo.
''',
).replace(
    """        todo = self.todos[number - 1]
""",
    '''        return self.todos[number - 1]

    def finish(self, number: int) -> Todo:
        """Mark a todo as done and return it.

        Raises:
            KeyError: there is none of that number.
        """
        todo = self.todo(number)
''',
)

TEST_STORE = """from pathlib import Path

import pytest

from store import Store


def test_what_is_added_is_there_when_the_file_is_read_again(tmp_path: Path) -> None:
    assert Store(tmp_path / "todos.json").add("buy milk") == 1
    assert Store(tmp_path / "todos.json").todos[0].text == "buy milk"


def test_the_todo_of_that_number_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path / "todos.json")
    store.add("buy milk")
    store.add("call home")
    store.finish(1)
    assert store.todos[0].done
    assert not store.todos[1].done


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_a_number_that_is_not_there_is_refused(tmp_path: Path, number: int) -> None:
    store = Store(tmp_path / "todos.json")
    store.add("buy milk")
    with pytest.raises(KeyError):
        store.finish(number)
"""

TEST_TODO = """from pathlib import Path

import pytest

from todo import main


def test_a_todo_is_added_listed_and_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ["--file", str(tmp_path / "todos.json")]
    assert main([*file, "add", "buy milk"]) == 0
    assert main([*file, "done", "1"]) == 0
    assert main([*file, "list"]) == 0
    assert capsys.readouterr().out == "1. buy milk\\n1. [x] buy milk\\n"


def test_a_number_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--file", str(tmp_path / "todos.json"), "done", "7"]) == 1
    assert capsys.readouterr().err == "There is no todo 7.\\n"
"""

SECOND_TEST_TODO = (
    TEST_TODO
    + """

def test_a_todo_that_was_done_before_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ["--file", str(tmp_path / "todos.json")]
    main([*file, "add", "buy milk"])
    main([*file, "done", "1"])
    assert main([*file, "done", "1"]) == 0
    assert capsys.readouterr().out == "1. buy milk\\nTodo 1 was done before.\\n"
"""
)

SECOND_TEST_STORE = (
    TEST_STORE
    + """

def test_a_todo_is_found_by_its_number(tmp_path: Path) -> None:
    store = Store(tmp_path / "todos.json")
    store.add("buy milk")
    assert store.todo(1).text == "buy milk"
"""
)

PRD = {
    "goals": ["Keep a list of things to do from the command line, from one call to the next."],
    "user_stories": [
        "As somebody who works in a terminal I add a todo in one line.",
        "As somebody who has done something I mark it, and see what is left.",
    ],
    "competitors": [
        "todo.txt: plain text that any editor opens; a shell script with many commands.",
        "Taskwarrior: powerful filters and dates; much to learn before the first todo.",
    ],
    "requirements": [
        {"priority": "P0", "text": "`add TEXT` adds a todo and says its number."},
        {"priority": "P0", "text": "`list` shows all todos with their numbers and whether they are done."},
        {"priority": "P0", "text": "`done NUMBER` marks a todo as done; a number that is not there is said."},
        {"priority": "P1", "text": "`--file` says where the todos are kept."},
    ],
    "unclear": ["Whether todos can be deleted."],
}

DESIGN = {
    "approach": "A class that keeps the todos in a JSON file, and a command line above it, with argparse. Nothing beside the standard library.",
    "files": ["store.py", "todo.py"],
    "class_diagram": "classDiagram\n  class Todo {\n    +str text\n    +bool done\n  }\n  class Store {\n    +list~Todo~ todos\n    +add(text: str) int\n    +finish(number: int) Todo\n  }\n  Store o-- Todo",
    "call_flow": "sequenceDiagram\n  User->>main: todo done 1\n  main->>Store: Store(path)\n  main->>Store: finish(1)\n  Store->>File: write JSON",
    "unclear": [],
}

TASKS = {
    "packages": [],
    "steps": [
        {
            "file": "store.py",
            "what": "Todo(text: str, done: bool) and Store(path: Path) with todos: list[Todo], add(text) -> int, finish(number) -> Todo, which raises KeyError; each change is written to the file.",
        },
        {
            "file": "todo.py",
            "what": "main(arguments: Sequence[str] | None) -> int with the commands add, list and done and the option --file; uses Store of store.py.",
        },
    ],
    "api": "",
    "shared": "Todos are numbered from 1, in the order in which they were added.",
}

CHANGE = {
    "steps": [
        {"file": "store.py", "what": "todo(number: int) -> Todo, which raises KeyError; finish uses it."},
        {"file": "todo.py", "what": "`done` says it where the todo was done before, and still returns 0."},
    ]
}


def _code(prompt: str) -> str:
    task = json.loads(prompt.splitlines()[0].removeprefix("task: "))
    if task["old"]:
        return {"store.py": SECOND_STORE, "todo.py": SECOND_TODO}[task["file"]]
    return {"store.py": WRONG_STORE, "todo.py": HASTY_TODO}[task["file"]]


def _review(prompt: str) -> dict[str, Any]:
    hasty = HASTY_TODO in prompt
    said = "`done` with a number that is not there ends in a traceback: say it in a sentence on standard error, and return 1."
    return {"comments": [said] if hasty else [], "verdict": "LBTM" if hasty else "LGTM"}


def _test(prompt: str) -> str:
    untested = json.loads(prompt)
    first = {"tests/test_store.py": TEST_STORE, "tests/test_todo.py": TEST_TODO}
    second = {"tests/test_store.py": SECOND_TEST_STORE, "tests/test_todo.py": SECOND_TEST_TODO}
    return (second if untested["old"] else first)[untested["test"]]


SCRIPT: dict[str, Script] = {
    "product_manager.issue_kind": {"reason": "`done` is there, and keeps something from its user.", "kind": "bug"},
    "product_manager.write_prd": PRD,
    "architect.write_design": DESIGN,
    "project_manager.write_tasks": TASKS,
    "engineer.plan_change": CHANGE,
    "engineer.write_code": _code,
    "engineer.rewrite": TODO,
    "engineer.debug": STORE,
    "reviewer.review": _review,
    "tester.write_test": _test,
    "tester.blame": "store.py",
}
"""What answers each slot."""


async def record() -> list[dict[str, Any]]:
    """Let the company work on the script, and return each slot call with its answer.

    Raises:
        CrewError: it did not deliver.
    """
    calls: dict[str, dict[str, Any]] = {}
    with scripted(SCRIPT) as vault, tempfile.TemporaryDirectory() as folder:
        crew = company(Path(folder))
        for requirement in REQUIREMENTS:
            run = await crew.run(requirement, until=Delivery)
            print(run.output)
        flush()
        for span in sorted(vault.spans, key=lambda span: span["start"]):
            said = span["attributes"]
            if Names.INPUT in said:
                call = {"slot": said[Names.SLOT], "input": json.loads(said[Names.INPUT])}
                calls.setdefault(json.dumps(call), {**call, "output": json.loads(said[Names.OUTPUT])})
    return list(calls.values())


def main() -> None:
    """Write the answer key."""
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in asyncio.run(record()))
    write_atomically(ANSWERS, "".join(lines).encode())


if __name__ == "__main__":
    main()
