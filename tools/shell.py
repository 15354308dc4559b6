"""Commands of an allow-list, run in the sandbox without a shell."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_ai import ModelRetry

from hetero_agents.errors import did_you_mean

from .sandbox import Limits, Ran, run_sandboxed


@dataclass(frozen=True)
class Shell:
    """Runs some programs in one folder: `Agent(tools=[Shell(root, allow=("ls", "wc")).run_command])`.

    The list says what a model is meant to use; what holds it back is the sandbox, since many programs start others.
    """

    root: Path
    """The folder that commands may write, their working folder."""
    allow: Collection[str]
    """Names of programs, without a path."""
    limits: Limits = field(default_factory=Limits)
    """What a command may use."""
    unsafe: bool = False
    """Run also where nothing can confine a command."""

    async def run_command(self, command: str) -> Ran:
        """Run one command in the working folder, and return what it printed and how it ended.

        There is no shell: quotes group words; pipes, redirections, variables and patterns are passed on as they stand.
        There is no network, and only some programs may be run.

        Args:
            command: a program's name and its arguments.

        Raises:
            ModelRetry: the program is not allowed, or quotes are not closed.
            UserError: see `run_sandboxed`.
        """
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ModelRetry(f"The command cannot be split into words: {error}.") from error
        if not words or words[0] not in self.allow:
            name = words[0] if words else ""
            raise ModelRetry(f"The program {name!r} may not be run{did_you_mean(name, self.allow)}.")
        return await run_sandboxed(words, root=self.root, limits=self.limits, unsafe=self.unsafe)
