"""The arguments of bubblewrap (bwrap(1)): a system to read, a root to write, nothing else, and no way out but the standard streams."""

from __future__ import annotations

import os
from collections.abc import Iterator

from . import identity
from .job import Job

_NAMESPACES = (
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
)
_PACKAGE = "/run/confine"
_SHARED_MEMORY = 64 * 2**20


def namespaces() -> tuple[str, ...]:
    """Return the options that part the command from processes, network and users; a root needs no namespace of users.

    A root's command leaves root itself, which needs other users to exist.
    """
    if os.getuid() != 0:
        return ("--unshare-user", *_NAMESPACES)
    return (*_NAMESPACES, *(word for capability in identity.NEEDED for word in ("--cap-add", capability)))


def arguments(job: Job, python: str, told: int, errors: int) -> list[str]:
    """Return the whole command line.

    Args:
        job: the command.
        python: the interpreter that runs `inside` there.
        told: a file that holds the job.
        errors: a file that takes errors.
    """
    program = f"import sys; sys.path.insert(0, {os.path.dirname(_PACKAGE)!r}); from confine.inside import main; main()"
    return [
        job.bubblewrap,
        *namespaces(),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--size", str(_SHARED_MEMORY), "--tmpfs", "/dev/shm"),
        *("--bind", job.private, "/tmp"),
        *_mounts(job.readable),
        *("--ro-bind", os.path.dirname(os.path.abspath(__file__)), _PACKAGE),
        *("--bind", job.root, job.root),
        *("--remount-ro", "/"),
        *(python, "-I", "-S", "-B", "-c", program, str(told), str(errors)),
    ]


def _mounts(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if os.path.islink(path) and os.path.dirname(path) == "/":
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.exists(path):
            yield from ("--ro-bind", path, path)
