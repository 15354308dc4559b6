"""Answers that a slot gave before, by exactly what was asked or by what means the same: sealed, in `.hetero/cache.db`.

Only the agent's process opens them, with its symmetric key. Where key or file cannot be had, nothing is
cached, one warning says so, and calls go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..contract import json_bytes
from ..errors import HeteroError
from .database import Database
from .meaning import REMEMBERED, Nearest, packed

_log = logging.getLogger("hetero_agents")

# Deleted answers are overwritten, and no journal keeps them; what a power cut spoils is asked for again.
_SCHEMA = """
PRAGMA secure_delete = ON;
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS answers (name BLOB PRIMARY KEY, until REAL NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS answers_until ON answers (until);
CREATE TABLE IF NOT EXISTS meanings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB UNIQUE NOT NULL, scope BLOB NOT NULL, until REAL NOT NULL,
    vectors BLOB NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS meanings_scope ON meanings (scope, number);
CREATE INDEX IF NOT EXISTS meanings_until ON meanings (until);
"""

_NONCE_BYTES = 12

_OPENED = 20_000
"""Questions whose vectors a process holds open, of all scopes together: 30 MB where each has one text."""

_PATIENCE = 0.1
"""Seconds to wait for another process that writes: an answer is not worth more."""


@dataclass(frozen=True)
class Kept:
    """An answer that met contract and checks, and who gave it."""

    output: Any
    """As JSON."""
    model: str
    binding: str
    specialist: str | None
    trainable: bool
    confidence: float | None


class AnswerCache:
    """The cache of a workspace, shared by its processes."""

    def __init__(
        self,
        path: Path,
        key: Callable[[], bytes],
        clock: Callable[[], float] = time.time,
        patience: float = _PATIENCE,
    ) -> None:
        """Open nothing yet.

        Args:
            path: the file.
            key: gives the agent's 32 bytes; asked once, at the first use.
            clock: seconds since 1970.
            patience: seconds to wait for another process that writes.
        """
        self._path = path
        self._database = Database(path, _SCHEMA, timeout=patience)
        self._key = key
        self._clock = clock
        self._off = False
        self._opened: dict[bytes, Nearest] = {}

    def find(self, *asked: Any) -> Kept | None:
        """Return the answer to what was asked, unless it is too old or there is none.

        Args:
            asked: JSON values that an answer depends on, the same as `keep` was given.
        """
        if self._off or self._keys is None:
            return None
        name = self._name(self._keys[0], asked)
        try:
            with self._database.transaction() as connection:
                row = connection.execute(
                    "SELECT sealed FROM answers WHERE name = ? AND until > ?", (name, self._clock())
                ).fetchone()
            if row is None:
                return None
            return Kept(**json.loads(self._unsealed(row[0], name)))
        except (InvalidTag, ValueError, TypeError):  # changed, or of another version
            return None
        except sqlite3.Error as error:
            self._unusable(error)
            return None

    def keep(self, kept: Kept, seconds: float, *asked: Any) -> None:
        """Keep an answer for some seconds; where it cannot be written it is not kept."""
        if self._off or self._keys is None:
            return
        name, now = self._name(self._keys[0], asked), self._clock()
        sealed = self._sealed(json_bytes(asdict(kept)), name)
        try:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM answers WHERE until <= ?", (now,))
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (name, now + seconds, sealed))
        except sqlite3.Error as error:
            self._unusable(error)

    def find_near(self, vectors: Sequence[Sequence[float]], *scope: Any) -> tuple[float, Kept] | None:
        """Return the answer to the nearest question of a scope and how like it is, at most 1; None where the scope has none.

        Args:
            vectors: unit vectors of the question's texts.
            scope: JSON values that must be equal, the same as `keep_near` was given.
        """
        if self._off or self._keys is None:
            return None
        name = self._name(self._keys[0], ("scope", *scope))
        try:
            with self._database.transaction() as connection:
                # A second time where the nearest has gone: somebody has emptied the cache, or its time is over.
                for opened in (self._opened.pop(name, None), None):
                    here = self._refreshed(connection, name, opened or Nearest(len(vectors)))
                    if (found := here.nearest(vectors)) is None:
                        return None
                    row = connection.execute(
                        "SELECT name, sealed FROM meanings WHERE number = ? AND until > ?", (found[1], self._clock())
                    ).fetchone()
                    if row is not None:
                        self._hold(name, here)
                        return found[0], Kept(**json.loads(self._unsealed(row[1], b"answer" + row[0])))
        except (InvalidTag, ValueError, TypeError):  # changed, or of another version
            return None
        except sqlite3.Error as error:
            self._unusable(error)
        return None

    def keep_near(
        self, kept: Kept, seconds: float, vectors: Sequence[Sequence[float]], texts: Sequence[str], *scope: Any
    ) -> None:
        """Keep the answer to a question for some seconds, in place of an earlier one to the same texts.

        Args:
            kept: the answer.
            seconds: for how long.
            vectors: unit vectors of the question's texts.
            texts: they themselves, which only a keyed hash remembers.
            scope: JSON values that must be equal.
        """
        if self._off or self._keys is None:
            return
        shared, now = self._name(self._keys[0], ("scope", *scope)), self._clock()
        name = self._name(self._keys[0], ("near", *scope, *texts))
        sealed = self._sealed(json_bytes(asdict(kept)), b"answer" + name)
        row = name, shared, now + seconds, self._sealed(packed(vectors), b"vectors" + name), sealed
        try:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM meanings WHERE until <= ?", (now,))
                connection.execute(
                    "DELETE FROM meanings WHERE scope = ?1 AND number <= "
                    "(SELECT number FROM meanings WHERE scope = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                    (shared, REMEMBERED - 1),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO meanings (name, scope, until, vectors, sealed) VALUES (?, ?, ?, ?, ?)", row
                )
        except sqlite3.Error as error:
            self._unusable(error)

    def _refreshed(self, connection: sqlite3.Connection, scope: bytes, opened: Nearest) -> Nearest:
        """The vectors of a scope, with those that came since."""
        rows = connection.execute(
            "SELECT number, name, vectors FROM meanings WHERE scope = ? AND number > ? AND until > ? ORDER BY number",
            (scope, opened.newest, self._clock()),
        )
        for number, name, sealed in rows:
            with contextlib.suppress(InvalidTag):  # changed: as if it were not there
                opened.add(number, self._unsealed(sealed, b"vectors" + name))
        return opened

    def _hold(self, scope: bytes, opened: Nearest) -> None:
        """Keep a scope's vectors open as the last used, and no more than `_OPENED` in all."""
        self._opened[scope] = opened
        while len(self._opened) > 1 and sum(map(len, self._opened.values())) > _OPENED:
            del self._opened[next(iter(self._opened))]

    def clear(self) -> None:
        """Overwrite and delete all answers, those of other processes too; needs no key.

        Raises:
            HeteroError: the file cannot be written.
        """
        try:
            with self._database.transaction() as connection:
                connection.execute("PRAGMA synchronous = FULL")  # what was said to be gone stays gone
                connection.execute("DELETE FROM answers")
                connection.execute("DELETE FROM meanings")
        except sqlite3.Error as error:
            raise HeteroError(f"The cache of answers {self._path} cannot be emptied ({error}); try again.") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _unusable(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return  # another process writes: the next call may be luckier
        self._off = True
        _log.warning("Answers are not cached: %s cannot be used (%s).", self._path, error)

    @cached_property
    def _keys(self) -> tuple[bytes, AESGCM] | None:
        """The key of names, and that of answers."""
        try:
            key = self._key()
        except HeteroError as error:
            _log.warning("Answers are not cached: %s", error)
            return None
        names, answers = (HKDF(SHA256(), 32, None, b"hetero cache " + use).derive(key) for use in (b"name", b"answer"))
        return names, AESGCM(answers)

    def _sealed(self, plain: bytes, bound_to: bytes) -> bytes:
        assert self._keys
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._keys[1].encrypt(nonce, plain, bound_to)

    def _unsealed(self, sealed: bytes, bound_to: bytes) -> bytes:
        assert self._keys
        return self._keys[1].decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)

    @staticmethod
    def _name(key: bytes, asked: tuple[Any, ...]) -> bytes:
        """What was asked, as nobody without the key can guess it."""
        return hmac.digest(key, json_bytes(asked), hashlib.sha256)
