"""The span store. Several processes may write and read at once; a killed one loses only what was in memory.

Content is stored as it is: the database is readable by its owner alone, and that is all that
protects it. Encryption and redaction have their place between record and vault (`Tracing`).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import HeteroError
from .names import Names
from .record import SpanRecord


@dataclass(frozen=True)
class Feedback:
    """What somebody said of a run, or of one span of it, afterwards."""

    trace_id: str
    span_id: str | None
    score: float | None
    """0 to 1; below 0.5 the run counts as failed."""
    answer: Any
    """The right answer, as JSON; only with `has_answer`."""
    has_answer: bool
    time: int
    """Nanoseconds since the epoch."""


class Vault(Protocol):
    """Where spans go and come from."""

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Store spans, durably when this returns."""
        ...

    def read(self, *, slot: str | None = None, trace: str | None = None) -> Iterator[SpanRecord]:
        """Give spans trace by trace, each in the order of their start: all, those of the traces that called a slot, or one trace's."""
        ...

    def traces(self, limit: int) -> list[str]:
        """Return the ids of the latest traces, newest first."""
        ...

    def say(self, feedback: Feedback) -> None:
        """Store feedback."""
        ...

    def feedback(self, trace: str | None = None) -> list[Feedback]:
        """Return all feedback, or that on one trace, oldest first."""
        ...

    def close(self) -> None:
        """Let go of what this thread holds open."""
        ...


_SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
    span_id TEXT PRIMARY KEY, trace_id TEXT NOT NULL, start INTEGER NOT NULL, slot TEXT, body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spans_by_trace ON spans (trace_id, start);
CREATE INDEX IF NOT EXISTS spans_by_slot ON spans (slot, trace_id) WHERE slot IS NOT NULL;
CREATE TABLE IF NOT EXISTS feedback (
    trace_id TEXT NOT NULL, span_id TEXT, score REAL, answer TEXT, time INTEGER NOT NULL
);
"""


class SqliteVault:
    """A vault in one SQLite file (write-ahead log), made on the first write with access for its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Store spans in one transaction; a span that is already there is replaced."""
        rows = [
            (
                r["span_id"],
                r["trace_id"],
                r["start"],
                r["attributes"].get(Names.SLOT),
                json.dumps(r, ensure_ascii=False),
            )
            for r in records
        ]
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?, ?)", rows)

    def read(self, *, slot: str | None = None, trace: str | None = None) -> Iterator[SpanRecord]:
        """Give spans in the order of their trace and start."""
        where, values = "", tuple[str, ...]()
        if trace is not None:
            where, values = "WHERE trace_id = ?", (trace,)
        elif slot is not None:
            where, values = "WHERE trace_id IN (SELECT DISTINCT trace_id FROM spans WHERE slot = ?)", (slot,)
        for (body,) in self._select(f"SELECT body FROM spans {where} ORDER BY trace_id, start", values):
            yield json.loads(body)

    def traces(self, limit: int) -> list[str]:
        """Return the ids of the latest traces, newest first."""
        query = "SELECT trace_id FROM spans GROUP BY trace_id ORDER BY MIN(start) DESC LIMIT ?"
        return [row[0] for row in self._select(query, (limit,))]

    def say(self, feedback: Feedback) -> None:
        """Store feedback."""
        answer = json.dumps(feedback.answer, ensure_ascii=False) if feedback.has_answer else None
        row = (feedback.trace_id, feedback.span_id, feedback.score, answer, feedback.time)
        with self._writing() as connection:
            connection.execute("INSERT INTO feedback VALUES (?, ?, ?, ?, ?)", row)

    def feedback(self, trace: str | None = None) -> list[Feedback]:
        """Return all feedback, or that on one trace, oldest first."""
        where, values = ("WHERE trace_id = ?", (trace,)) if trace else ("", tuple[str, ...]())
        query = f"SELECT trace_id, span_id, score, answer, time FROM feedback {where} ORDER BY time"
        rows = self._select(query, values)
        return [
            Feedback(trace, span, score, json.loads(answer) if answer else None, answer is not None, when)
            for trace, span, score, answer, when in rows
        ]

    def _select(self, query: str, values: tuple[Any, ...]) -> Iterable[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        return self._connect().execute(query, values)

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A transaction; what stops it is one sentence."""
        try:
            with self._connect() as connection:
                yield connection
        except sqlite3.Error as error:
            raise HeteroError(
                f"The vault {self.path} cannot be written ({error}); nothing of this was stored."
            ) from error

    def close(self) -> None:
        """Close this thread's connection."""
        if getattr(self._local, "owner", None) == os.getpid():
            self._local.connection.close()
            self._local.owner = None

    def _connect(self) -> sqlite3.Connection:
        # A connection belongs to one thread of one process: it must not cross a fork.
        owner = (os.getpid(), getattr(self._local, "owner", None))
        if owner[1] != owner[0]:
            self._local.connection, self._local.owner = self._open(), owner[0]
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _open(self) -> sqlite3.Connection:
        try:
            if not self.path.exists():
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
            _retry_locked(
                lambda: connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
            )
        except (OSError, sqlite3.Error) as error:
            raise HeteroError(
                f"The vault {self.path} cannot be opened ({error}); check its folder's space and permissions."
            ) from error
        return connection


def _retry_locked(action: Any) -> None:
    # Switching a new file to WAL ignores SQLite's own busy timeout.
    for attempt in range(100):
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == 99:
                raise
            time.sleep(0.02)
