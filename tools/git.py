"""A git repository in one folder, by the git program in the sandbox.

In the sandbox, because a repository can name programs that git runs (filters, hooks, monitors), and whoever writes files there
can write those. Hooks, the user's and the machine's settings are off in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_ai import ModelRetry

from .sandbox import Limits, run_sandboxed

_FIELD, _RECORD = "\x1f", "\x1e"


@dataclass(frozen=True)
class Commit:
    """A commit."""

    sha: str
    author: str
    when: str
    """As ISO 8601."""
    message: str


@dataclass(frozen=True)
class Change:
    """A file that differs from the last commit."""

    path: str
    state: str
    """Two letters as `git status --short` shows them: of the index, of the file. "??" is a new one."""


@dataclass(frozen=True)
class Git:
    """Keeps versions of one folder; give an agent the methods that it may use: `Agent(tools=[git.git_status, git.git_diff])`."""

    root: Path
    """The folder; the repository is `.git` in it."""
    name: str = "agent"
    """Whose commits these are."""
    email: str = "agent@localhost"
    limits: Limits = field(default_factory=lambda: Limits(wall_seconds=30, output_bytes=200_000))
    """What git may use; longer output is cut."""
    unsafe: bool = False
    """Run also where nothing can confine git."""

    async def git_init(self) -> str:
        """Make the working folder a repository, with the branch main; one that is there stays as it is.

        Raises:
            ModelRetry: git refuses, in git's words.
        """
        return (await self._git("init", "--quiet", "--initial-branch=main")) or "The working folder is a repository."

    async def git_status(self, paths: list[str] | None = None) -> list[Change]:
        """Return the files that differ from the last commit.

        Args:
            paths: files or folders to look at; all where nothing is given.

        Raises:
            ModelRetry: git refuses, in git's words.
        """
        how = ("--porcelain=v1", "-z", "--no-renames", "--untracked-files=all")
        text = await self._git("status", *how, "--", *(paths or []))
        return [Change(entry[3:], entry[:2]) for entry in text.split("\0") if entry]

    async def git_commit(self, message: str, paths: list[str] | None = None) -> Commit:
        """Commit changes, new and deleted files among them.

        Args:
            message: what changed and why.
            paths: files or folders to commit; all where nothing is given.

        Raises:
            ModelRetry: git refuses, in git's words, for example because nothing changed.
        """
        await self._git("add", "--all", "--", *(paths or ["."]))
        await self._git("commit", "--quiet", f"--message={message}", *(["--only", "--", *paths] if paths else []))
        return (await self.git_log(1))[0]

    async def git_log(self, limit: int = 20) -> list[Commit]:
        """Return the latest commits, newest first.

        Args:
            limit: how many at most.

        Raises:
            ModelRetry: git refuses, in git's words.
        """
        form = _FIELD.join(["%H", "%an", "%aI", "%B"]) + _RECORD
        text = await self._git("log", f"--max-count={max(1, limit)}", f"--format={form}")
        rows = (entry.strip("\n").split(_FIELD) for entry in text.split(_RECORD))
        return [
            Commit(sha, author, when, said.strip())
            for sha, author, when, said in (row for row in rows if len(row) == 4)
        ]

    async def git_diff(self, revision: str = "HEAD") -> str:
        """Return how tracked files differ from a commit, as a patch.

        Args:
            revision: a commit, or two with two dots between.

        Raises:
            ModelRetry: git refuses, in git's words.
        """
        return await self._git("diff", "--no-ext-diff", "--no-textconv", "--no-color", _revision(revision), "--")

    async def git_show(self, path: str, revision: str = "HEAD") -> str:
        """Return a file as it was in a commit.

        Args:
            path: relative to the working folder.
            revision: the commit.

        Raises:
            ModelRetry: git refuses, in git's words.
        """
        return await self._git("cat-file", "blob", f"{_revision(revision)}:./{path}")

    async def _git(self, *arguments: str) -> str:
        settings = {
            "user.name": self.name,
            "user.email": self.email,
            "safe.directory": "*",
            "core.hooksPath": "/dev/null",
            "core.fsmonitor": "false",
            "commit.gpgSign": "false",
            "gc.auto": "0",
            "core.quotePath": "false",
        }
        root = self.root.resolve()
        command: Sequence[str] = [
            *("env", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", f"GIT_CEILING_DIRECTORIES={root.parent}"),
            *("git", "--no-pager", "--literal-pathspecs"),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            *arguments,
        ]
        ran = await run_sandboxed(command, root=root, limits=self.limits, unsafe=self.unsafe)
        if ran.returncode != 0:
            said = ran.killed or ran.stderr.strip() or ran.stdout.strip() or f"code {ran.returncode}"
            raise ModelRetry(f"git {arguments[0]} did not work: {said}")
        return ran.stdout


def _revision(revision: str) -> str:
    if revision.startswith("-") or not revision:
        raise ModelRetry(f"{revision!r} names no commit; give one as git_log shows it, or HEAD.")
    return revision
