"""Who can open the vault, and what it takes to lose a record."""

import base64
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hetero_agents import HeteroError, KeyAccessError, UserError
from hetero_agents.spans import Feedback, SealedVault, calls_of
from hetero_agents.spans.keyfiles import key_file, write_key
from hetero_agents.spans.keys import Keyring, Reader, Role, public_text

from .support import call_span, span

SECRET = "Ada Lovelace, ada@example.org"


@pytest.fixture
def vault(tmp_path: Path) -> SealedVault:
    return SealedVault(tmp_path / "vault")


@pytest.fixture(autouse=True)
def own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERO_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def again(vault: SealedVault) -> SealedVault:
    """The vault as another process sees it."""
    return SealedVault(vault.folder)


def keyring(vault: SealedVault) -> Keyring:
    made = vault.keyring()
    assert made is not None
    return made


def add(vault: SealedVault, name: str, role: Role, expires: datetime | None = None) -> X25519PrivateKey:
    private = X25519PrivateKey.generate()
    reader = Reader(role=role, public=public_text(private.public_key()), expires=expires)
    vault.change_keyring(lambda keyring: keyring.with_reader(name, reader, vault.opener()))
    return private


def become(vault: SealedVault, name: str, private: X25519PrivateKey, own_keys: Path) -> SealedVault:
    """The vault as an account sees it that has one reader's key alone."""
    for path in own_keys.iterdir():
        path.unlink()
    write_key(key_file(keyring(vault).vault, name), private, None)
    return again(vault)


# -- what stands on the disk -----------------------------------------------------------------------


def test_nothing_of_content_stands_on_the_disk(vault: SealedVault) -> None:
    foreign = span("b", 1, note=SECRET) | {"scope": "another library", "name": SECRET, "message": SECRET}
    event = {"name": SECRET, "time": 1, "attributes": {"text": SECRET}}
    vault.write([call_span("a", 1, input=f'{{"text": "{SECRET}"}}', output=SECRET, subject=SECRET), foreign])  # type: ignore[list-item]
    vault.write([span("c", 1) | {"events": [event], "resource": {"host": SECRET}, "links": [event]}])  # type: ignore[list-item]
    vault.say(Feedback("a", "a01", None, SECRET, True, 1))
    stored = b"".join(path.read_bytes() for path in vault.folder.rglob("*") if path.is_file())
    forms = [
        SECRET.encode(),
        SECRET.encode("utf-16-le"),
        base64.b64encode(SECRET.encode()),
        b"example.org",
        b"Lovelace",
    ]
    assert [form for form in forms if form in stored] == []
    assert SECRET in str(list(again(vault).read()))


def test_an_account_without_a_key_writes_and_reads_nothing_back(vault: SealedVault, own_keys: Path) -> None:
    vault.write([span("a", 1)])
    for path in own_keys.iterdir():
        path.unlink()
    agent = again(vault)
    agent.write([span("a", 2)])
    with pytest.raises(KeyAccessError, match="No key here opens this vault"):
        list(agent.read())


def test_the_first_write_says_where_the_key_is(
    vault: SealedVault, own_keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vault.write([span("a", 1)])
    (path,) = own_keys.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in caplog.text
    assert "protects copies of the disk, not against this account" in caplog.text


# -- readers ---------------------------------------------------------------------------------------


def test_an_operator_sees_structure_and_no_content(vault: SealedVault, own_keys: Path) -> None:
    vault.write([call_span("a", 1, binding="big", subject=SECRET), span("b", 1) | {"message": SECRET}])  # type: ignore[list-item]
    vault.say(Feedback("a", "a01", 0.5, SECRET, True, 1))
    operator = become(vault, "op", add(vault, "op", "operator"), own_keys)
    seen = list(operator.read())
    assert [s["attributes"].get("hetero.binding") for s in seen] == ["big", None]
    assert {s.get("withheld") for s in seen} == {True}
    assert SECRET not in str(seen)
    assert [(said.score, said.answer, said.has_answer) for said in operator.feedback()] == [(0.5, None, False)]
    with pytest.raises(KeyAccessError, match="which your key does not open; a curator's does"):
        list(calls_of(operator, "desk.classify"))


def test_a_new_curator_opens_what_was_there_and_no_span_is_written_again(vault: SealedVault, own_keys: Path) -> None:
    vault.write([span("a", 1)])
    before = {path: path.read_bytes() for path in vault.folder.glob("*.spans")}
    curator = become(vault, "eve", add(vault, "eve", "curator"), own_keys)
    assert [s["span_id"] for s in curator.read()] == ["a01"]
    assert {path: path.read_bytes() for path in vault.folder.glob("*.spans")} == before


def test_a_removed_reader_opens_nothing_that_comes_after(vault: SealedVault, own_keys: Path, tmp_path: Path) -> None:
    vault.write([span("a", 1)])
    eve = add(vault, "eve", "curator")
    kept = keyring(vault)
    vault.change_keyring(lambda keyring: keyring.without_reader("eve"))
    vault.write([span("a", 2)])
    assert [s["start"] for s in again(vault).read()] == [1, 2]
    removed = become(vault, "eve", eve, own_keys)
    with pytest.raises(KeyAccessError):
        list(removed.read())
    # With a copy of the old keyring the old spans still open, as `hetero keys remove` says; the new ones do not.
    vault.change_keyring(lambda now: kept.model_copy(update={"epochs": [*kept.epochs, now.epochs[-1]]}))
    with pytest.raises(KeyAccessError, match="cannot open structure of epoch 1"):
        list(again(vault).read())


def test_after_a_rotation_everything_is_still_read_and_writers_follow(vault: SealedVault) -> None:
    writer = again(vault)
    writer.write([span("a", 1)])
    vault.change_keyring(Keyring.with_epoch)
    writer.write([span("a", 2)])
    assert keyring(vault).epoch == 1
    assert [s["start"] for s in again(vault).read()] == [1, 2]


def test_an_expired_reader_is_refused_and_left_out_of_new_epochs(vault: SealedVault, own_keys: Path) -> None:
    vault.write([span("a", 1)])
    old = add(vault, "old", "curator", datetime.now(UTC) - timedelta(days=1))
    vault.change_keyring(Keyring.with_epoch)
    assert "old" not in keyring(vault).epochs[-1]["content"].sealed
    with pytest.raises(KeyAccessError, match="expired on"):
        list(become(vault, "old", old, own_keys).read())


def test_an_operator_cannot_make_a_curator(vault: SealedVault, own_keys: Path) -> None:
    vault.write([span("a", 1)])
    operator = become(vault, "op", add(vault, "op", "operator"), own_keys)
    with pytest.raises(KeyAccessError, match="cannot open content"):
        add(operator, "eve", "curator")


def test_a_name_is_given_once(vault: SealedVault) -> None:
    vault.write([span("a", 1)])
    with pytest.raises(UserError, match="There is a reader 'owner' already"):
        add(vault, "owner", "operator")


# -- keys that do not open it ----------------------------------------------------------------------


def test_a_key_in_the_environment_opens(vault: SealedVault, own_keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.write([span("a", 1)])
    (path,) = own_keys.iterdir()
    monkeypatch.setenv("HETERO_KEY", path.read_text())
    path.unlink()
    assert len(list(again(vault).read())) == 1


def broken(path: Path) -> None:
    path.write_text("no key")


def open_to_all(path: Path) -> None:
    path.chmod(0o644)


def anothers(path: Path) -> None:
    path.unlink()
    write_key(path, X25519PrivateKey.generate(), None)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (broken, "is no private key in PEM, or its passphrase is another"),
        (open_to_all, "Others can read the key"),
        (anothers, "No reader of this vault has"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_sentence(
    vault: SealedVault, own_keys: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    vault.write([span("a", 1)])
    (path,) = own_keys.iterdir()
    harm(path)
    with pytest.raises(KeyAccessError, match=sentence):
        list(again(vault).read())


def test_a_passphrase_is_asked_for_and_must_be_right(
    vault: SealedVault, own_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.made_keyring(passphrase="open sesame")
    vault.write([span("a", 1)])
    (path,) = own_keys.iterdir()
    assert b"ENCRYPTED" in path.read_bytes()
    with pytest.raises(KeyAccessError, match="has a passphrase; set HETERO_PASSPHRASE"):
        list(again(vault).read())
    assert len(list(SealedVault(vault.folder, ask=lambda: "open sesame").read())) == 1
    monkeypatch.setenv("HETERO_PASSPHRASE", "open barley")
    with pytest.raises(KeyAccessError, match="its passphrase is another"):
        list(again(vault).read())


def test_a_keyring_of_a_later_version_is_one_sentence(vault: SealedVault) -> None:
    vault.write([span("a", 1)])
    text = vault.keyring_path.read_text()
    vault.keyring_path.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(HeteroError, match="later version"):
        list(again(vault).read())
    vault.keyring_path.write_text(text[: len(text) // 2])
    with pytest.raises(HeteroError, match="restore it from a copy"):
        list(again(vault).read())


# -- damage ----------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_costs_its_record_and_no_other(vault: SealedVault) -> None:
    for number in range(1, 4):
        vault.write([span("a", number, note="x" * 20)])
    vault.close()
    (path,) = vault.folder.glob("*.spans")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        starts = [s["start"] for s in again(vault).read()]
        assert len(starts) == 2, place
        assert set(starts) < {1, 2, 3}


def test_a_torn_tail_is_said_and_what_comes_after_is_read(vault: SealedVault, caplog: pytest.LogCaptureFixture) -> None:
    vault.write([span("a", 1)])
    vault.write([span("a", 2)])
    vault.close()
    (path,) = vault.folder.glob("*.spans")
    path.write_bytes(path.read_bytes()[:-5])
    reader = again(vault)
    assert [s["start"] for s in reader.read()] == [1]
    assert "a record that was not written whole" in caplog.text
    again(vault).write([span("a", 3)])
    assert [s["start"] for s in reader.read()] == [1, 3]


def test_a_record_that_was_exchanged_for_another_is_detected(
    vault: SealedVault, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can write the file, and mend its checksum, still cannot give one run's words to another."""
    import zlib

    vault.write([span("a", 1)])
    vault.close()
    (path,) = vault.folder.glob("*.spans")
    frame = path.read_bytes()
    body = frame[12:].replace(b'"a","a01"', b'"b","b01"')
    path.write_bytes(frame[:8] + zlib.crc32(body).to_bytes(4, "big") + body)
    with caplog.at_level(logging.WARNING, "hetero_agents"):
        assert list(again(vault).read()) == []
    assert "was changed after it was written" in caplog.text


def test_a_record_of_an_epoch_that_there_is_not_is_left_out(vault: SealedVault) -> None:
    vault.write([span("a", 1)])
    early = vault.keyring_path.read_bytes()
    vault.change_keyring(Keyring.with_epoch)
    vault.write([span("b", 1)])
    vault.keyring_path.write_bytes(early)  # a copy of before
    assert [s["trace_id"] for s in again(vault).read()] == ["a"]


WRITER = """
import sys
from pathlib import Path
from hetero_agents.spans import SealedVault
from tests.test_vault import span
vault, number = SealedVault(Path(sys.argv[1])), 0
while True:
    number += 1
    vault.write([span(sys.argv[2], number)])
    print(number, flush=True)  # written means synced
"""


def test_killed_writers_lose_nothing_that_they_said_was_written(vault: SealedVault) -> None:
    vault.write([span("z", 1)])
    for round_ in range(3):
        names = [f"{round_}{writer}" for writer in "wx"]
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(vault.folder), name],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ,
            )
            for name in names
        ]
        said: dict[str, int] = {}
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout is not None
            for _ in range(5 + round_ * 7):
                said[name] = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            with writer:  # waits, and closes the pipe
                said[name] = max([said[name], *(int(line) for line in writer.stdout if line.endswith("\n"))])
        for name, last in said.items():
            starts = [s["start"] for s in again(vault).read(traces=[name])]
            assert starts[:last] == list(range(1, last + 1))
