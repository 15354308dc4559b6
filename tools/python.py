"""Python programs that a model wrote, run in the sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic_ai import ModelRetry

from .sandbox import Limits, Ran, run_sandboxed

_LONGEST = 100_000
"""A program is an argument of the interpreter; Linux takes 128 kB of one."""


@dataclass(frozen=True)
class Python:
    """Runs Python in one folder, by this interpreter, with its packages: `Agent(tools=[Python(root).run_python])`."""

    root: Path
    """The folder that programs may write, their working folder; modules in it can be imported."""
    limits: Limits = field(default_factory=Limits)
    """What a program may use."""
    unsafe: bool = False
    """Run also where nothing can confine a program."""

    async def run_python(self, code: str) -> Ran:
        """Run a Python program in the working folder, and return what it printed and how it ended.

        There is no network. Time, memory, disk and processes are limited; what the program starts ends with it.

        Args:
            code: the whole program.

        Raises:
            ModelRetry: the program is longer than 100 kB.
            UserError: see `run_sandboxed`.
        """
        if len(code.encode()) > _LONGEST:
            raise ModelRetry(f"The program is longer than {_LONGEST:,} bytes; write it to a file and import that.")
        command = ["python", "-B", "-c", code]
        return await run_sandboxed(command, root=self.root, limits=self.limits, unsafe=self.unsafe)
