"""Search in the files of one folder, in the sandbox: a pattern that never ends costs its time limit and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic_ai import ModelRetry

from hetero_agents.errors import UserError

from . import scan
from .sandbox import Limits, run_sandboxed


@dataclass(frozen=True)
class Match:
    """A line that was found."""

    path: str
    line: int
    """Counted from 1."""
    text: str
    """The line, cut after 300 characters."""


@dataclass(frozen=True)
class Search:
    """Searches the files of one folder: `Agent(tools=[Search(root).search_files])`."""

    root: Path
    """The folder."""
    max_matches: int = 100
    """Lines that are returned."""
    max_file_bytes: int = 2_000_000
    """Size of a file that is looked into."""
    limits: Limits = field(default_factory=lambda: Limits(output_bytes=1_000_000))
    """What a search may use."""
    unsafe: bool = False
    """Search also where nothing can confine it."""

    async def search_files(
        self, text: str, files: str = "*", *, regex: bool = False, ignore_case: bool = False
    ) -> list[Match]:
        """Return the lines of text files that hold something, in the order of their paths.

        Hidden files and folders, `__pycache__`, `node_modules`, links and binary files are passed over.

        Args:
            text: what to look for.
            files: a pattern for the names of files, for example "*.py".
            regex: the text is a regular expression of Python.
            ignore_case: capital and small letters are the same.

        Raises:
            ModelRetry: the regular expression is wrong, or the search takes too long.
            UserError: see `run_sandboxed`.
        """
        wanted = scan.Wanted(text, files, regex, ignore_case, self.max_matches, self.max_file_bytes)
        ran = await run_sandboxed(
            ["python", "-I", "-S", "-c", Path(scan.__file__).read_text("utf-8")],  # noqa: ASYNC240 - our own source
            root=self.root,
            limits=self.limits,
            stdin=json.dumps(asdict(wanted)),
            unsafe=self.unsafe,
        )
        if ran.killed:
            raise ModelRetry(f"The search reached its limit of {ran.killed}; look for plain text, or in fewer files.")
        if ran.returncode == scan.WRONG_PATTERN:
            raise ModelRetry(f"{text!r} is not a regular expression: {ran.stdout.strip()}.")
        if ran.returncode != 0:
            raise UserError(f"The search did not work: {ran.stderr.strip()}")
        return [Match(**json.loads(line)) for line in ran.stdout.splitlines()]
