"""Keys of the persons whose data runs hold, so that one person's content can be made unreadable for ever (crypto-shredding).

A subject has a key pair for each epoch, in a file of its own. Content of that subject is sealed to the public half; the private
half stands there sealed to the content compartment, so whoever opens content opens it too, and whoever only writes does not.
Without the file nobody opens it any more, the readers' keys notwithstanding.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError

from ..bindings.lock import exclusive, write_atomically
from .keys import SUITE, Keyring, Opener, public_text, read_public
from .names import Names
from .record import SpanRecord

SUFFIX: Final = ".subject"

_PERSONS: Final = (Names.SUBJECT, "enduser.id", "user.id")
"""Attributes that say whose data a span holds; the first one counts."""


REMEMBERED: Final = 10_000
"""Subjects whose keys are held in memory at most."""


class SubjectKey(BaseModel):
    """A subject's key of one epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public: str
    """Base64 of the 32 bytes."""
    sealed: str
    """The private key, sealed to the content compartment."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """By which sealed content names the subject: by chance, so that it leads to nobody when this file is gone."""
    epochs: dict[int, SubjectKey] = {}


def person_of(record: SpanRecord) -> str | None:
    """Return whose data a span holds, as it is stored; None where nobody said."""
    told = (record["attributes"].get(key) for key in _PERSONS)
    ids = (str(each) for each in told if isinstance(each, str | int) and not isinstance(each, bool))
    return next((each for each in ids if each), None)


def tag_of(secret: bytes, person: str) -> str:
    """Return the name of the file with a person's keys: it leads to the person only with the vault's secret."""
    return hmac.digest(secret, b"subject\0" + person.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:32]


class Subjects:
    """The subjects' keys of one vault."""

    def __init__(self, folder: Path, vault: str) -> None:
        """Name the folder of the keys and the vault's id."""
        self._folder = folder
        self._vault = vault
        self._read: dict[Path, tuple[int, _File]] = {}
        self._paths: tuple[int, dict[str, Path]] = (0, {})

    def public(self, tag: str, keyring: Keyring) -> tuple[str, X25519PublicKey]:
        """Return a subject's id, and the key to which its content is sealed now; made where there is none.

        Raises:
            OSError: they cannot be written.
        """
        file = self._file(self._path(tag))
        if file is None or keyring.epoch not in file.epochs:
            file = self._made(tag, keyring)
        return file.id, read_public(file.epochs[keyring.epoch].public)

    def private(self, subject: str, epoch: int, opener: Opener) -> X25519PrivateKey | None:
        """Return the key that opens what was sealed to a subject's key; None where it was destroyed.

        Raises:
            KeyAccessError: the reader opens no content.
        """
        path = self._by_id().get(subject)
        file = self._file(path) if path else None
        if file is None or epoch not in file.epochs:
            return None
        sealed = b64decode(file.epochs[epoch].sealed)
        raw = SUITE.decrypt(sealed, opener.private("content", epoch), self._info(file.id))
        return X25519PrivateKey.from_private_bytes(raw)

    def id_of(self, tag: str) -> str | None:
        """Return the id of a subject that has keys."""
        file = self._file(self._path(tag))
        return file.id if file else None

    def destroy(self, tag: str) -> None:
        """Destroy a subject's keys: overwritten, then removed; durable when this returns.

        Raises:
            OSError: they cannot be.
        """
        with exclusive(self._folder / ".flock"):
            path = self._path(tag)
            with path.open("r+b") as file:
                file.write(b"\0" * path.stat().st_size)
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _made(self, tag: str, keyring: Keyring) -> _File:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(self._folder / ".flock"):
            file = self._file(self._path(tag)) or _File(id=os.urandom(16).hex())
            if keyring.epoch not in file.epochs:
                private = X25519PrivateKey.generate()
                compartment = read_public(keyring.epochs[-1]["content"].public)
                sealed = SUITE.encrypt(private.private_bytes_raw(), compartment, self._info(file.id))
                key = SubjectKey(public=public_text(private.public_key()), sealed=b64encode(sealed).decode())
                file = file.model_copy(update={"epochs": {**file.epochs, keyring.epoch: key}})
                write_atomically(self._path(tag), file.model_dump_json().encode())
            return file

    def _by_id(self) -> dict[str, Path]:
        try:
            changed = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if self._paths[0] != changed:
            files = {path: self._file(path) for path in self._folder.glob(f"*{SUFFIX}")}
            self._paths = changed, {file.id: path for path, file in files.items() if file}
        return self._paths[1]

    def _file(self, path: Path) -> _File | None:
        try:
            changed = path.stat().st_mtime_ns
            if path not in self._read or self._read[path][0] != changed:
                file = _File.model_validate_json(path.read_bytes())
                if len(self._read) >= REMEMBERED:
                    self._read.clear()
                self._read[path] = changed, file
        except (FileNotFoundError, ValidationError):  # there is none, or it is being destroyed
            return None
        return self._read[path][1]

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}{SUFFIX}"

    def _info(self, subject: str) -> bytes:
        return f"hetero_agents key of subject {subject} of vault {self._vault}".encode()
