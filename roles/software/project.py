"""A project's folder: the one place where the company touches the disk. What a model wrote is run in a copy of it, in the sandbox."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from hetero_agents.errors import MissingExtraError, UserError
from hetero_agents.tools.files import Files
from hetero_agents.tools.git import Git
from hetero_agents.tools.sandbox import Limits, Ran, run_sandboxed

from .messages import Blueprint, Source

DOCS = "docs"
"""Folder of the blueprints, a numbered folder each."""

BEGUN = ".begun"
"""In the folder of a new project, until it is a repository: the idempotency key that it was made for."""

LIMITS = Limits(wall_seconds=60, cpu_seconds=60, memory_mb=1024)
"""What a run of tests may use."""

SHOWN = 8_000
"""Characters of its output that a model is shown, the last ones."""

PYTEST = ("-qq", "--tb=short", "-rN", "-p", "no:cacheprovider")
"""Without times, so that the same failure reads the same again."""


@dataclass(frozen=True)
class Project:
    """A git repository with the company's work in it."""

    root: Path
    unsafe: bool = False

    def files(self) -> list[str]:
        """Return the paths of all files but hidden ones, links and blueprints, sorted."""
        found: list[str] = []
        for name, inner, names in os.walk(self.root):
            folder = Path(name)
            out = _left_out(name, inner)
            inner[:] = [each for each in inner if each not in out and each[0] != "."]
            if folder.parent != self.root / DOCS or not folder.name.isdecimal():
                paths = (folder / each for each in names if each[0] != ".")
                found += [path.relative_to(self.root).as_posix() for path in paths if not path.is_symlink()]
        return sorted(found)

    def read(self, *files: str) -> list[Source]:
        """Return those of some files that are there, as texts; hidden ones too, since a design may name them."""
        paths = {file: self.root / file for file in files}
        there = [file for file, path in paths.items() if path.is_file() and not path.is_symlink()]
        return [Source(file=file, text=self._files.read_file(file)) for file in there]

    def blueprints(self) -> list[Blueprint]:
        """Return what was decided for earlier requirements, oldest first.

        Raises:
            UserError: one cannot be read.
        """
        found: list[Blueprint] = []
        for number in self._numbers():
            folder = self.root / DOCS / number
            try:
                texts = {name: (folder / f"{name}.json").read_text("utf-8") for name in Blueprint.model_fields}
                found.append(Blueprint.model_validate({name: json.loads(text) for name, text in texts.items()}))
            except (OSError, ValueError, ValidationError) as error:
                raise UserError(
                    f"The blueprint {folder} cannot be read ({str(error).splitlines()[0]}); mend it or delete the folder."
                ) from error
        return found

    def next_number(self) -> int:
        """Return the number of the next blueprint: none that was deleted counts, none that is there is taken."""
        return max(map(int, self._numbers()), default=0) + 1

    def _numbers(self) -> list[str]:
        """The names of the blueprints' folders, oldest first."""
        return sorted((path.name for path in (self.root / DOCS).glob("*") if path.name.isdecimal()), key=int)

    async def open(self) -> None:
        """Make the folder a git repository, where it is none yet."""
        await self._git.git_init()
        (self.root / BEGUN).unlink(missing_ok=True)

    async def keep(self, files: Mapping[str, str], message: str) -> None:
        """Write files and commit them; nothing is committed where nothing changes."""
        for file, text in files.items():
            self._files.write_file(file, text)
        if changed := [change.path for change in await self._git.git_status([*files]) if change.path in files]:
            await self._git.git_commit(message, sorted(changed))

    async def keep_blueprint(self, number: int, blueprint: Blueprint) -> None:
        """Write a blueprint, each part as a file of its own."""
        values: dict[str, Any] = blueprint.model_dump(mode="json")
        texts = {f"{DOCS}/{number}/{name}.json": f"{json.dumps(part, indent=2)}\n" for name, part in values.items()}
        await self.keep(texts, f"Plan: {blueprint.requirement}")

    def tests(self) -> list[str]:
        """Return the test files."""
        return [file for file in self.files() if PurePosixPath(file).match("test_*.py")]

    async def failing(self) -> dict[str, str]:
        """Run all tests, and return of each file with one that does not pass what the run printed.

        A test passes when pytest ends with code 0; no model is asked.

        Raises:
            MissingExtraError: pytest is not installed.
            UserError: nothing here can confine the tests.
        """
        if importlib.util.find_spec("pytest") is None:
            raise MissingExtraError("Running tests", "software")
        tests = self.tests()
        if not tests or (together := await self._pytest(*tests)).returncode == 0:
            return {}
        alone = {test: await self._pytest(test) for test in tests} if len(tests) > 1 else {tests[0]: together}
        # Where all pass alone, they disturb each other.
        failed = {test: ran for test, ran in alone.items() if ran.returncode} or dict.fromkeys(tests, together)
        return {test: _text(ran) for test, ran in failed.items()}

    async def _pytest(self, *tests: str) -> Ran:
        """Run tests in a copy: what they write, or do to git's folder, is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="hetero-", ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / "project"
            await asyncio.to_thread(shutil.copytree, self.root, copy, ignore=_left_out, symlinks=True)
            # Plugins of this environment are not the project's; its own configuration may load some.
            command = ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "python", "-B", "-m", "pytest", *PYTEST, *tests]
            ran = await run_sandboxed(command, root=copy, limits=LIMITS, unsafe=self.unsafe)
            return Ran(ran.returncode, ran.stdout.replace(f"{copy}/", ""), ran.stderr, ran.seconds, ran.killed)

    @property
    def _files(self) -> Files:
        return Files(self.root)

    @property
    def _git(self) -> Git:
        return Git(self.root, name="software company", unsafe=self.unsafe)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What is no part of a program: git's folder, caches, environments."""
    environments = {name for name in names if Path(folder, name, "pyvenv.cfg").exists()}
    return environments | ({".git", "__pycache__", "node_modules"} & {*names})


def _text(ran: Ran) -> str:
    why = f"Ended at its limit of {ran.killed}." if ran.killed else ""
    return "\n".join(part.strip() for part in (ran.stdout, ran.stderr, why) if part.strip())[-SHOWN:]


def new_folder(root: Path, text: str, key: str) -> str:
    """Make a folder for a new project, once for each key, and return its name: the first words of the requirement, with a number where they are taken.

    It appears under its name with the key in it, so whoever is stopped after that finds it again.
    """
    for found in root.glob(f"[!.]*/{BEGUN}"):
        if found.read_text("utf-8") == key:
            return found.parent.name
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    name = "-".join(words[:6])[:60] or "project"
    made = root / f".{key}"
    made.mkdir(parents=True, exist_ok=True)
    (made / BEGUN).write_text(key, "utf-8")
    for number in itertools.count(2):
        if not os.path.lexists(root / name):  # rename(2) would take the place of an empty folder
            try:
                made.rename(root / name)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # another run was faster
                    raise
            else:
                return name
        name = f"{name.removesuffix(f'-{number - 1}')}-{number}"
    raise AssertionError("unreachable")
