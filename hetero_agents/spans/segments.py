"""Append-only files of framed records, one writer each: a record is read whole, or found damaged and passed over.

A frame is a mark, the body's length and its CRC-32, then the body. A reader that meets a broken frame
goes on at the next whole one, so damage anywhere costs the records that it touches and no others.
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUFFIX: Final = ".spans"

_MARK: Final = b"\xf1HV1"
_HEAD: Final = struct.Struct(">4sII")

BEGINNING: Final = 4096
"""Bytes of a record that scanning gives."""

FULL: Final = 64 * 2**20
"""Bytes from which a writer begins another file."""

DAY: Final = 86_400.0
"""Seconds after which a writer begins another file, where files are kept for days."""


@dataclass(frozen=True)
class Keep:
    """How long records are kept. A file goes as a whole, when its last record is too old; the oldest files first."""

    days: float | None = None
    megabytes: float | None = None

    @property
    def file_bytes(self) -> float:
        """Bytes from which a writer begins another file: eight of them make what is kept, so that little goes at a time."""
        return FULL if self.megabytes is None else min(FULL, self.megabytes * 1e6 / 8)


class SegmentWriter:
    """Appends to a file of its own, which it locks, so that readers can tell a live writer's tail from a torn one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{time.time_ns()}-{os.getpid()}{SUFFIX}"
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.size = 0
        self._began = time.monotonic()

    def is_full(self, keep: Keep) -> bool:
        """Whether another file is to be begun."""
        too_long = keep.days is not None and time.monotonic() - self._began > min(DAY, keep.days * DAY / 8)
        return self.size > 0 and (self.size > keep.file_bytes or too_long)

    def append(self, bodies: Sequence[bytes]) -> None:
        """Write records; they are on the disk when this returns.

        Raises:
            OSError: the disk is full or gone; none of them was written.
        """
        data = memoryview(b"".join(_HEAD.pack(_MARK, len(body), zlib.crc32(body)) + body for body in bodies))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += written

    def close(self) -> None:
        """Let go of the file; one that holds nothing is removed."""
        if self.size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


class Segment:
    """A file of records as far as it was read.

    Attributes:
        path: the file.
        damaged: places where something was wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._read = 0
        self._torn = False

    def scan(self) -> list[tuple[int, int, bytes]]:
        """Return (offset, length, beginning) of the body of each whole record that came since the last time.

        A beginning has at most `BEGINNING` bytes.
        """
        bodies: list[tuple[int, int, bytes]] = []
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        place, start = 0, self._read
        while place < len(data):
            if (length := _whole(data, place)) is not None:
                place += _HEAD.size
                bodies.append((start + place, length, data[place : place + min(length, BEGINNING)]))
                place += length
                continue
            following = _next_whole(data, place + 1)
            if following is None:
                break
            self.damaged += 1
            place = following
        self._read = start + place
        self._torn = place < len(data)
        return bodies

    @property
    def torn(self) -> bool:
        """Whether the file ends in half a record that no writer will complete."""
        return self._torn and not _locked(self.path)


def remove_old(folder: Path, keep: Keep) -> int:
    """Remove files whose time is over, and the oldest while there is too much; return how many.

    Files that a process writes to stay.
    """
    if keep.days is None and keep.megabytes is None:
        return 0
    found: list[tuple[float, int, Path]] = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            about = path.stat()
            if not _locked(path):
                found.append((about.st_mtime, about.st_size, path))
        except FileNotFoundError:
            continue
    oldest = time.time() - keep.days * DAY if keep.days is not None else 0.0
    total, most = sum(size for _, size, _ in found), keep.megabytes * 1e6 if keep.megabytes is not None else math.inf
    removed = 0
    for written, size, path in sorted(found):
        if written >= oldest and total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
        removed += 1
    return removed


def _whole(data: bytes, place: int) -> int | None:
    """The length of the body of the frame that stands whole at a place."""
    if len(data) - place < _HEAD.size:
        return None
    mark, length, check = _HEAD.unpack_from(data, place)
    begin = place + _HEAD.size
    if mark != _MARK or begin + length > len(data) or zlib.crc32(data[begin : begin + length]) != check:
        return None
    return length


def _next_whole(data: bytes, place: int) -> int | None:
    while (place := data.find(_MARK, place)) >= 0:
        if _whole(data, place) is not None:
            return place
        place += 1
    return None


def _locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
