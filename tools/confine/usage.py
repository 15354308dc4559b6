"""What a command uses of memory and disk, by looking."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress


def descendants(pid: int) -> Iterator[int]:
    """Give the processes that a process started, and theirs (proc(5), /proc/pid/task/tid/children)."""
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                children = [int(child) for child in file.read().split()]
            for child in children:
                yield child
                yield from descendants(child)
    except (FileNotFoundError, ProcessLookupError):
        return  # it ended meanwhile


def memory(pids: list[int], limit: int) -> int:
    """Return what processes use together, in bytes.

    Args:
        pids: the processes.
        limit: below it a first, quicker look is enough, which counts shared pages for each.
    """
    resident = sum(map(_resident, pids))
    return resident if resident <= limit else sum(map(_proportional, pids))


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except PermissionError:
        return _resident(pid)
    except OSError:
        return 0


def disk(folders: tuple[str, ...]) -> tuple[int, int]:
    """Return the bytes and the number of files under folders, as far as these can be read.

    Raises:
        OSError: folders are nested too deep to be counted (ENAMETOOLONG).
    """
    size, files, waiting = 0, 0, list(folders)
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise
    return size, files


def deleted(pids: list[int]) -> int:
    """Return the bytes of files that are in no folder any more and that processes hold open, as far as these can be seen."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as files:
            for file in files:
                with suppress(OSError):
                    found = file.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def free(folder: str) -> int:
    """Return the free bytes of the file system that a folder is on."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
