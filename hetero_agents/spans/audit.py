"""The record of who opened what and when: lines of JSON, each with the hash of the line before it.

Nothing of it is secret, and whoever can write the file can write it anew. What shows that is a *head*, the last line's number and
hash, signed by a reader and kept elsewhere: a record that was cut, or written anew before that line, does not hold it any more.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import HeteroError, IntegrityError, UserError

NAME: Final = "audit.jsonl"

LONGEST: Final = 65_536
"""Bytes of the longest line."""

BEGINNING: Final = "0" * 64
"""What the first line has in the place of a hash."""


class Entry(BaseModel):
    """One line.

    Attributes:
        n: its number, from 1.
        time: when, ISO 8601, UTC.
        reader: who, as the keyring names it; None for who needs no key, to begin a new epoch say.
        role: the reader's role at that time.
        uid: the account of the process.
        did: what was done, for example `read`.
        about: what it was done to: what was opened, which slot or runs, how many records.
        previous: SHA-256 of the line before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int
    time: str
    reader: str | None
    role: str | None
    uid: int
    did: str
    about: dict[str, Any]
    previous: str


class Head(BaseModel):
    """A signed statement that a record had a line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vault: str
    n: int
    sha256: str
    time: str
    reader: str
    signature: str = ""
    """Base64 of the Ed25519 signature (RFC 8032) over the other fields as JSON, keys sorted."""

    def signed(self, private: X25519PrivateKey) -> Head:
        """Return it with a reader's signature."""
        return self.model_copy(update={"signature": b64encode(_signing_key(private).sign(self._text())).decode()})

    def check(self, private: X25519PrivateKey) -> None:
        """Say whether a reader's key signed it.

        Raises:
            IntegrityError: it did not, or a field was changed.
        """
        try:
            _signing_key(private).public_key().verify(b64decode(self.signature), self._text())
        except (InvalidSignature, ValueError) as error:
            raise IntegrityError(f"The head was not signed by your key of {self.reader!r}, or was changed.") from error

    def _text(self) -> bytes:
        return json.dumps(self.model_dump(exclude={"signature"}), sort_keys=True).encode()


@dataclass(frozen=True)
class Record:
    """A record as it was read.

    Attributes:
        entries: its whole lines.
        torn: numbers of lines that a process did not write whole; the chain goes over them.
        broken: what is wrong with it, a sentence each.
        hashes: SHA-256 of each line.
    """

    entries: list[Entry]
    torn: list[int]
    broken: list[str]
    hashes: list[str]


def note(folder: Path, did: str, *, reader: str | None, role: str | None, about: dict[str, Any]) -> None:
    """Add a line; it is on the disk when this returns.

    Args:
        folder: of the vault.
        did: what is going to be done.
        reader: who does it.
        role: the reader's role.
        about: what it is done to.

    Raises:
        HeteroError: it cannot be written, so nothing may be done.
    """
    path = folder / NAME
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST))
            lines = file.read().splitlines(keepends=True)
            torn = bool(lines) and not lines[-1].endswith(b"\n")
            entry = Entry(
                n=_number(lines[-1], path) + 1 if lines else 1,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                reader=reader,
                role=role,
                uid=os.getuid(),
                did=did,
                about=about,
                previous=_hash(lines[-1]) if lines else BEGINNING,
            )
            line = (b"\n" if torn else b"") + entry.model_dump_json().encode() + b"\n"
            end = file.seek(0, os.SEEK_END)
            if file.write(line) != len(line):  # a full disk
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise HeteroError(
            f"The record of openings {path} cannot be written ({error.strerror}), so nothing was opened."
        ) from error


def read(folder: Path) -> Record:
    """Read a record and check its chain."""
    path = folder / NAME
    lines = path.read_bytes().splitlines() if path.exists() else []
    entries, torn, broken, before = list[Entry](), list[int](), list[str](), BEGINNING
    for number, line in enumerate(lines, 1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            torn.append(number)
        else:
            entries.append(entry)
            if entry.n != number:
                broken.append(f"line {number} says that it is number {entry.n}")
            if entry.previous != before:
                broken.append(f"line {number} does not follow the line before it")
        before = _hash(line)
    return Record(entries, torn, broken, [_hash(line) for line in lines])


def head_of(record: Record, vault: str, reader: str) -> Head:
    """Return the head of a record, not signed yet.

    Raises:
        UserError: it is empty.
    """
    if not record.hashes:
        raise UserError("Nothing was opened yet, so there is nothing to sign.")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Head(vault=vault, n=len(record.hashes), sha256=record.hashes[-1], time=now, reader=reader)


def holds(record: Record, head: Head) -> bool:
    """Return whether a record has the line that a head speaks of."""
    return 0 < head.n <= len(record.hashes) and record.hashes[head.n - 1] == head.sha256


def _number(last: bytes, path: Path) -> int:
    """The number of the last line; the lines are counted where it does not say."""
    try:
        return Entry.model_validate_json(last).n
    except ValidationError:
        return len(path.read_bytes().splitlines())


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def _signing_key(private: X25519PrivateKey) -> Ed25519PrivateKey:
    """A key for signatures that follows from a reader's key: a key for exchange cannot sign."""
    derive = HKDF(SHA256(), 32, salt=None, info=b"hetero_agents audit signature")
    return Ed25519PrivateKey.from_private_bytes(derive.derive(private.private_bytes_raw()))
