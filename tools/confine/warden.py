"""The warden: starts a command, watches it, and ends all that it started, whatever happens.

It is a process of its own because only a parent can do that for sure: it adopts what the command leaves behind, it knows
by a closed pipe that nobody waits any more, and with Landlock it stands in a fence with the command, in which one `kill(-1)`
reaches everything at once, so that no process can be started in between. The command stands in a second fence within and
cannot signal the warden.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import NoReturn

from . import bubblewrap, inside, landlock, usage
from .job import End, Job, Reason
from .kernel import PR_SET_CHILD_SUBREAPER, prctl

_LOOK_SECONDS = 0.05
_SHARE_OF_TIME = 10
"""A look at the disk that takes long is made more seldom, so that it takes a tenth of the time."""
_FAREWELL_SECONDS = 0.5
"""What a command that is cancelled has to end by itself: git removes its lock files then, which would keep the next git out."""
_MB = 2**20


def main() -> None:
    """Read a job from the first file, run it, write its end to the second; when the first is closed, the command ends."""
    told, report = int(sys.argv[1]), int(sys.argv[2])
    for file in (told, report):
        os.set_inheritable(file, False)  # the command could write its own end
    with os.fdopen(told, encoding="utf-8") as life:
        job = Job.from_json(life.readline())
        try:
            end = _run(job, told)
        except OSError as error:
            end = End(error=str(error))
        finally:
            _remove(job.private)
        os.write(report, json.dumps(asdict(end)).encode())


def _run(job: Job, life: int) -> End:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if job.isolation == "landlock":
        landlock.fence()
    others = _running() if job.isolation != "bubblewrap" and os.getuid() != 0 else 0
    watch = _Watch(job)
    said, errors = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        _become(job, errors, others)
    os.close(errors)
    try:
        killed = watch.wait(child, life, begun + job.limits.wall_seconds)
        if killed == "cancelled":
            _ask_to_end(job, child)
            watch.wait(child, None, time.monotonic() + _FAREWELL_SECONDS)
    finally:
        seconds = time.monotonic() - begun
        status = _end_all(job, child)
    with os.fdopen(said, encoding="utf-8", errors="replace") as file:
        sentence = file.read()
    if sentence.startswith(inside.ABSENT):
        return End(127, seconds, absent=sentence.removeprefix(inside.ABSENT))
    if sentence:
        return End(error=sentence.removeprefix(inside.NOT_CONFINED))
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    by_signal: dict[int, Reason] = {128 + signal.SIGXCPU: "cpu", 128 + signal.SIGXFSZ: "file size"}
    return End(code, seconds, killed or by_signal.get(code))


def _become(job: Job, errors: int, others: int) -> NoReturn:
    if job.isolation != "bubblewrap":
        inside.become(job, errors, others=others)
    try:
        told = os.memfd_create("job", 0)
        os.write(told, job.to_json().encode())
        os.lseek(told, 0, os.SEEK_SET)
        os.set_inheritable(errors, True)
        os.execve(job.bubblewrap, bubblewrap.arguments(job, sys.executable, told, errors), job.environment)
    except BaseException as error:
        os.write(errors, f"{inside.NOT_CONFINED}{error}".encode())
    finally:
        os._exit(127)


def _ask_to_end(job: Job, child: int) -> None:
    for pid in usage.descendants(os.getpid()):
        if pid != child or job.isolation != "bubblewrap":  # which would take all others with it at once
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _end_all(job: Job, child: int) -> int:
    """End everything that was started, and return the command's status."""
    found = 0
    while True:
        if job.isolation == "landlock":
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid in usage.descendants(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return found
        if pid == child:
            found = status


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        import subprocess  # it takes a while, and mostly the folder is empty

        # The command may have taken its own rights away, or have nested folders by the thousand; these programs do not mind.
        for command in (["chmod", "-R", "u+rwx", folder], ["rm", "-rf", folder]):
            subprocess.run(command, capture_output=True, check=False)


def _bury(child: int) -> None:
    """Reap what the command left behind and has ended: it counts as a process until then."""
    while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and dead.si_pid != child:
        os.waitpid(dead.si_pid, 0)


def _running() -> int:
    """Return how many processes and threads this user has, as the kernel counts them for RLIMIT_NPROC.

    It does not say, so it is asked: a fork fails where there are more. /proc may show fewer, in a container for example.
    """
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    low, high = 0, 2**22 if hard == resource.RLIM_INFINITY else hard
    while low + 1 < high:
        middle = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_NPROC, (middle, hard))
        try:
            if (pid := os.fork()) == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            high = middle
        except BlockingIOError:
            low = middle
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    return high - 1


class _Watch:
    """Looks at what a command uses until it ends or has to."""

    def __init__(self, job: Job) -> None:
        self._limits = job.limits
        self._folders = (job.root, job.private)
        self._disk, self._files = usage.disk(self._folders)
        self._free = {folder: usage.free(folder) for folder in self._folders}
        self._next_disk = 0.0

    def wait(self, child: int, life: int | None, deadline: float) -> Reason | None:
        """Wait until the command ended, and return why it has to be ended, if so."""
        ended = os.pidfd_open(child)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        if life is not None:
            poll.register(life, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll(1000 * max(0, min(_LOOK_SECONDS, deadline - time.monotonic()))))
                if ended in ready:
                    return None
                if ready:
                    return "cancelled"
                if time.monotonic() >= deadline:
                    return "time"
                _bury(child)
                if reason := self._exceeded():
                    return reason
        finally:
            os.close(ended)

    def _exceeded(self) -> Reason | None:
        pids = usage.descendants(os.getpid())
        most = self._limits.memory_mb * _MB
        if usage.memory(pids, most) > most:
            return "memory"
        # What the looks below do not find, in folders that cannot be read for example, has this as its last bound.
        if any(usage.free(folder) < room // 2 for folder, room in self._free.items()):
            return "disk"
        if (now := time.monotonic()) < self._next_disk:
            return None
        try:
            size, files = usage.disk(self._folders)
        except OSError:
            return "files"
        size += usage.deleted(pids)
        ended = time.monotonic()
        self._next_disk = ended + max(2 * _LOOK_SECONDS, _SHARE_OF_TIME * (ended - now))
        if size - self._disk > self._limits.disk_mb * _MB:
            return "disk"
        return "files" if files - self._files > self._limits.files else None
