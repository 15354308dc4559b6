"""The last steps before a command: limits, another user, Landlock, the filter of system calls; then it takes this process over."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from . import identity, landlock, seccomp
from .job import Job, Limits
from .kernel import PR_SET_PDEATHSIG, prctl

ABSENT = "absent: "
NOT_CONFINED = "not confined: "

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_MACHINE = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu")
_MB = 2**20


def main() -> NoReturn:
    """Run in bubblewrap: one inherited file holds the job, another takes errors."""
    told, errors = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(errors, False)
    with os.fdopen(told, encoding="utf-8") as file:
        job = Job.from_json(file.read())
    # In a user namespace, bubblewrap's own first process counts too.
    become(job, errors, others=0 if os.getuid() == 0 else 1)


def become(job: Job, errors: int, *, others: int) -> NoReturn:
    """Confine this process and let the command take it over.

    Args:
        job: the command.
        errors: a file that the takeover closes, for the reason why there was none.
        others: processes of the same user that count towards its limit and are not the command's.
    """
    try:
        _confine(job, others)
    except BaseException as error:
        os.write(errors, f"{NOT_CONFINED}{error}".encode())
        os._exit(125)
    try:
        os.execvpe(job.command[0], job.command, job.environment)
    except FileNotFoundError:
        os.write(errors, f"{ABSENT}There is no program {job.command[0]!r} here.".encode())
    except BaseException as error:
        os.write(errors, f"{ABSENT}{job.command[0]!r} cannot be run: {error}.".encode())
    os._exit(127)


def _confine(job: Job, others: int) -> None:
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    os.chdir(job.root)
    identity.leave_root(job.user)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # leaving root undoes it
    _limit(job.limits, others)
    if job.isolation == "landlock":
        landlock.restrict(
            [
                *((path, landlock.WRITE) for path in (job.root, job.private)),
                *((path, landlock.READ) for path in (*job.readable, *_MACHINE)),
                *((path, landlock.DEVICE) for path in _DEVICES),
            ]
        )
    if job.isolation != "none":
        seccomp.restrict(strict=job.isolation == "landlock")


def _limit(limits: Limits, others: int) -> None:
    _lower(resource.RLIMIT_CPU, limits.cpu_seconds, grace=1)  # SIGXCPU says why, SIGKILL follows
    _lower(resource.RLIMIT_DATA, limits.memory_mb * _MB)
    _lower(resource.RLIMIT_FSIZE, limits.file_mb * _MB)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_NPROC, limits.processes + others)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, value: int, *, grace: int = 0) -> None:
    hard = resource.getrlimit(which)[1]
    soft, hard = (least if hard == resource.RLIM_INFINITY else min(least, hard) for least in (value, value + grace))
    resource.setrlimit(which, (soft, hard))
