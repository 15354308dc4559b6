"""A sandbox for commands that nobody has read: no network, one folder to write, and limits on everything else.

The best isolation of this machine is used, found once:

- **bubblewrap**, where `bwrap` is installed and may make namespaces: the command sees the system's programs and libraries and
  this interpreter, all read-only, a `/tmp` of its own, its root, and nothing else; its own processes only; a network that leads
  nowhere.
- **Landlock with seccomp**, on x86_64 and aarch64 from Linux 6.12 on, also in containers that forbid namespaces: the same files,
  by rules; no sockets at all; no signals outwards. Three things are weaker. Names, sizes and times of other files can be asked
  for, though not their contents. Permissions, owners and times of files cannot be changed, and trying says nothing. There is
  no `/dev/shm`, which `multiprocessing` needs for its locks.
- Where there is neither, nothing is run, unless the caller, or who started the program, says `unsafe`: then the limits alone hold.

A warden process sets the limits, watches and ends everything (`confine/warden.py`). By the kernel: processor time and file size
of each process, memory that it asks for, processes, open files. By looking: memory in use by all together, disk, number of files;
so what a program can write or use between two looks, some hundred MB at most on a fast machine, comes on top. A command that
root starts runs as a user who is nobody else, since the kernel does not limit root's processes.

It does not protect against holes in the kernel, nor against what is learnt by timing; run what is hostile in a virtual machine.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from hetero_agents.errors import UserError

from .confine import bubblewrap, landlock, seccomp
from .confine.job import End, Isolation, Job, Limits, Reason

__all__ = ["Isolation", "Limits", "Ran", "Reason", "isolation", "run_sandboxed", "unsafe_allowed"]

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"),
    *(
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/alternatives",
        "/etc/localtime",
        "/etc/mime.types",
    ),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ssl/certs"),
)
"""What programs need to start; not all of /etc, which holds secrets that root could read."""

_PATIENCE = 60
"""Seconds after which the warden, who keeps the time, must have been killed from outside."""

_WARDEN = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); from confine.warden import main; main()"


_unsafe_allowed: ContextVar[bool] = ContextVar("hetero_unsafe_allowed", default=False)


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    returncode: int
    """As a shell says it: 128 + n where signal n ended it, 127 where there is no such program."""
    stdout: str
    """As UTF-8, what is not replaced by U+FFFD; where it was longer than the limit, a last line says by how much."""
    stderr: str
    """Likewise."""
    seconds: float
    """By the clock."""
    killed: Reason | None
    """The limit at which it was ended, where one is known; a program that is refused memory or processes mostly ends itself."""

    @property
    def timed_out(self) -> bool:
        """Whether it took longer than `Limits.wall_seconds`."""
        return self.killed == "time"


@functools.cache
def isolation() -> Isolation:
    """Return the best isolation of this machine, "none" where there is none; found at the first call."""
    if program := shutil.which("bwrap"):
        trial = [
            program,
            *bubblewrap.namespaces(),
            *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
            "true",
        ]
        if seccomp.supported() and subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return "bubblewrap"
    if seccomp.supported() and landlock.abi() >= landlock.NEEDED_ABI:
        return "landlock"
    return "none"


@contextmanager
def unsafe_allowed() -> Generator[None]:
    """Run every command in here as if its caller had said `unsafe`: for whoever starts a program whose code says nothing of it."""
    token = _unsafe_allowed.set(True)
    try:
        yield
    finally:
        _unsafe_allowed.reset(token)


async def run_sandboxed(
    command: Sequence[str], *, root: Path, limits: Limits | None = None, stdin: str = "", unsafe: bool = False
) -> Ran:
    """Run a command in the sandbox, and return when it and all that it started have ended.

    It gets an environment of its own, with `PATH` (this interpreter's folder first), `HOME`, `TMPDIR`, `USER` and `LANG`.
    Whoever cancels the call cancels the command.

    Args:
        command: program and arguments; no shell is involved.
        root: the one folder that it may write, its working folder.
        limits: what it may use.
        stdin: its standard input.
        unsafe: run it also where no isolation is to be had; `unsafe_allowed` says so for all commands inside.

    Raises:
        UserError: there is no command; the root is no folder, or holds this interpreter or this package; there is no isolation
            and it is not `unsafe`; this is not Linux; what confines the command did not work or was
            killed.
    """
    if sys.platform != "linux":
        raise UserError("Commands are limited and ended by means of Linux; run this on Linux.")
    if not command:
        raise UserError("There is no command to run; give a program and its arguments.")
    limits = limits or Limits()
    kind = isolation()
    if kind == "none" and not (unsafe or _unsafe_allowed.get()):
        raise UserError(
            "Nothing here can confine a command: install bubblewrap, or use Linux 6.12 or later with Landlock; "
            "with unsafe=True, or by `hetero run --unsafe`, it runs unconfined."
        )
    folder = _usable(root)
    private = tempfile.mkdtemp(prefix="hetero-")
    try:
        job = Job(
            command=list(command),
            root=folder,
            private=private,
            environment=_environment("/tmp" if kind == "bubblewrap" else private),
            readable=[*_SYSTEM, *(path for path in _interpreter() if not path.startswith("/usr"))],
            isolation=kind,
            limits=limits,
            user=secrets.randbits(32),
            bubblewrap=(shutil.which("bwrap") or "") if kind == "bubblewrap" else "",
        )
        return await _run(job, stdin)
    finally:
        with suppress(OSError):
            os.rmdir(private)  # the warden has removed it, if it came so far


def _usable(root: Path) -> str:
    folder = os.path.realpath(root)
    if not os.path.isdir(folder):
        raise UserError(f"The sandbox's root {str(root)!r} is no folder; make it first.")
    for path in (*_interpreter(), os.path.dirname(os.path.realpath(__file__)), "/usr"):
        if os.path.commonpath([folder, path]) == folder:
            raise UserError(
                f"The sandbox's root {str(root)!r} holds {path}, which programs outside it are started from; choose another folder."
            )
    return folder


def _interpreter() -> list[str]:
    """Return the folders that this interpreter is started from, and those that links in its name lead to."""
    program = os.path.dirname(os.path.realpath(sys.executable))
    named = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, program}
    return sorted(named | set(map(os.path.realpath, named)))


def _environment(temporary: str) -> dict[str, str]:
    path = [os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]
    return {
        "PATH": os.pathsep.join(path),
        "HOME": temporary,
        "TMPDIR": temporary,
        "USER": "sandbox",
        "LANG": "C.UTF-8",
    }


async def _run(job: Job, stdin: str) -> Ran:
    told, life = os.pipe()
    said, report = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _WARDEN, str(told), str(report)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(told, report),
            start_new_session=True,
        )
    except BaseException:
        os.close(life)
        os.close(said)
        raise
    finally:
        os.close(told)
        os.close(report)
    running = asyncio.ensure_future(_finish(process, job.limits.output_bytes, stdin))
    try:
        with suppress(BrokenPipeError):
            os.write(life, f"{job.to_json()}\n".encode())
        await asyncio.wait([running], timeout=job.limits.wall_seconds + _PATIENCE)
    finally:
        os.close(life)  # where this call was cancelled, the warden now ends the command
        await asyncio.wait([running], timeout=_PATIENCE)
        with os.fdopen(said, encoding="utf-8") as file:
            told_at_end = file.read()
    if not running.done():
        running.cancel()
        # asyncio has no other way to let go of pipes that are still open.
        process._transport.close()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue]
        raise UserError("The command could not be ended: its warden was killed, and what it left holds its output.")
    stdout, stderr = running.result()
    end = End(**json.loads(told_at_end)) if told_at_end else End(error=f"the warden ended early: {stderr.strip()}")
    if end.error:
        raise UserError(f"The command could not be confined, so it was not run or was ended: {end.error}.")
    return Ran(end.returncode, stdout, stderr or end.absent, end.seconds, end.killed)


async def _finish(process: asyncio.subprocess.Process, limit: int, stdin: str) -> tuple[str, str]:
    assert process.stdin and process.stdout and process.stderr
    _, stdout, stderr, _ = await asyncio.gather(
        _feed(process.stdin, stdin), _read(process.stdout, limit), _read(process.stderr, limit), process.wait()
    )
    return stdout, stderr


async def _feed(stream: asyncio.StreamWriter, text: str) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it may end without reading all
        stream.write(text.encode())
        await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _read(stream: asyncio.StreamReader, limit: int) -> str:
    kept, size = bytearray(), 0
    while block := await stream.read(65_536):
        size += len(block)
        kept += block[: limit - len(kept)]
    text = kept.decode("utf-8", "replace")
    return text if size <= limit else f"{text}\n[{size - limit} more bytes were cut]"
