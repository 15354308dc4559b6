"""The record of who opened what and when: chained, and signed so that cutting it shows."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hetero_agents.errors import HeteroError, IntegrityError
from hetero_agents.spans import SealedVault, audit, calls_of
from hetero_agents.spans.keys import KeyInMemory

from .support import Hetero, call_span, in_processes, write_workspace


@pytest.fixture
def vault(tmp_path: Path) -> SealedVault:
    vault = SealedVault(tmp_path / ".hetero" / "vault")
    vault.write([call_span(trace, 1) for trace in "abc"])
    return vault


@pytest.fixture
def command(hetero: Hetero, tmp_path: Path, vault: SealedVault) -> Hetero:
    write_workspace(tmp_path)
    return hetero


def lines(vault: SealedVault) -> list[bytes]:
    return (vault.folder / audit.NAME).read_bytes().splitlines(keepends=True)


def rewrite(vault: SealedVault, changed: list[bytes]) -> None:
    (vault.folder / audit.NAME).write_bytes(b"".join(changed))


def test_writing_is_no_opening(vault: SealedVault) -> None:
    assert audit.read(vault.folder).entries == []


def test_each_opening_is_a_line_before_anything_is_given(vault: SealedVault) -> None:
    next(vault.read(slot="desk.classify"))
    list(vault.read(traces=["b", "a"]))
    list(calls_of(vault, "no.such"))
    first, second = audit.read(vault.folder).entries
    assert (first.n, first.reader, first.role, first.did) == (1, "owner", "curator", "read")
    assert first.about == {"opens": ["structure", "content"], "records": 3, "slot": "desk.classify"}
    assert second.about == {"opens": ["structure", "content"], "records": 2, "runs": ["a", "b"]}


def test_what_cannot_be_recorded_is_not_opened(vault: SealedVault) -> None:
    (vault.folder / audit.NAME).mkdir()
    with pytest.raises(HeteroError, match="so nothing was opened"):
        next(vault.read())


def test_a_changed_or_missing_line_shows(vault: SealedVault) -> None:
    for _ in range(4):
        list(vault.read())
    whole = lines(vault)
    assert audit.read(vault.folder).broken == []
    rewrite(vault, [whole[0], whole[1].replace(b"owner", b"other"), *whole[2:]])
    assert audit.read(vault.folder).broken == ["line 3 does not follow the line before it"]
    rewrite(vault, [whole[0], *whole[2:]])
    assert audit.read(vault.folder).broken[0] == "line 2 says that it is number 3"
    rewrite(vault, [*whole[:3], whole[3][:20]])
    assert (audit.read(vault.folder).broken, audit.read(vault.folder).torn) == ([], [4])
    list(vault.read())
    assert (audit.read(vault.folder).broken, audit.read(vault.folder).torn) == ([], [4]), "the chain goes on over it"
    rewrite(vault, [whole[0], b"nonsense\n", *whole[2:]])
    assert audit.read(vault.folder).broken == ["line 3 does not follow the line before it"]


def test_a_record_that_was_cut_does_not_hold_a_head_signed_before(vault: SealedVault) -> None:
    for _ in range(3):
        list(vault.read())
    secret = vault.opener().secret
    assert isinstance(secret, KeyInMemory)
    head = audit.head_of(audit.read(vault.folder), "v", "owner").signed(secret.key)
    list(vault.read())
    assert audit.holds(audit.read(vault.folder), head)
    rewrite(vault, lines(vault)[:2])
    assert audit.read(vault.folder).broken == [], "the chain alone does not show it"
    assert not audit.holds(audit.read(vault.folder), head)
    list(vault.read())
    assert not audit.holds(audit.read(vault.folder), head), "nor when others were added"
    head.check(secret.key)
    for other in (head.model_copy(update={"n": 2}), head.model_copy(update={"signature": "AA=="})):
        with pytest.raises(IntegrityError):
            other.check(secret.key)
    with pytest.raises(IntegrityError):
        head.check(X25519PrivateKey.generate())


def open_often(folder: str) -> None:
    for _ in range(20):
        list(SealedVault(Path(folder)).read())


def test_processes_that_open_at_once_make_one_chain(vault: SealedVault) -> None:
    in_processes(open_often, (str(vault.folder),), (str(vault.folder),))
    record = audit.read(vault.folder)
    assert (len(record.entries), record.broken) == (40, [])


# -- the command line ------------------------------------------------------------------------------


def test_the_command_line_shows_signs_and_checks(command: Hetero, vault: SealedVault, tmp_path: Path) -> None:
    command("traces")
    command("keys", "add", "olga", "--role", "auditor")
    shown = command("keys", "audit", "--json").json
    assert [entry["did"] for entry in shown["entries"]] == ["read", "add a reader"]
    assert shown["entries"][1]["about"] == {"reader": "olga", "role": "auditor"}
    head = tmp_path / "head.json"
    assert "signed in" in command("keys", "audit", "--sign", str(head)).out
    command("traces")
    assert "The record holds that head" in command("keys", "audit", "--check", str(head)).out
    rewrite(vault, lines(vault)[:1])
    cut = command("keys", "audit", "--check", str(head))
    assert (cut.code, "it was cut or written anew" in cut.err) == (1, True)
    head.write_text("{}")
    assert "is no signed head" in command("keys", "audit", "--check", str(head)).sentence


def test_a_broken_record_is_a_failure(command: Hetero, vault: SealedVault) -> None:
    command("traces")
    command("traces")
    rewrite(vault, lines(vault)[1:])
    done = command("keys", "audit")
    assert done.code == 1 and "line 1 says that it is number 2" in done.err


def test_an_auditor_sees_the_record_and_no_span(
    command: Hetero, vault: SealedVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("traces")
    made = Path(command("keys", "add", "olga", "--role", "auditor", "--json").json["key"])
    monkeypatch.setenv("HETERO_KEY", made.read_text())
    refused = command("traces")
    assert refused.code == 1 and "'olga' (auditor) cannot open structure" in refused.err
    head = tmp_path / "head.json"
    assert command("keys", "audit", "--sign", str(head)).code == 0
    assert json.loads(head.read_text())["reader"] == "olga"
    assert command("keys", "audit", "--check", str(head)).code == 0
    monkeypatch.delenv("HETERO_KEY")
    assert (
        "was signed by 'olga'; it is checked with that reader's key"
        in command("keys", "audit", "--check", str(head)).sentence
    )


def test_changes_of_readers_are_recorded(command: Hetero, vault: SealedVault) -> None:
    command("keys", "add", "eve", "--role", "operator")
    command("keys", "remove", "eve")
    command("keys", "rotate")
    command("keys", "remove", "nobody")
    entries = audit.read(vault.folder).entries
    assert [entry.did for entry in entries] == ["add a reader", "remove a reader", "begin an epoch"]
