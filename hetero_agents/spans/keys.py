"""Who can open what in the vault: compartments, readers and their keys.

Each part of a span is encrypted with AES-256-GCM under a key of its batch, which is thrown away and
stands beside the part sealed with HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM) to the public key
of a *compartment*: whoever writes needs no secret and cannot read back. A compartment's private
key is itself sealed to the public key of each reader who may open it: changing readers seals keys
again and rewrites no span. Each change that takes something away begins a new *epoch* of compartment
keys, which protects what comes after it.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import HeteroError, KeyAccessError, UnknownNameError, UserError

Compartment = Literal["structure", "content"]
Role = Literal["operator", "curator", "auditor"]

OPENS: Final[dict[Role, tuple[Compartment, ...]]] = {
    "operator": ("structure",),
    "curator": ("structure", "content"),
    "auditor": (),
}
"""Which compartments a role opens: operators see structure, curators content too, auditors the record of openings alone."""

SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

SEALED_KEY_BYTES: Final = 80
"""32 of the encapsulated key, 32 of the key, 16 of the tag."""

NONCE_BYTES: Final = 12

FORMAT: Final = 1


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CompartmentKey(_Form):
    """One compartment's key in one epoch."""

    public: str
    """Base64 of the 32 bytes."""
    sealed: dict[str, str]
    """By reader: the private key, sealed to the reader's public key."""


class Reader(_Form):
    """Somebody who may open compartments."""

    role: Role
    public: str
    """Base64 of the 32 bytes."""
    expires: datetime | None = None
    """From when this reader is refused and left out of new epochs."""


class Keyring(_Form):
    """The public half of a vault's keys: nothing in it is secret.

    Attributes:
        format: version of this form.
        vault: the vault's id, a name for its readers' key files.
        epochs: compartment keys, the current epoch last.
        readers: by name.
    """

    format: int = FORMAT
    vault: str
    epochs: list[dict[Compartment, CompartmentKey]]
    readers: dict[str, Reader]

    @classmethod
    def read(cls, path: Path) -> Keyring:
        """Read a keyring.

        Raises:
            HeteroError: it is broken, or of a later version.
        """
        try:
            keyring = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise HeteroError(
                f"The keyring {path} cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']}); restore it from a copy: without it the vault stays sealed."
            ) from error
        except OSError as error:
            raise HeteroError(f"The keyring {path} cannot be read ({error.strerror}).") from error
        if keyring.format != FORMAT:
            raise HeteroError(
                f"The vault of {path} is of a later version (form {keyring.format}); update hetero_agents."
            )
        return keyring

    @property
    def epoch(self) -> int:
        """The current epoch's number."""
        return len(self.epochs) - 1

    def batch_key(self, compartment: Compartment) -> BatchKey:
        """Return a new key that whoever opens a compartment in the current epoch can open."""
        return BatchKey(compartment, read_public(self.epochs[-1][compartment].public))

    def with_epoch(self) -> Keyring:
        """Return a keyring with a new epoch, for the readers who have not expired."""
        now = datetime.now(UTC)
        readers = {name: reader for name, reader in self.readers.items() if not _expired(reader, now)}
        keys: dict[Compartment, CompartmentKey] = {}
        for compartment in get_args(Compartment):
            private = X25519PrivateKey.generate()
            sealed = {
                name: _seal_key(private, reader, self.vault)
                for name, reader in readers.items()
                if compartment in OPENS[reader.role]
            }
            keys[compartment] = CompartmentKey(public=public_text(private.public_key()), sealed=sealed)
        return self.model_copy(update={"epochs": [*self.epochs, keys]})

    def with_reader(self, name: str, reader: Reader, by: Opener) -> Keyring:
        """Return a keyring with one more reader, who can open all that is there and all that comes.

        Args:
            name: the reader's name.
            reader: the reader.
            by: somebody who can open what the new reader's role opens.

        Raises:
            UserError: the name is taken.
            KeyAccessError: `by` cannot open it.
        """
        if not re.fullmatch(r"[\w.@-]+", name) or name.startswith("."):  # it names a file
            raise UserError(f"{name!r} cannot be a reader's name: use letters, digits, and . _ - @.")
        if name in self.readers:
            raise UserError(f"There is a reader {name!r} already; remove it first, or give the new one another name.")
        epochs: list[dict[Compartment, CompartmentKey]] = []
        for number, keys in enumerate(self.epochs):
            more: dict[Compartment, CompartmentKey] = {
                compartment: key.model_copy(
                    update={
                        "sealed": {**key.sealed, name: _seal_key(by.private(compartment, number), reader, self.vault)}
                    }
                )
                for compartment, key in keys.items()
                if compartment in OPENS[reader.role]
            }
            epochs.append({**keys, **more})
        return self.model_copy(update={"readers": {**self.readers, name: reader}, "epochs": epochs})

    def without_reader(self, name: str) -> Keyring:
        """Return a keyring in whose new epoch a reader opens nothing; what was written before stays open to who kept a copy.

        Raises:
            UnknownNameError: there is no such reader.
        """
        if name not in self.readers:
            raise UnknownNameError("reader", name, self.readers)
        readers = {other: reader for other, reader in self.readers.items() if other != name}
        epochs = [
            {
                compartment: key.model_copy(update={"sealed": {n: s for n, s in key.sealed.items() if n != name}})
                for compartment, key in keys.items()
            }
            for keys in self.epochs
        ]
        return self.model_copy(update={"readers": readers, "epochs": epochs}).with_epoch()


class BatchKey:
    """A key for one batch of records of one compartment; it is gone with the batch, only its sealed form stays."""

    def __init__(self, compartment: Compartment, public: X25519PublicKey) -> None:
        key = AESGCM.generate_key(256)
        self._compartment = compartment.encode()
        self._sealed = SUITE.encrypt(key, public, self._compartment)
        self._cipher = AESGCM(key)
        self._count = 0

    def seal(self, plain: bytes, info: bytes) -> bytes:
        """Seal a part, whole in itself: the sealed key, the nonce, then the ciphertext.

        Args:
            plain: what.
            info: what the seal is bound to; opening needs the same.
        """
        nonce = self._count.to_bytes(NONCE_BYTES, "big")  # never twice under this key
        self._count += 1
        return self._sealed + nonce + self._cipher.encrypt(nonce, plain, info + self._compartment)


def new_keyring(name: str, public: X25519PublicKey, role: Role = "curator") -> Keyring:
    """Return the keyring of a new vault with its first reader."""
    reader = Reader(role=role, public=public_text(public))
    return Keyring(vault=os.urandom(8).hex(), epochs=[], readers={name: reader}).with_epoch()


class Secret(Protocol):
    """A reader's private half: a key in memory, or a service that keeps it (a KMS)."""

    def decrypt(self, sealed: bytes, info: bytes) -> bytes:
        """Open what was sealed with `SUITE` to the reader's public key.

        Raises:
            InvalidTag: it was sealed to another key, or for another `info`.
        """
        ...


@dataclass(frozen=True)
class KeyInMemory:
    """A private key that was read from a file or the environment."""

    key: X25519PrivateKey

    def decrypt(self, sealed: bytes, info: bytes) -> bytes:
        """Open."""
        return SUITE.decrypt(sealed, self.key, info)


@dataclass
class Opener:
    """A reader with a secret, who opens what the role allows."""

    keyring: Keyring
    name: str
    secret: Secret
    _keys: dict[tuple[Compartment, int], X25519PrivateKey] = field(
        default_factory=dict[tuple[Compartment, int], X25519PrivateKey], repr=False
    )
    _batch: dict[Compartment, tuple[bytes, AESGCM]] = field(
        default_factory=dict[Compartment, "tuple[bytes, AESGCM]"], repr=False
    )
    """The batch key that was opened last: records of a batch stand beside each other."""

    def __post_init__(self) -> None:
        reader = self.keyring.readers.get(self.name)
        if reader is None:
            raise KeyAccessError(f"The vault has no reader {self.name!r} any more; ask one of its curators.")
        if _expired(reader, datetime.now(UTC)):
            raise KeyAccessError(f"The reader {self.name!r} expired on {reader.expires:%Y-%m-%d}; ask a curator.")
        self.role: Role = reader.role

    def opens(self, compartment: Compartment) -> bool:
        """Return whether the role opens a compartment."""
        return compartment in OPENS[self.role]

    def open(
        self,
        compartment: Compartment,
        epoch: int,
        sealed: bytes,
        info: bytes,
        private: X25519PrivateKey | None = None,
    ) -> bytes:
        """Open what `BatchKey.seal` sealed.

        Args:
            compartment: what it is of.
            epoch: when it was sealed.
            sealed: what.
            info: what the seal is bound to.
            private: the subject's key, where it is sealed to one; else the compartment's is used.

        Raises:
            KeyAccessError: the role or the key does not open it.
            InvalidTag: it was changed.
        """
        key = sealed[:SEALED_KEY_BYTES]
        if compartment not in self._batch or self._batch[compartment][0] != key:
            opened = SUITE.decrypt(key, private or self.private(compartment, epoch), compartment.encode())
            self._batch[compartment] = key, AESGCM(opened)
        nonce = sealed[SEALED_KEY_BYTES : SEALED_KEY_BYTES + NONCE_BYTES]
        text = sealed[SEALED_KEY_BYTES + NONCE_BYTES :]
        return self._batch[compartment][1].decrypt(nonce, text, info + compartment.encode())

    def private(self, compartment: Compartment, epoch: int) -> X25519PrivateKey:
        """Return a compartment's private key.

        Raises:
            KeyAccessError: the role or the key does not open it.
        """
        if (known := self._keys.get((compartment, epoch))) is not None:
            return known
        sealed = self.keyring.epochs[epoch][compartment].sealed.get(self.name)
        if sealed is None:
            raise KeyAccessError(
                f"The reader {self.name!r} ({self.role}) cannot open {compartment} of epoch {epoch}; a curator can."
            )
        try:
            raw = self.secret.decrypt(b64decode(sealed), _info(self.keyring.vault))
        except InvalidTag as error:
            raise KeyAccessError(f"The key given for {self.name!r} is not that reader's key.") from error
        key = self._keys[compartment, epoch] = X25519PrivateKey.from_private_bytes(raw)
        return key


def _expired(reader: Reader, now: datetime) -> bool:
    return reader.expires is not None and reader.expires <= now


def _seal_key(private: X25519PrivateKey, reader: Reader, vault: str) -> str:
    return b64encode(SUITE.encrypt(private.private_bytes_raw(), read_public(reader.public), _info(vault))).decode()


def _info(vault: str) -> bytes:
    return f"hetero_agents compartment key of vault {vault}".encode()


def public_text(public: X25519PublicKey) -> str:
    """Return a public key as the keyring holds it."""
    return b64encode(public.public_bytes_raw()).decode()


def read_public(text: str) -> X25519PublicKey:
    """Return a public key that a keyring holds."""
    return X25519PublicKey.from_public_bytes(b64decode(text))
