"""`hetero keys`: who may open the vault."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from rich.table import Table

from ..errors import UserError
from ..slots import App
from ..spans import SealedVault
from ..spans.keys import OPENS, Keyring, Reader, Role, key_file, public_text, write_key
from ..spans.sealed import FIRST_READER
from . import common
from .common import Json

keys = typer.Typer(help="Say who may open the vault.", no_args_is_help=True, rich_markup_mode=None)

Passphrase = Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase that seals the private key.")]


@keys.command()
def init(
    name: Annotated[str, typer.Option(help="The first reader, a curator.")] = FIRST_READER,
    passphrase: Passphrase = False,
    as_json: Json = False,
) -> None:
    """Make the vault's keys; without this the first run makes them, with no passphrase."""
    _, vault = open_vault()
    if vault.keyring() is not None:
        raise UserError(f"The vault {vault.folder} has keys already; `hetero keys list` shows its readers.")
    keyring = vault.made_keyring(name, _new_passphrase() if passphrase else None)
    _say(as_json, {"vault": keyring.vault, "key": str(key_file(keyring.vault, name))}, f"{name} opens {vault.folder}.")


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="The new reader's name.")],
    role: Annotated[
        str, typer.Option(help=f"{' or '.join(OPENS)}: an operator sees structure, a curator content too.")
    ],
    public: Annotated[
        Path | None, typer.Option(help="The reader's X25519 public key in PEM; without it a pair is made here.")
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From when the reader is refused (UTC).")
    ] = None,
    passphrase: Passphrase = False,
    as_json: Json = False,
) -> None:
    """Let somebody open what is there and what comes. Needs a curator's key; no span is written again."""
    vault, keyring = _keyring()
    if role not in OPENS:
        raise UserError(f"There is no role {role!r}; the roles are {' and '.join(OPENS)}.")
    kind: Role = "curator" if role == "curator" else "operator"
    private = X25519PrivateKey.generate() if public is None else None
    key = private.public_key() if private else _read_public(public or Path())
    until = expires.replace(tzinfo=UTC) if expires else None
    reader, place = Reader(role=kind, public=public_text(key), expires=until), key_file(keyring.vault, name)
    keyring.with_reader(name, reader, vault.opener())  # refused before a key is written
    if private:
        write_key(place, private, _new_passphrase() if passphrase else None)
    vault.change_keyring(lambda keyring: keyring.with_reader(name, reader, vault.opener()))
    made = f" The private key is {place}: hand it over and delete it here." if private else ""
    _say(
        as_json,
        {"reader": name, "role": kind, "key": str(place) if private else None},
        f"{name} is a {kind} now.{made}",
    )


@keys.command()
def remove(name: Annotated[str, typer.Argument(help="The reader.")], as_json: Json = False) -> None:
    """Shut a reader out of what comes; what was written before stays open to who kept the key and a copy."""
    _change(
        lambda keyring: keyring.without_reader(name),
        as_json,
        f"{name} opens nothing that is written from now on; what was written before stays open to a kept copy of that key.",
    )


@keys.command()
def rotate(as_json: Json = False) -> None:
    """Begin a new epoch: what comes is sealed to new keys, for the same readers but those who have expired."""
    _change(Keyring.with_epoch, as_json, "What is written from now on is sealed to new keys.")


@keys.command("list")
def list_readers(as_json: Json = False) -> None:
    """Show the readers, their roles and whose key is here."""
    vault, keyring = _keyring()
    rows = [
        {
            "reader": name,
            "role": reader.role,
            "expires": reader.expires.date().isoformat() if reader.expires else None,
            "key_here": key_file(keyring.vault, name).exists(),
        }
        for name, reader in keyring.readers.items()
    ]
    if as_json:
        common.print_json({"vault": keyring.vault, "epoch": keyring.epoch, "readers": rows})
        return
    table = Table(
        "reader", "opens", "expires", "key here", title=f"{vault.folder}, epoch {keyring.epoch}", title_justify="left"
    )
    for row in rows:
        opens = ", ".join(OPENS["curator" if row["role"] == "curator" else "operator"])
        table.add_row(
            str(row["reader"]),
            f"{opens} ({row['role']})",
            str(row["expires"] or "never"),
            "yes" if row["key_here"] else "no",
        )
    common.out.print(table)


def _change(change: Callable[[Keyring], Keyring], as_json: bool, sentence: str) -> None:
    vault, _ = _keyring()
    changed = vault.change_keyring(change)
    _say(as_json, {"epoch": changed.epoch, "readers": list(changed.readers)}, sentence)


def open_vault() -> tuple[App, SealedVault]:
    """Open the workspace and its vault."""
    app = common.open_app(modules=False)
    assert isinstance(app.vault, SealedVault)
    return app, app.vault


def _keyring() -> tuple[SealedVault, Keyring]:
    _, vault = open_vault()
    if (keyring := vault.keyring()) is None:
        raise UserError(f"The vault {vault.folder} has no keys yet: `hetero keys init`, or the first run, makes them.")
    return vault, keyring


def _read_public(path: Path) -> X25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no public key in PEM; openssl genpkey -algorithm X25519 makes a pair.") from error
    if not isinstance(key, X25519PublicKey):
        raise UserError(f"{path} is a key of another kind; openssl genpkey -algorithm X25519 makes one that fits.")
    return key


def _new_passphrase() -> str:
    if not sys.stdin.isatty():
        raise UserError("--passphrase asks on a terminal, and this is none.")
    first = getpass.getpass("New passphrase: ")
    if not first or first != getpass.getpass("Again: "):
        raise UserError("The passphrases differ or are empty; nothing was changed.")
    return first


def _say(as_json: bool, values: dict[str, Any], sentence: str) -> None:
    if as_json:
        common.print_json(values)
    else:
        common.out.print(sentence, soft_wrap=True, markup=False)
