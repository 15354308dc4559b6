"""What changes at run time, in `.hetero/state.db`: today the circuit breaker of each specialist.

It may only narrow: stop using a specialist for a while, never start one. Where the file cannot be
written (a read-only container) the state lives in memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

FAILURES_TO_OPEN: Final = 3
"""Engine failures in a row after which a specialist rests."""

REST_SECONDS: Final = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS breaker (specialist TEXT PRIMARY KEY, failures INTEGER NOT NULL, until REAL NOT NULL);
"""


class State:
    """The circuit breaker, shared by all processes of a workspace."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def rests(self, specialist: str) -> bool:
        """Return whether a specialist is left alone because its engine failed again and again."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            row = self._open().execute("SELECT until FROM breaker WHERE specialist = ?", (specialist,)).fetchone()
            return row is not None and row[0] > self._clock()
        return False

    def failed(self, specialist: str) -> None:
        """Count an engine failure; enough in a row open the breaker."""
        with self._lock, contextlib.suppress(sqlite3.Error), self._open() as connection:
            connection.execute(
                "INSERT INTO breaker VALUES (?, 1, 0) ON CONFLICT (specialist) DO UPDATE SET failures = failures + 1",
                (specialist,),
            )
            connection.execute(
                "UPDATE breaker SET until = ?, failures = 0 WHERE specialist = ? AND failures >= ?",
                (self._clock() + REST_SECONDS, specialist, FAILURES_TO_OPEN),
            )

    def worked(self, specialist: str) -> None:
        """Forget the failures of a specialist that answered."""
        with self._lock, contextlib.suppress(sqlite3.Error), self._open() as connection:
            failed = connection.execute("SELECT 1 FROM breaker WHERE specialist = ?", (specialist,)).fetchone()
            if failed:  # the usual call writes nothing
                connection.execute("DELETE FROM breaker WHERE specialist = ?", (specialist,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_database(self._path, _SCHEMA)
        return self._connection


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """Return a SQLite database with a schema; one in memory where the file cannot be written.

    Args:
        path: the file; its folder is made.
        schema: statements that create what is not there.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
        connection.executescript(schema)
    except (OSError, sqlite3.Error):
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.executescript(schema)
    return connection
