"""Python files as trees, and what names in them stand for. Nothing is imported or run."""

from __future__ import annotations

import ast
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from ...errors import UserError
from .project import Gap, Place, Value

_SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A file that was parsed."""

    file: str
    """Relative to the project."""
    tree: ast.Module

    @cached_property
    def imports(self) -> dict[str, str]:
        """What imported names stand for, by the name in this file; `*` where all of MetaGPT's names are."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.asname or alias.name: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {
                    alias.asname or alias.name: f"{node.module or ''}.{alias.name}"
                    for alias in node.names
                    if alias.name != "*" or (node.module or "").startswith("metagpt")
                }
        return found

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """What is assigned to names outside of classes; in functions too, where a script keeps its roles."""
        found: dict[str, ast.expr] = {}
        pending: list[ast.AST] = [self.tree]
        while pending:
            for node in ast.iter_child_nodes(pending.pop()):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    found.setdefault(node.targets[0].id, node.value)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                    found.setdefault(node.target.id, node.value)
                if not isinstance(node, ast.ClassDef):
                    pending.append(node)
        return found

    def place(self, node: ast.stmt | ast.expr) -> Place:
        """Return where something stands."""
        return Place(self.file, node.lineno)

    def dotted(self, node: ast.expr) -> str:
        """Return what a name or an attribute stands for, imports followed; empty for anything else."""
        if isinstance(node, ast.Name):
            return self.imports.get(node.id) or (f"{self.imports['*']}.{node.id}" if "*" in self.imports else node.id)
        if isinstance(node, ast.Attribute) and (before := self.dotted(node.value)):
            return f"{before}.{node.attr}"
        return ""


@dataclass(frozen=True)
class Class:
    """A class of the project."""

    module: Module
    tree: ast.ClassDef

    @property
    def place(self) -> Place:
        """Return where it stands."""
        return self.module.place(self.tree)

    @property
    def methods(self) -> dict[str, Function]:
        """Its functions, by name."""
        return {node.name: node for node in self.tree.body if isinstance(node, Function)}

    @property
    def assigned(self) -> dict[str, ast.expr]:
        """What its own body assigns; of `Field(default=...)` the default."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = node.value
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
        return {
            name: keywords(value).get("default", value) if last_name(value) == "Field" else value
            for name, value in found.items()
        }


@dataclass
class Source:
    """The files of a project."""

    modules: list[Module] = field(default_factory=list[Module])
    classes: dict[str, Class] = field(default_factory=dict[str, Class])
    doubles: list[Class] = field(default_factory=list[Class])
    """Classes of a name that another has taken; they are not read."""
    gaps: list[Gap] = field(default_factory=list[Gap])

    @classmethod
    def of(cls, path: Path) -> Source:
        """Parse a file, or all Python files below a folder.

        Raises:
            UserError: there is none.
        """
        files = [path] if path.is_file() else sorted(_python_files(path))
        if not files:
            raise UserError(f"{path} is no Python file and no folder with one; nothing was written.")
        source = cls()
        for each in files:
            name = each.name if each == path else each.relative_to(path).as_posix()
            source._parse(each, "".join(c if c.isprintable() else "?" for c in name))
        return source

    def missing(self, place: Place, what: str) -> None:
        """Note what is not translated."""
        self.gaps.append(Gap(place.file, place.line, what))

    def kind(self, found: Class) -> Literal["Role", "Action"] | None:
        """Return what a class is in MetaGPT's eyes, through its bases."""
        for each in self.lineage(found):
            for base in each.tree.bases:
                dotted = each.module.dotted(base)
                last = dotted.rpartition(".")[2]
                if self._above(base, each) is not None:
                    continue
                if dotted.startswith("metagpt") and (last == "Role" or ".roles" in dotted):
                    return "Role"
                if dotted.startswith("metagpt") and (last == "Action" or ".actions" in dotted):
                    return "Action"
        return None

    def lineage(self, found: Class) -> list[Class]:
        """Return a class and those of its bases that the project has, nearest first."""
        line = [found]
        for each in line:
            for base in each.tree.bases:
                above = self._above(base, each)
                if above is not None and above not in line:
                    line.append(above)
        return line

    def _above(self, base: ast.expr, found: Class) -> Class | None:
        """The class of the project that a base is; none where it is MetaGPT's own, be it a copy in the project."""
        name = found.module.dotted(base).rpartition(".")[2]
        above = None if name in ("Role", "Action") else self.classes.get(name)
        return None if above is found else above  # `from metagpt.roles import Engineer as Base`

    def constant(self, name: str, module: Module) -> tuple[ast.expr, Module] | None:
        """Return what a name was assigned, in this module or in the one that it may be imported from."""
        last = module.imports.get(name, name).rpartition(".")[2]
        for each, called in ((module, name), *((other, last) for other in self.modules)):
            if called in each.constants:
                return each.constants[called], each
        return None

    def _parse(self, path: Path, file: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of invalid escapes in their strings
                module = Module(file, ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 1
            why = getattr(error, "msg", None) or str(error)
            self.gaps.append(Gap(file, line, f"the file does not parse ({why}), so nothing of it was read."))
            return
        self.modules.append(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found = Class(module, node)
                if self.classes.setdefault(node.name, found) is not found:
                    self.doubles.append(found)


def _python_files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        yield from (Path(root, name) for name in files if name.endswith(".py"))


def keywords(node: ast.AST) -> dict[str, ast.expr]:
    """Return the named arguments of a call."""
    return {each.arg: each.value for each in node.keywords if each.arg} if isinstance(node, ast.Call) else {}


def last_name(node: ast.AST) -> str:
    """Return the last part of what a call calls, or of a name."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def calls(node: ast.AST, *names: str) -> list[ast.Call]:
    """Return the calls of functions of these names, in the order of the lines."""
    found = [each for each in ast.walk(node) if isinstance(each, ast.Call) and last_name(each) in names]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def value(node: ast.expr | None) -> Value | None:
    """Return a literal."""
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(inner := value(node.operand), int | float)
    ):
        return -inner
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool):
        return None if isinstance(node.value, float) and not math.isfinite(node.value) else node.value
    if isinstance(node, ast.JoinedStr) and all(isinstance(part, ast.Constant) for part in node.values):
        return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    return None


def literals(nodes: Mapping[str, ast.expr]) -> dict[str, Value]:
    """Return those that are literals."""
    return {name: plain for name, node in nodes.items() if (plain := value(node)) is not None}


def defaults(function: Function | None) -> dict[str, ast.expr]:
    """Return what a function's parameters are where nobody says."""
    if function is None:
        return {}
    args = function.args
    named = [*args.posonlyargs, *args.args]
    found = dict(zip((arg.arg for arg in named[len(named) - len(args.defaults) :]), args.defaults, strict=True))
    found |= {arg.arg: default for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default}
    return found
