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


class SubjectKey(BaseModel):
    """A subject's key of one epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public: str
    """Base64 of the 32 bytes."""
    sealed: str
    """The private key, sealed to the content compartment."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: dict[int, SubjectKey] = {}


def person_of(record: SpanRecord) -> str | None:
    """Return whose data a span holds, as it is stored; None where nobody said."""
    return next((v for key in _PERSONS if isinstance(v := record["attributes"].get(key), str) and v), None)


def tag_of(secret: bytes, person: str) -> str:
    """Return the name under which a person's keys are kept: nobody finds the person by it without the vault's secret."""
    return hmac.digest(secret, b"subject\0" + person.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:32]


class Subjects:
    """The subjects' keys of one vault."""

    def __init__(self, folder: Path, vault: str) -> None:
        """Name the folder of the keys and the vault's id."""
        self._folder = folder
        self._vault = vault
        self._read: dict[str, tuple[int, _File]] = {}

    def public(self, tag: str, keyring: Keyring) -> X25519PublicKey:
        """Return the key to which a subject's content is sealed now, made where there is none.

        Raises:
            OSError: it cannot be written.
        """
        found = self._file(tag).epochs.get(keyring.epoch)
        return read_public(found.public) if found else self._made(tag, keyring)

    def private(self, tag: str, public: str, epoch: int, opener: Opener) -> X25519PrivateKey | None:
        """Return the key that opens what was sealed to a subject's public key; None where it was destroyed.

        Raises:
            KeyAccessError: the reader opens no content.
        """
        found = self._file(tag).epochs.get(epoch)
        if found is None or found.public != public:
            return None
        raw = SUITE.decrypt(b64decode(found.sealed), opener.private("content", epoch), self._info(tag))
        return X25519PrivateKey.from_private_bytes(raw)

    def known(self, tag: str) -> bool:
        """Whether a subject has keys."""
        return self._path(tag).exists()

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

    def _made(self, tag: str, keyring: Keyring) -> X25519PublicKey:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(self._folder / ".flock"):
            file = self._file(tag)
            if (found := file.epochs.get(keyring.epoch)) is None:
                private = X25519PrivateKey.generate()
                compartment = read_public(keyring.epochs[-1]["content"].public)
                sealed = SUITE.encrypt(private.private_bytes_raw(), compartment, self._info(tag))
                found = SubjectKey(public=public_text(private.public_key()), sealed=b64encode(sealed).decode())
                file = _File(epochs={**file.epochs, keyring.epoch: found})
                write_atomically(self._path(tag), file.model_dump_json().encode())
            return read_public(found.public)

    def _file(self, tag: str) -> _File:
        path = self._path(tag)
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return _File()
        if tag not in self._read or self._read[tag][0] != changed:
            try:
                file = _File.model_validate_json(path.read_bytes())
            except (ValidationError, FileNotFoundError):  # being destroyed
                file = _File()
            self._read[tag] = changed, file
        return self._read[tag][1]

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}{SUFFIX}"

    def _info(self, tag: str) -> bytes:
        return f"hetero_agents key of subject {tag} of vault {self._vault}".encode()
