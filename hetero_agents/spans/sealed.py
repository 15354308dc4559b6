"""The vault on disk: every span in two sealed parts, structure and content, in append-only files.

In the clear stand ids, start times and slot ids, which reading by run and by slot needs, and the
sizes of things. Everything else is sealed before it is written; the file's owner alone may read it
anyway. Whoever only writes holds no secret.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..bindings.lock import exclusive, write_atomically
from ..contract import json_bytes
from ..errors import HeteroError, UserError
from . import audit
from .form import FORGOTTEN, LENGTHS, Entry, Row, entry_of, joined, slot_of, split
from .keyfiles import Ask, agent_key, find_opener, key_file, write_key
from .keys import BatchKey, Keyring, Opener, new_keyring
from .record import FOREIGN, SpanRecord
from .redaction.surrogates import PSEUDONYM, Surrogates
from .segments import SUFFIX, Keep, Segment, SegmentWriter, remove_old
from .subjects import Subjects, person_of, tag_of
from .vault import Feedback

FIRST_READER: Final = "owner"
"""The curator whose keys the first write makes where there are none."""

MOST_RUNS: Final = 100
"""Runs that a line of the record of openings names at most."""

_log = logging.getLogger("hetero_agents")


class SealedVault:
    """A vault in a folder. Any number of processes write and read at once; a killed one loses what was in memory."""

    def __init__(self, folder: Path, ask: Ask | None = None, keep: Keep | None = None) -> None:
        """Name the folder; nothing is opened or made yet.

        Args:
            folder: where; made by the first write.
            ask: for the passphrase of a reader's key, where one is needed.
            keep: how long spans are kept; for ever where None.
        """
        self.folder = folder
        self.keep = keep or Keep()
        self.keyring_path = folder / "keyring.json"
        self.ask = ask
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._writer: SegmentWriter | None = None
        self._secret: bytes | None = None
        self._subjects_kept: Subjects | None = None
        self._segments: dict[Path, tuple[Segment, list[Entry]]] = {}
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

    def change_keyring(self, change: Callable[[Keyring], Keyring], did: str | None = None, **about: Any) -> Keyring:
        """Read, change and replace the keyring as one step among all processes; writers seal to it from their next batch on.

        Args:
            change: gives the keyring that comes.
            did: what the record of openings says of it, before it is done; nothing where None.
            about: more of that.

        Raises:
            UserError: nobody could open content of what comes; nothing was changed.
        """
        with exclusive(self.folder / ".keyring.flock"):
            changed = change(Keyring.read(self.keyring_path))
            if not changed.epochs[-1]["content"].sealed:
                raise UserError("Nobody could open what comes: the vault needs a curator, so add another one first.")
            if did is not None:
                self.record(did, **about)
            write_atomically(self.keyring_path, changed.model_dump_json(indent=1).encode())
            return changed

    def surrogate_key(self) -> bytes:
        """Return the 32 bytes from which surrogates follow, made once. They open nothing; who has them can check guesses.

        Raises:
            HeteroError: they cannot be written.
        """
        if self._secret is not None:
            return self._secret
        self.made_keyring()
        path = self.folder / "surrogates.key"
        try:
            with exclusive(self.folder / ".keyring.flock"):
                if not path.exists():
                    write_atomically(path, secrets.token_hex(32).encode(), mode=0o600)
                self._secret = bytes.fromhex(path.read_text())
                return self._secret
        except OSError as error:
            raise self._unwritten(error) from error

    def agent_key(self) -> bytes:
        """Return the agent's symmetric key, for what it must read again; see `keyfiles.agent_key`."""
        return agent_key(lambda: (self.keyring() or self.made_keyring()).vault)

    # -- writing -----------------------------------------------------------------------------------

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Seal spans and store them, durably when this returns; of two with the same id the later one counts, and one of ours before a foreign one."""
        self._append(
            [
                Row(
                    "foreign" if record["scope"].startswith(FOREIGN) else "span",
                    record["trace_id"],
                    record["span_id"],
                    record["start"],
                    slot_of(record),
                    person_of(record),
                    *split(record),
                )
                for record in records
            ]
        )

    def say(self, feedback: Feedback) -> None:
        """Seal feedback and store it."""
        structure = {"span_id": feedback.span_id, "score": feedback.score, "has_answer": feedback.has_answer}
        if feedback.model is not None:
            structure["model"] = feedback.model
        content = {"answer": feedback.answer}
        row = Row("feedback", feedback.trace_id, "", feedback.time, None, feedback.person, structure, content)
        self._append([row])

    def _sealed(self, rows: Sequence[Row]) -> list[bytes]:
        """The bodies of records; content of a person is sealed to that person's key, and whose it is to the content compartment."""
        keyring = self.keyring() or self.made_keyring()
        structures, contents = keyring.batch_key("structure"), keyring.batch_key("content")
        of_persons: dict[str, tuple[bytes, BatchKey]] = {}
        bodies: list[bytes] = []
        for row in rows:
            head = json_bytes([row.kind, row.trace, row.span, row.start, row.slot, keyring.epoch])
            structure, subject, key = row.structure, b"", contents
            if row.person is not None:
                if row.person not in of_persons:
                    name, public = self._subjects(keyring).public(tag_of(self.surrogate_key(), row.person), keyring)
                    of_persons[row.person] = name.encode(), BatchKey("content", public)
                name, key = of_persons[row.person]
                subject = contents.seal(name, head)
                structure = {**structure, "subject": len(subject)}
            sealed = structures.seal(json_bytes(structure), head)
            lengths = LENGTHS.pack(len(head), len(sealed))
            bodies.append(lengths + head + sealed + subject + key.seal(json_bytes(row.content), head))
        return bodies

    def _append(self, rows: Sequence[Row]) -> None:
        if (
            self._pid != os.getpid()
        ):  # after a fork the file is the parent's, and the lock may be held by a thread that is not here
            self._pid, self._lock, self._writer = os.getpid(), threading.Lock(), None
        try:
            bodies = self._sealed(rows)
            with self._lock:
                if self._writer is not None and self._writer.is_full(self.keep):
                    self._writer.close()
                    self._writer = None
                if self._writer is None:
                    self._writer = SegmentWriter(self.folder)
                    remove_old(self.folder, self.keep)
                self._writer.append(bodies)
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> HeteroError:
        return HeteroError(f"The vault {self.folder} cannot be written ({error.strerror}); nothing of this was stored.")

    # -- reading -----------------------------------------------------------------------------------

    def read(self, *, slot: str | None = None, traces: Collection[str] | None = None) -> Iterator[SpanRecord]:
        """Give spans trace by trace, each in the order of their start: what this account's reader may see of them.

        Raises:
            KeyAccessError: this account has no key of a reader.
            HeteroError: the record of openings cannot be written.
        """
        entries = [entry for entry in self._scan() if entry.kind != "feedback"]
        if traces is not None:
            entries = [entry for entry in entries if entry.trace in traces]
        elif slot is not None:
            called = {entry.trace for entry in entries if entry.slot == slot}
            entries = [entry for entry in entries if entry.trace in called]
        # A copy of a span of ours, from Jaeger say, does not take the place of the span itself.
        entries.sort(key=lambda entry: entry.kind == "span")
        latest = {(entry.trace, entry.span): entry for entry in entries}
        self._note("read", latest, slot=slot, runs=traces)
        for entry in sorted(latest.values(), key=lambda entry: (entry.trace, entry.start)):
            if (parts := self._open(entry)) is not None:
                yield joined(entry, *parts)

    def traces(self, limit: int) -> list[str]:
        """Return the ids of the latest traces, newest first."""
        began: dict[str, int] = {}
        for entry in self._scan():
            if entry.kind != "feedback":
                began[entry.trace] = min(entry.start, began.get(entry.trace, entry.start))
        return sorted(began, key=lambda trace: -began[trace])[:limit]

    def feedback(self, traces: Collection[str] | None = None) -> list[Feedback]:
        """Return all feedback, or that on some traces, oldest first; without its answers for who may not see content."""
        entries = [e for e in self._scan() if e.kind == "feedback" and (traces is None or e.trace in traces)]
        self._note("read feedback", entries, runs=traces)
        found: list[Feedback] = []
        for entry in entries:
            if (parts := self._open(entry)) is not None:
                structure, content = parts
                answer = structure["has_answer"] and bool(content)
                found.append(
                    Feedback(
                        entry.trace,
                        structure["span_id"],
                        structure["score"],
                        content["answer"] if content and answer else None,
                        answer,
                        entry.start,
                        model=structure.get("model"),
                    )
                )
        return sorted(found, key=lambda feedback: feedback.time)

    def close(self) -> None:
        """Let go of the file that is being written."""
        if self._pid != os.getpid():  # the file is the parent's, and so may be the lock
            return
        with self._lock:
            if self._writer is not None:
                self._writer.close()
            self._writer = None

    def _scan(self) -> Iterator[Entry]:
        """Every record's head, files in the order of their making."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            segment, entries = self._segments.setdefault(path, (Segment(path), []))
            try:
                bodies = segment.scan()
            except FileNotFoundError:  # its time was over since the folder was listed
                continue
            for body in bodies:
                try:
                    entries.append(entry_of(path, *body))
                except (ValueError, TypeError, struct.error):  # a whole frame of somebody else's making
                    segment.damaged += 1
            if (segment.damaged or segment.torn) and path not in self._said:
                self._said.add(path)
                what = (
                    f"{segment.damaged} damaged records" if segment.damaged else "a record that was not written whole"
                )
                _log.warning("%s holds %s, left out; the others are read.", path, what)
            yield from entries

    def _open(self, entry: Entry) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """Structure and content, content only for who may see it; None where the record is gone or was tampered with."""
        if (parts := self._parts(entry)) is None:
            return None
        structure, sealed = parts
        try:
            return structure, self._content(entry, structure.pop("subject", 0), sealed)
        except (InvalidTag, ValueError):
            return self._tampered(entry)

    def _parts(self, entry: Entry) -> tuple[dict[str, Any], bytes] | None:
        """A record's structure, and its content still sealed; None where the record is gone or was tampered with."""
        try:
            with entry.path.open("rb") as file:
                file.seek(entry.offset)
                body = file.read(entry.length)
        except FileNotFoundError:  # its time was over
            return None
        first, second = LENGTHS.unpack_from(body)
        begin = LENGTHS.size + first
        sealed = body[begin : begin + second]
        try:
            opened = self.opener().open("structure", entry.epoch, sealed, entry.head)
            return json.loads(opened), body[begin + second :]
        except (InvalidTag, ValueError, LookupError, TypeError):  # the last two of an epoch that there is not
            return self._tampered(entry)

    def _tampered(self, entry: Entry) -> None:
        _log.warning(
            "A record of %s was changed after it was written, or is of a later keyring; it is left out.", entry.path
        )

    def _content(self, entry: Entry, subject: int, sealed: bytes) -> dict[str, Any] | None:
        """What of a record is content.

        Args:
            entry: the record.
            subject: bytes at the beginning of what is sealed that say whose it is.
            sealed: these and the content.
        """
        opener = self.opener()
        if not opener.opens("content"):
            return None
        private: X25519PrivateKey | None = None
        if subject:
            private = self._subjects(opener.keyring).private(self._subject(entry, subject, sealed), entry.epoch, opener)
            if private is None:
                return FORGOTTEN
        return json.loads(opener.open("content", entry.epoch, sealed[subject:], entry.head, private))

    def _subject(self, entry: Entry, subject: int, sealed: bytes) -> str:
        return self.opener().open("content", entry.epoch, sealed[:subject], entry.head).decode()

    def record(self, did: str, **about: Any) -> None:
        """Add a line to the record of openings, of what is going to be done with this vault by whoever this account is.

        Raises:
            HeteroError: it cannot be written.
        """
        keyring = self.keyring()
        try:
            opener = self._opener or (find_opener(keyring) if keyring else None)
        except HeteroError:  # what needs no key is done without one, and without a passphrase
            opener = None
        reader, role = (opener.name, opener.role) if opener else (None, None)
        audit.note(self.folder, did, reader=reader, role=role, about=about)

    def _note(
        self, did: str, entries: Collection[Any], *, slot: str | None = None, runs: Collection[str] | None = None
    ) -> None:
        """Record an opening before it takes place, where there is anything to open."""
        if entries:
            opens = [part for part in ("structure", "content") if self.opener().opens(part)]
            about: dict[str, Any] = {"opens": opens, "records": len(entries)}
            if slot is not None:
                about["slot"] = slot
            if runs is not None:
                about["runs"] = sorted(runs)[:MOST_RUNS]
            self.record(did, **about)

    # -- forgetting --------------------------------------------------------------------------------

    def spans_of(self, person: str) -> list[tuple[str, str]]:
        """Return (trace, span) of what is stored of a person and was not forgotten.

        Args:
            person: as `subject()` was told.

        Raises:
            KeyAccessError: this account's key does not open content.
        """
        if not self.knows(person):
            return []
        keyring = self.opener().keyring
        wanted = {self._subjects(keyring).id_of(tag_of(self.surrogate_key(), name)) for name in self.names_of(person)}
        entries = [entry for entry in self._scan() if entry.kind != "feedback"]
        self._note("look for a person", entries)
        found: list[tuple[str, str]] = []
        for entry in entries:
            parts = self._parts(entry)
            if parts is not None and (subject := parts[0].get("subject")):
                with contextlib.suppress(InvalidTag):
                    if self._subject(entry, subject, parts[1]) in wanted:
                        found.append((entry.trace, entry.span))
        return found

    def knows(self, person: str) -> bool:
        """Return whether there are keys of a person; that needs no key of a reader."""
        return any(self._known_tags(person))

    def forget(self, person: str) -> bool:
        """Destroy a person's keys: the content that was sealed to them is never opened again.

        Args:
            person: as `subject()` was told.

        Returns:
            Whether there were keys.

        Raises:
            HeteroError: they cannot be destroyed.
        """
        tags = self._known_tags(person)
        if (keyring := self.keyring()) is None or not tags:
            return False
        self.record("forget a person")
        try:
            for tag in tags:
                self._subjects(keyring).destroy(tag)
        except OSError as error:
            raise HeteroError(
                f"The keys of this person in {self.folder} cannot be destroyed ({error.strerror})."
            ) from error
        return True

    def names_of(self, person: str) -> list[str]:
        """Return how a person may be named in what is stored: as it is, and by the pseudonym."""
        if self.keyring() is None:
            return [person]
        return [person, Surrogates(self.surrogate_key()).of("", PSEUDONYM, person)]

    def _known_tags(self, person: str) -> list[str]:
        if (keyring := self.keyring()) is None:
            return []
        tags = [tag_of(self.surrogate_key(), name) for name in self.names_of(person)]
        return [tag for tag in tags if self._subjects(keyring).id_of(tag)]

    def _subjects(self, keyring: Keyring) -> Subjects:
        self._subjects_kept = self._subjects_kept or Subjects(self.folder / "subjects", keyring.vault)
        return self._subjects_kept
