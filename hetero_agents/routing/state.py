"""What changes at run time, in `.hetero/state.db`: each specialist's circuit breaker, and the evidence on its answers.

It may only narrow: stop using a specialist, never start one. Where the file cannot be written (a read-only
container) the state lives in memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from .database import Database
from .evidence import Promise, Seen, findings

FAILURES_TO_OPEN: Final = 3
"""Engine failures in a row after which a specialist rests."""

REST_SECONDS: Final = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS breaker (specialist TEXT PRIMARY KEY, failures INTEGER NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS evidence (
    number INTEGER PRIMARY KEY AUTOINCREMENT, specialist TEXT NOT NULL, stage TEXT NOT NULL,
    kept INTEGER NOT NULL, wrong INTEGER NOT NULL, seconds REAL NOT NULL, cost REAL, slice TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS evidence_of ON evidence (specialist, stage);
CREATE TABLE IF NOT EXISTS stopped (specialist TEXT PRIMARY KEY, why TEXT NOT NULL);
"""

Watched = Literal["shadow", "canary", "active"]
"""The stage in which an answer was compared with that of the model below."""


class State:
    """Circuit breaker and evidence, shared by all processes of a workspace."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, _SCHEMA, timeout=5, or_memory=True)
        self._clock = clock

    def rests(self, specialist: str) -> str | None:
        """Return why a specialist is left alone now; None where it is not."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            why, until = connection.execute(
                "SELECT (SELECT why FROM stopped WHERE specialist = ?1), (SELECT until FROM breaker WHERE specialist = ?1)",
                (specialist,),
            ).fetchone()
            if why is not None:
                return str(why)
            if until is not None and until > self._clock():
                return "it rests after repeated engine failures"
        return None

    def stopped(self, specialist: str) -> str | None:
        """Return why running processes have stopped using a specialist; None where they have not."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            row = connection.execute("SELECT why FROM stopped WHERE specialist = ?", (specialist,)).fetchone()
            return str(row[0]) if row else None
        return None

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

    def saw(self, specialist: str, stage: Watched, seen: Seen, promise: Promise | None) -> None:
        """Remember an answer, and stop the specialist where the evidence says that it breaks what is asked of it."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO evidence (specialist, stage, kept, wrong, seconds, cost, slice) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (specialist, stage, seen.kept, seen.wrong, seen.seconds, seen.cost, seen.slice),
            )
            if promise is None or promise.met_by(seen):
                return
            found = findings(self._evidence(connection, specialist, stage), promise)
            if broken := next((one for one in found if one.broken), None):
                why = f"{broken.told} as {stage}, which {broken.asked} does not allow"
                connection.execute("INSERT OR IGNORE INTO stopped VALUES (?, ?)", (specialist, why))

    def stop(self, specialist: str, why: str) -> None:
        """Never use a specialist again, until somebody promotes it."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO stopped VALUES (?, ?)", (specialist, why))

    def evidence(self, specialist: str, stage: Watched) -> list[Seen]:
        """Return what was seen of a specialist in a stage, in its order."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            return self._evidence(connection, specialist, stage)
        return []

    @staticmethod
    def _evidence(connection: sqlite3.Connection, specialist: str, stage: Watched) -> list[Seen]:
        rows = connection.execute(
            "SELECT kept, wrong, seconds, cost, slice FROM evidence WHERE specialist = ? AND stage = ? ORDER BY number",
            (specialist, stage),
        )
        return [Seen(bool(kept), bool(wrong), seconds, cost, part) for kept, wrong, seconds, cost, part in rows]

    def forget_evidence(self, specialist: str) -> None:
        """Forget what was seen of a specialist, because it was of another policy; a stop stays."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            connection.execute("DELETE FROM evidence WHERE specialist = ?", (specialist,))

    def forget(self, specialist: str) -> None:
        """Begin anew with a specialist: whoever promotes it says that it may be used."""
        with contextlib.suppress(sqlite3.Error), self._database.transaction() as connection:
            for table in ("breaker", "evidence", "stopped"):
                connection.execute(f"DELETE FROM {table} WHERE specialist = ?", (specialist,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
