"""The vault on disk: every span in two sealed parts, structure and content, in append-only files.

In the clear stand ids, start times and slot ids, which reading by run and by slot needs, and the
sizes of things. Everything else is sealed before it is written; the file's owner alone may read it
anyway. Whoever only writes holds no secret.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..bindings.lock import exclusive, write_atomically
from ..errors import HeteroError, UserError
from .keys import Ask, Compartment, Keyring, Opener, find_opener, key_file, new_keyring, write_key
from .names import Names
from .record import SpanRecord, is_structure, named_by_code
from .segments import FULL, SUFFIX, Segment, SegmentWriter
from .vault import Feedback

FIRST_READER: Final = "owner"
"""The curator whose keys the first write makes where there are none."""

_LENGTHS: Final = struct.Struct(">HI")

_log = logging.getLogger("hetero_agents")


@dataclass(frozen=True)
class _Entry:
    """A record as it stands in the clear."""

    path: Path
    offset: int
    length: int
    head: bytes
    kind: Literal["span", "feedback"]
    trace: str
    span: str
    start: int
    slot: str | None
    epoch: int


class SealedVault:
    """A vault in a folder. Any number of processes write and read at once; a killed one loses what was in memory."""

    def __init__(self, folder: Path, ask: Ask | None = None) -> None:
        """Name the folder; nothing is opened or made yet.

        Args:
            folder: where; made by the first write.
            ask: for the passphrase of a reader's key, where one is needed.
        """
        self.folder = folder
        self.keyring_path = folder / "keyring.json"
        self.ask = ask
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._writer: SegmentWriter | None = None
        self._segments: dict[Path, tuple[Segment, list[_Entry]]] = {}
        self._keyring: tuple[int, Keyring] | None = None
        self._opener: Opener | None = None
        self._said: set[Path] = set()

    # -- keys --------------------------------------------------------------------------------------

    def keyring(self) -> Keyring | None:
        """Return the keyring as it is now; None before the first write."""
        try:
            changed = self.keyring_path.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._keyring is None or self._keyring[0] != changed:
            self._keyring, self._opener = (changed, Keyring.read(self.keyring_path)), None
        return self._keyring[1]

    def opener(self) -> Opener:
        """Return the reader that this account is.

        Raises:
            KeyAccessError: it is none.
        """
        keyring = self.keyring()
        if keyring is None:
            raise HeteroError(f"There is no vault in {self.folder} yet; the first run makes it.")
        if self._opener is None:
            self._opener = find_opener(keyring, self.ask)
        return self._opener

    def made_keyring(self, name: str = FIRST_READER, passphrase: str | None = None) -> Keyring:
        """Return the keyring, made with one curator whose private key goes to this account's keys where there was none.

        Raises:
            HeteroError: the private key cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritten(error) from error
        with exclusive(self.folder / ".keyring.flock"):
            if (keyring := self.keyring()) is not None:
                return keyring
            private = X25519PrivateKey.generate()
            keyring = new_keyring(name, private.public_key())
            place = key_file(keyring.vault, name)
            write_key(place, private, passphrase)
            write_atomically(self.keyring_path, keyring.model_dump_json(indent=1).encode())
        _log.warning(
            "Made keys for the vault %s. Its private key is %s: keep a copy, nothing opens without it.%s",
            self.folder,
            place,
            "" if passphrase else " It has no passphrase, so it protects copies of the disk, not against this account.",
        )
        made = self.keyring()
        assert made is not None
        return made

    def change_keyring(self, change: Callable[[Keyring], Keyring]) -> Keyring:
        """Read, change and replace the keyring as one step among all processes; writers seal to it from their next batch on.

        Raises:
            UserError: nobody could open content of what comes; nothing was changed.
        """
        with exclusive(self.folder / ".keyring.flock"):
            changed = change(Keyring.read(self.keyring_path))
            if not changed.epochs[-1]["content"].sealed:
                raise UserError("Nobody could open what comes: the vault needs a curator, so add another one first.")
            write_atomically(self.keyring_path, changed.model_dump_json(indent=1).encode())
            return changed

    def surrogate_key(self) -> bytes:
        """Return the 32 bytes from which surrogates follow, made once. They open nothing; who has them can check guesses.

        Raises:
            HeteroError: they cannot be written.
        """
        self.made_keyring()
        path = self.folder / "surrogates.key"
        try:
            with exclusive(self.folder / ".keyring.flock"):
                if not path.exists():
                    write_atomically(path, secrets.token_hex(32).encode())
                    path.chmod(0o600)
                return bytes.fromhex(path.read_text())
        except OSError as error:
            raise self._unwritten(error) from error

    # -- writing -----------------------------------------------------------------------------------

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Seal spans and store them, durably when this returns; of two with the same id the later one counts."""
        self._append(
            [
                ("span", r["trace_id"], r["span_id"], r["start"], r["attributes"].get(Names.SLOT), *_split(r))
                for r in records
            ]
        )

    def say(self, feedback: Feedback) -> None:
        """Seal feedback and store it."""
        structure = {"span_id": feedback.span_id, "score": feedback.score, "has_answer": feedback.has_answer}
        content = {"answer": feedback.answer}
        self._append([("feedback", feedback.trace_id, "", feedback.time, None, structure, content)])

    def _append(self, rows: Sequence[tuple[str, str, str, int, str | None, dict[str, Any], dict[str, Any]]]) -> None:
        keyring = self.keyring() or self.made_keyring()
        bodies: list[bytes] = []
        structures, contents = keyring.batch_key("structure"), keyring.batch_key("content")
        for kind, trace, span, start, slot, structure, content in rows:
            head = _json([kind, trace, span, start, slot, keyring.epoch])
            sealed = structures.seal(_json(structure), head)
            bodies.append(_LENGTHS.pack(len(head), len(sealed)) + head + sealed + contents.seal(_json(content), head))
        if (
            self._pid != os.getpid()
        ):  # after a fork the file is the parent's, and the lock may be held by a thread that is not here
            self._pid, self._lock, self._writer = os.getpid(), threading.Lock(), None
        try:
            with self._lock:
                if self._writer is not None and self._writer.size > FULL:
                    self._writer.close()
                    self._writer = None
                self._writer = self._writer or SegmentWriter(self.folder)
                self._writer.append(bodies)
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> HeteroError:
        return HeteroError(f"The vault {self.folder} cannot be written ({error.strerror}); nothing of this was stored.")

    # -- reading -----------------------------------------------------------------------------------

    def read(self, *, slot: str | None = None, trace: str | None = None) -> Iterator[SpanRecord]:
        """Give spans trace by trace, each in the order of their start: what this account's reader may see of them.

        Raises:
            KeyAccessError: this account has no key of a reader.
        """
        entries = [entry for entry in self._scan() if entry.kind == "span"]
        if trace is not None:
            entries = [entry for entry in entries if entry.trace == trace]
        elif slot is not None:
            traces = {entry.trace for entry in entries if entry.slot == slot}
            entries = [entry for entry in entries if entry.trace in traces]
        latest = {(entry.trace, entry.span): entry for entry in entries}
        for entry in sorted(latest.values(), key=lambda entry: (entry.trace, entry.start)):
            if (parts := self._open(entry)) is not None:
                yield _joined(entry, *parts)

    def traces(self, limit: int) -> list[str]:
        """Return the ids of the latest traces, newest first."""
        began: dict[str, int] = {}
        for entry in self._scan():
            if entry.kind == "span":
                began[entry.trace] = min(entry.start, began.get(entry.trace, entry.start))
        return sorted(began, key=lambda trace: -began[trace])[:limit]

    def feedback(self, trace: str | None = None) -> list[Feedback]:
        """Return all feedback, or that on one trace, oldest first; without its answers for who may not see content."""
        found: list[Feedback] = []
        for entry in self._scan():
            if entry.kind == "feedback" and trace in (None, entry.trace) and (parts := self._open(entry)) is not None:
                structure, content = parts
                answer = structure["has_answer"] and content is not None
                found.append(
                    Feedback(
                        entry.trace,
                        structure["span_id"],
                        structure["score"],
                        content["answer"] if content and answer else None,
                        answer,
                        entry.start,
                    )
                )
        return sorted(found, key=lambda feedback: feedback.time)

    def close(self) -> None:
        """Let go of the file that is being written."""
        with self._lock:
            if self._writer is not None and self._pid == os.getpid():
                self._writer.close()
            self._writer = None

    def _scan(self) -> Iterator[_Entry]:
        """Every record's head, files in the order of their making."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            segment, entries = self._segments.setdefault(path, (Segment(path), []))
            for body in segment.scan():
                try:
                    entries.append(_entry(path, *body))
                except (ValueError, struct.error):  # a whole frame of somebody else's making
                    segment.damaged += 1
            if (segment.damaged or segment.torn) and path not in self._said:
                self._said.add(path)
                what = (
                    f"{segment.damaged} damaged records" if segment.damaged else "a record that was not written whole"
                )
                _log.warning("%s holds %s, left out; the others are read.", path, what)
            yield from entries

    def _open(self, entry: _Entry) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """Structure and content, content only for who may see it; None where the record was tampered with."""
        opener = self.opener()
        with entry.path.open("rb") as file:
            file.seek(entry.offset)
            body = file.read(entry.length)
        first, second = _LENGTHS.unpack_from(body)
        begin = _LENGTHS.size + first
        sealed: dict[Compartment, bytes] = {
            "structure": body[begin : begin + second],
            "content": body[begin + second :],
        }
        try:
            opened = {
                compartment: json.loads(opener.open(compartment, entry.epoch, part, entry.head))
                for compartment, part in sealed.items()
                if opener.opens(compartment)
            }
        except (InvalidTag, ValueError):
            _log.warning("A record of %s was changed after it was written; it is left out.", entry.path)
            return None
        return opened["structure"], opened.get("content")


def _entry(path: Path, offset: int, length: int, beginning: bytes) -> _Entry:
    first, _ = _LENGTHS.unpack_from(beginning)
    head = beginning[_LENGTHS.size : _LENGTHS.size + first]
    kind, trace, span, start, slot, epoch = json.loads(head)
    return _Entry(path, offset, length, head, kind, trace, span, start, slot, epoch)


def _split(record: SpanRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an operator may see of a span, and the rest."""
    by_code = named_by_code(record)
    plain = {key: value for key, value in record["attributes"].items() if is_structure(record, key)}
    structure: dict[str, Any] = {
        "parent_id": record["parent_id"],
        "name": record["name"] if by_code else "span",
        "kind": record["kind"],
        "end": record["end"],
        "status": record["status"],
        "scope": record["scope"],
        "attributes": plain,
    }
    content: dict[str, Any] = {
        "message": record["message"],
        "events": record["events"],
        "links": record["links"],
        "resource": record["resource"],
        "attributes": {key: value for key, value in record["attributes"].items() if key not in plain},
    }
    return structure, content if by_code else {**content, "name": record["name"]}


def _joined(entry: _Entry, structure: dict[str, Any], content: dict[str, Any] | None) -> SpanRecord:
    nothing: dict[str, Any] = {"message": None, "events": [], "links": [], "resource": {}, "attributes": {}}
    record = {"trace_id": entry.trace, "span_id": entry.span, "start": entry.start, **structure, **(content or nothing)}
    record["attributes"] = {**structure["attributes"], **(content or nothing)["attributes"]}
    if content is None:
        record["withheld"] = True
    return cast(SpanRecord, record)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
