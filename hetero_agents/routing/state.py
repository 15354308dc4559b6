"""What changes at run time, in `.hetero/state.db`: today the circuit breaker of each specialist.

It may only narrow: stop using a specialist for a while, never start one. Where the file cannot be
written (a read-only container) the state lives in memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .database import Database

FAILURES_TO_OPEN: Final = 3
"""Engine failures in a row after which a specialist rests."""

REST_SECONDS: Final = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS breaker (specialist TEXT PRIMARY KEY, failures INTEGER NOT NULL, until REAL NOT NULL);
"""


class State:
    """The circuit breaker, shared by all processes of a workspace."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, _SCHEMA, timeout=5, or_memory=True)
        self._clock = clock

    def rests(self, specialist: str) -> bool:
        """Return whether a specialist is left alone because its engine failed again and again."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            row = connection.execute("SELECT until FROM breaker WHERE specialist = ?", (specialist,)).fetchone()
            return row is not None and row[0] > self._clock()
        return False

    def failed(self, specialist: str) -> None:
        """Count an engine failure; enough in a row open the breaker."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
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
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            failed = connection.execute("SELECT 1 FROM breaker WHERE specialist = ?", (specialist,)).fetchone()
            if failed:  # the usual call writes nothing
                connection.execute("DELETE FROM breaker WHERE specialist = ?", (specialist,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
