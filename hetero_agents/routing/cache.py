"""Answers that a slot gave before, by exactly what was asked: sealed, in `.hetero/cache.db`.

Only the agent's process opens them, with its symmetric key. Where key or file cannot be had, nothing is
cached, one warning says so, and calls go on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..contract import compact_json
from ..errors import HeteroError
from .database import Database

_log = logging.getLogger("hetero_agents")

# Deleted answers are overwritten, and no journal keeps them; what a power cut spoils is asked for again.
_SCHEMA = """
PRAGMA secure_delete = ON;
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS answers (name BLOB PRIMARY KEY, until REAL NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS answers_until ON answers (until);
"""

_NONCE_BYTES = 12

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
            plain = self._keys[1].decrypt(row[0][:_NONCE_BYTES], row[0][_NONCE_BYTES:], name)
            return Kept(**json.loads(plain))
        except (InvalidTag, ValueError, TypeError):  # changed, or of another version
            return None
        except sqlite3.Error as error:
            self._unusable(error)
            return None

    def keep(self, kept: Kept, seconds: float, *asked: Any) -> None:
        """Keep an answer for some seconds; where it cannot be written it is not kept."""
        if self._off or self._keys is None:
            return
        name, nonce, now = self._name(self._keys[0], asked), os.urandom(_NONCE_BYTES), self._clock()
        sealed = nonce + self._keys[1].encrypt(nonce, compact_json(asdict(kept)).encode(), name)
        try:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM answers WHERE until <= ?", (now,))
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (name, now + seconds, sealed))
        except sqlite3.Error as error:
            self._unusable(error)

    def clear(self) -> None:
        """Overwrite and delete all answers, those of other processes too; needs no key.

        Raises:
            HeteroError: the file cannot be written.
        """
        try:
            with self._database.transaction() as connection:
                connection.execute("PRAGMA synchronous = FULL")  # what was said to be gone stays gone
                connection.execute("DELETE FROM answers")
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

    @staticmethod
    def _name(key: bytes, asked: tuple[Any, ...]) -> bytes:
        """What was asked, as nobody without the key can guess it."""
        return hmac.digest(key, compact_json(asked).encode(), hashlib.sha256)
