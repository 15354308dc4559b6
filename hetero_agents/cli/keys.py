"""`hetero keys`: who may open the vault."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ValidationError
from rich.table import Table

from ..bindings.lock import write_atomically
from ..errors import IntegrityError, UserError
from ..slots import App
from ..spans import SealedVault, audit
from ..spans.keyfiles import key_file, write_key
from ..spans.keys import OPENS, KeyInMemory, Keyring, Reader, Role, public_text
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
        str,
        typer.Option(
            help=f"{', '.join(OPENS)}: an operator sees structure, a curator content too, an auditor neither."
        ),
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
    roles: dict[str, Role] = {kind: kind for kind in OPENS}
    if (kind := roles.get(role)) is None:
        raise UserError(f"There is no role {role!r}; the roles are {', '.join(OPENS)}.")
    private = X25519PrivateKey.generate() if public is None else None
    key = private.public_key() if private else _read_public(public or Path())
    until = expires.replace(tzinfo=UTC) if expires else None
    reader, place = Reader(role=kind, public=public_text(key), expires=until), key_file(keyring.vault, name)
    keyring.with_reader(name, reader, vault.opener())  # refused before a key is written
    if private:
        write_key(place, private, _new_passphrase() if passphrase else None)
    vault.record("add a reader", reader=name, role=kind)
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
        "remove a reader",
        {"reader": name},
        as_json,
        f"{name} opens nothing that is written from now on; what was written before stays open to a kept copy of that key.",
    )


@keys.command()
def rotate(as_json: Json = False) -> None:
    """Begin a new epoch: what comes is sealed to new keys, for the same readers but those who have expired."""
    _change(Keyring.with_epoch, "begin an epoch", {}, as_json, "What is written from now on is sealed to new keys.")


@keys.command("list")
def list_readers(as_json: Json = False) -> None:
    """Show the readers, their roles and whose key is here."""
    vault, keyring = _keyring()
    rows: list[dict[str, Any]] = [
        {
            "reader": name,
            "role": reader.role,
            "opens": OPENS[reader.role],
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
        table.add_row(
            str(row["reader"]),
            f"{', '.join(row['opens']) or 'nothing'} ({row['role']})",
            str(row["expires"] or "never"),
            "yes" if row["key_here"] else "no",
        )
    common.out.print(table)


@keys.command("audit")
def show_audit(
    limit: Annotated[int, typer.Option("-n", min=1, help="How many lines, newest last.")] = 20,
    sign: Annotated[
        Path | None, typer.Option(help="Write the signed head of the record to this file; keep it elsewhere.")
    ] = None,
    check: Annotated[Path | None, typer.Option(help="Say whether the record still holds a head signed before.")] = None,
    as_json: Json = False,
) -> None:
    """Show who opened what and when, and whether the record is whole."""
    vault, keyring = _keyring()
    record = audit.read(vault.folder)
    if sign is not None:
        _refuse_broken(record)
        head = audit.head_of(record, keyring.vault, vault.opener().name).signed(_own_key(vault))
        write_atomically(sign, (head.model_dump_json(indent=1) + "\n").encode())
    if check is not None:
        _check_head(vault, keyring, record, check)
    if as_json:
        common.print_json(
            {
                "lines": len(record.hashes),
                "broken": record.broken,
                "torn": record.torn,
                "entries": [entry.model_dump() for entry in record.entries[-limit:]],
            }
        )
    else:
        table = Table("n", "when", "who", "did", "about")
        for entry in record.entries[-limit:]:
            who = f"{entry.reader} ({entry.role})" if entry.reader else f"account {entry.uid}"
            about = ", ".join(f"{key} {_short(value)}" for key, value in entry.about.items())
            table.add_row(str(entry.n), entry.time[:19].replace("T", " "), who, entry.did, about)
        common.out.print(table)
        if sign is not None:
            common.out.print(f"The head of {len(record.hashes)} lines is signed in {sign}: keep it elsewhere.")
        elif check is not None:
            common.out.print("The record holds that head, so nothing before it was cut or written anew.")
    _refuse_broken(record)


def _short(value: Any) -> str:
    if isinstance(value, list):
        items = [str(item)[:12] for item in cast("list[Any]", value)]
        return " ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
    return str(value)


def _refuse_broken(record: audit.Record) -> None:
    if record.broken:
        raise IntegrityError(f"The record of openings is broken: {'; '.join(record.broken[:5])}.")


def _check_head(vault: SealedVault, keyring: Keyring, record: audit.Record, path: Path) -> None:
    try:
        head = audit.Head.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is no signed head; `hetero keys audit --sign FILE` writes one.") from error
    if head.vault != keyring.vault:
        raise IntegrityError(f"{path} is of another vault, or this vault's keyring was replaced.")
    if head.reader != vault.opener().name:
        raise UserError(f"{path} was signed by {head.reader!r}; it is checked with that reader's key.")
    head.check(_own_key(vault))
    if not audit.holds(record, head):
        raise IntegrityError(
            f"The record of openings does not hold line {head.n} as it was signed on {head.time}: it was cut or written anew."
        )


def _own_key(vault: SealedVault) -> X25519PrivateKey:
    secret = vault.opener().secret
    if not isinstance(secret, KeyInMemory):
        raise UserError("Signing needs a reader's key in a file or in HETERO_KEY; a key service signs nothing here.")
    return secret.key


def _change(
    change: Callable[[Keyring], Keyring], did: str, about: dict[str, Any], as_json: bool, sentence: str
) -> None:
    vault, keyring = _keyring()
    change(keyring)  # refused, and a passphrase asked for, before others have to wait
    changed = vault.change_keyring(change, did, **about)
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
