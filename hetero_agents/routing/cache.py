"""Answers that a slot gave before, by exactly what was asked: sealed, in `.hetero/cache.db`.

Only the agent's process opens them, with its symmetric key. Where key or file cannot be had, nothing is
cached and calls go on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
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
from .state import open_database

_log = logging.getLogger("hetero_agents")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (name BLOB PRIMARY KEY, until REAL NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS answers_until ON answers (until);
"""

_NONCE_BYTES = 12


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

    def __init__(self, path: Path, key: Callable[[], bytes], clock: Callable[[], float] = time.time) -> None:
        """Open nothing yet.

        Args:
            path: the file.
            key: gives the agent's 32 bytes; asked once, at the first use.
            clock: seconds since 1970.
        """
        self._path = path
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def find(self, *asked: Any) -> Kept | None:
        """Return the answer to what was asked, unless it is too old or there is none.

        Args:
            asked: JSON values that an answer depends on, the same as `keep` was given.
        """
        if self._keys is None:
            return None
        name = self._name(asked)
        try:
            with self._lock:
                row = (
                    self._open()
                    .execute("SELECT sealed FROM answers WHERE name = ? AND until > ?", (name, self._clock()))
                    .fetchone()
                )
            if row is None:
                return None
            plain = self._keys[1].decrypt(row[0][:_NONCE_BYTES], row[0][_NONCE_BYTES:], name)
            return Kept(**json.loads(plain))
        except (sqlite3.Error, InvalidTag, ValueError, TypeError):  # damaged, or of another version
            return None

    def keep(self, kept: Kept, seconds: float, *asked: Any) -> None:
        """Keep an answer for some seconds; where it cannot be written it is not kept."""
        if self._keys is None:
            return
        name, nonce, now = self._name(asked), os.urandom(_NONCE_BYTES), self._clock()
        sealed = nonce + self._keys[1].encrypt(nonce, compact_json(asdict(kept)).encode(), name)
        try:
            with self._lock, self._open() as connection:
                connection.execute("DELETE FROM answers WHERE until <= ?", (now,))
                connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (name, now + seconds, sealed))
        except sqlite3.Error as error:
            _log.debug("An answer is not cached: %s", error)

    @staticmethod
    def clear(path: Path) -> None:
        """Overwrite and delete all answers of a cache, the processes that use it notwithstanding.

        Raises:
            HeteroError: the file cannot be written.
        """
        if not path.exists():
            return
        try:
            with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                connection.executescript(_SCHEMA + "DELETE FROM answers; VACUUM;")
        except sqlite3.Error as error:
            raise HeteroError(f"The cache {path} cannot be emptied ({error}); delete it.") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

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

    def _name(self, asked: tuple[Any, ...]) -> bytes:
        """What was asked, as nobody without the key can guess it."""
        assert self._keys is not None
        return hmac.digest(self._keys[0], compact_json(asked).encode(), hashlib.sha256)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_database(self._path, _SCHEMA)
        return self._connection
