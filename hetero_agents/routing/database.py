"""A SQLite file that the processes of a workspace share."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

_open: WeakSet[Database] = WeakSet()
_inherited: list[sqlite3.Connection] = []
"""A parent's connections: SQLite forbids a forked child even to close them."""


class Database:
    """A connection for all threads of a process, opened at its first use, and anew after a fork."""

    def __init__(self, path: Path, schema: str, *, timeout: float, or_memory: bool = False) -> None:
        """Open nothing yet.

        Args:
            path: the file; its folder is made.
            schema: statements that create what is not there, and settings.
            timeout: seconds to wait for another process that writes.
            or_memory: where the file cannot be opened, use one in memory.
        """
        self._path = path
        self._schema = schema
        self._timeout = timeout
        self._or_memory = or_memory
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        _open.add(self)

    def after_fork(self) -> None:
        """Begin anew in a child."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._lock, self._connection = threading.Lock(), None

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Hold the connection; what is written in the block is committed at its end, or not at all.

        Raises:
            sqlite3.Error: the file cannot be used now.
        """
        with self._lock:
            if self._connection is None:
                self._connection = self._opened()
            with self._connection:
                yield self._connection

    def _opened(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._connected(str(self._path))
        except (OSError, sqlite3.Error) as error:
            if self._or_memory:
                return self._connected(":memory:")
            if isinstance(error, OSError):
                raise sqlite3.OperationalError(str(error)) from error
            raise

    def _connected(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=self._timeout, check_same_thread=False)
        try:
            connection.executescript(self._schema)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _after_fork() -> None:
    for database in list(_open):
        database.after_fork()


os.register_at_fork(after_in_child=_after_fork)
