"""Secret keys, in files of this account or in the environment: readers' private keys, and the agent's symmetric one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ..bindings.lock import exclusive, write_atomically
from ..errors import HeteroError, KeyAccessError
from .keys import OPENS, KeyInMemory, Keyring, Opener, public_text

KEY_VARIABLE: Final = "HETERO_KEY"
"""A reader's private key (PEM) in the environment."""

PASSPHRASE_VARIABLE: Final = "HETERO_PASSPHRASE"

Ask = Callable[[], str]
"""Asks a person for a passphrase."""


def keys_dir() -> Path:
    """Return the folder of this account's private keys: `HETERO_KEYS`, else in `XDG_CONFIG_HOME` or `~/.config`."""
    if own := os.environ.get("HETERO_KEYS"):
        return Path(own)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hetero_agents" / "keys"


def key_file(vault: str, name: str) -> Path:
    """Return where a reader's private key lies."""
    return keys_dir() / f"{vault}.{name}.pem"


def write_key(path: Path, private: X25519PrivateKey, passphrase: str | None) -> None:
    """Write a private key as PKCS #8, readable by its owner only; never over another.

    Raises:
        HeteroError: it cannot be written.
    """
    sealing = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
    except OSError as error:
        raise HeteroError(
            f"The key {path} cannot be written ({error.strerror}); set HETERO_KEYS to a folder of yours outside the workspace."
        ) from error


AGENT_KEY_VARIABLE: Final = "HETERO_AGENT_KEY"
"""The agent's symmetric key in the environment: 64 hexadecimal digits."""


def agent_key(vault: Callable[[], str]) -> bytes:
    """Return the 32 bytes with which an agent seals what it must read again. They open nothing of the vault.

    They come from `HETERO_AGENT_KEY`, else from a file in `keys_dir()` that is made at the first use.

    Args:
        vault: gives the vault's id, which names the file.

    Raises:
        KeyAccessError: the key is none, or others can read its file.
        HeteroError: the file cannot be read, or made.
    """
    if (text := os.environ.get(AGENT_KEY_VARIABLE)) is None:
        try:
            path = keys_dir() / f"{vault()}.agent.key"
            if not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with exclusive(path.with_name(f".{path.name}.flock")):
                    if not path.exists():
                        write_atomically(path, os.urandom(32).hex().encode(), mode=0o600)
            _refuse_open_file(path, "and delete it if they may have, which ends what it sealed")
            text = path.read_text("latin-1")
        except OSError as error:
            raise HeteroError(
                f"The agent's key cannot be had ({error}); set {AGENT_KEY_VARIABLE} or HETERO_KEYS."
            ) from error
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise KeyAccessError("The agent's key is not 64 hexadecimal digits; make one with `openssl rand -hex 32`.")
    return key


def find_opener(keyring: Keyring, ask: Ask | None = None) -> Opener:
    """Return the reader that this account can be: a key in the environment, else the first key file that is there.

    Args:
        keyring: the vault's.
        ask: for the passphrase of a key file, where `HETERO_PASSPHRASE` is not set.

    Raises:
        KeyAccessError: there is no key, or none that fits.
    """
    if (pem := os.environ.get(KEY_VARIABLE)) is not None:
        private = _private(pem.encode(), f"The key in {KEY_VARIABLE}", ask)
        return Opener(keyring, _owner(keyring, private, f"the key in {KEY_VARIABLE}"), KeyInMemory(private))
    for name in sorted(keyring.readers, key=lambda name: len(OPENS[keyring.readers[name].role]), reverse=True):
        path = key_file(keyring.vault, name)
        if path.exists():
            _refuse_open_file(path, "and rotate if they may have")
            private = _private(path.read_bytes(), str(path), ask)
            return Opener(keyring, _owner(keyring, private, str(path)), KeyInMemory(private))
    raise KeyAccessError(
        f"No key here opens this vault: none in {keys_dir()} is of its readers ({', '.join(keyring.readers) or 'it has none'}); "
        f"set HETERO_KEYS or {KEY_VARIABLE}, or ask a curator for `hetero keys add`."
    )


def _refuse_open_file(path: Path, advice: str) -> None:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyAccessError(f"Others can read the key {path}: chmod 600 it, {advice}.")


def _private(pem: bytes, what: str, ask: Ask | None) -> X25519PrivateKey:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if b"ENCRYPTED" in pem and passphrase is None:
        if ask is None:
            raise KeyAccessError(f"{what} has a passphrase; set {PASSPHRASE_VARIABLE}.")
        passphrase = ask()
    try:
        key = load_pem_private_key(pem, passphrase.encode() if passphrase and b"ENCRYPTED" in pem else None)
    except (ValueError, TypeError) as error:
        raise KeyAccessError(f"{what} is no private key in PEM, or its passphrase is another.") from error
    if not isinstance(key, X25519PrivateKey):
        raise KeyAccessError(f"{what} is a key of another kind; a reader's is X25519.")
    return key


def _owner(keyring: Keyring, private: X25519PrivateKey, what: str) -> str:
    public = public_text(private.public_key())
    for name, reader in keyring.readers.items():
        if reader.public == public:
            return name
    raise KeyAccessError(f"No reader of this vault has {what}; ask a curator for `hetero keys add`.")
