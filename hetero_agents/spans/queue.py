"""Between the agent's threads and the vault: finished spans wait here, at most so many, and one thread stores them.

OpenTelemetry's own `BatchSpanProcessor` cannot wait for room, and what it drops is not counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

BATCH: Final = 512
"""Spans that are stored together at most."""

LINGER_SECONDS: Final = 0.2
"""Time for which a span waits for others to be stored with."""

SAID_SECONDS: Final = 5.0
"""Time between two remarks on dropped spans."""

_log = logging.getLogger("hetero_agents")


class SpanQueue(SpanProcessor):
    """Hands finished spans on in batches; the thread that ends a span only puts it here.

    Attributes:
        dropped: spans for which there was no room, so far.
    """

    def __init__(self, store: Callable[[Sequence[ReadableSpan]], None], *, size: int, block: bool) -> None:
        """Start the thread.

        Args:
            store: takes a batch, on the queue's own thread; raises nothing.
            size: spans that wait at most.
            block: let a thread that ends a span wait for room; else the span is dropped and counted.
        """
        self._store, self._size, self._block = store, size, block
        self.dropped = 0
        self._begin()
        itself = weakref.ref(self)

        def begin_again() -> None:
            if (queue := itself()) is not None:
                queue._begin()

        os.register_at_fork(after_in_child=begin_again)  # what waited is the parent's to store

    def _begin(self) -> None:
        self._waiting = deque[ReadableSpan]()
        self._state = threading.Condition()
        self._taken = self._stored = self._hurry = 0
        self._closed = False
        self._said_at, self._said, self._why = 0.0, self.dropped, ""
        self._thread = threading.Thread(target=self._work, name="hetero spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span."""
        with self._state:
            while len(self._waiting) >= self._size and self._block and not self._closed:
                self._state.wait()
            if self._closed:
                return self._drop("it ended after the end of its process's spans")
            if len(self._waiting) >= self._size:
                return self._drop(
                    f"{self._size} others wait to be stored; [vault] in hetero.toml has queue and when_full"
                )
            self._waiting.append(span)
            self._taken += 1
            if len(self._waiting) in (1, BATCH):
                self._state.notify_all()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all spans that ended before are stored; False if that takes longer."""
        with self._state:
            before = self._hurry = self._taken
            self._state.notify_all()
            return self._state.wait_for(lambda: self._stored >= before, timeout_millis / 1000)

    def shutdown(self) -> None:
        """Store what waits, and end the thread; spans that end later are dropped and counted."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._thread.join()
        if self.dropped != self._said:
            self._say(self._why)

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self._why = why
        if time.monotonic() - self._said_at > SAID_SECONDS:
            self._say(why)

    def _say(self, why: str) -> None:
        self._said_at, self._said = time.monotonic(), self.dropped
        _log.warning("%d spans were dropped so far, the last because %s.", self.dropped, why)

    def _work(self) -> None:
        while batch := self._next():
            self._store(batch)
            with self._state:
                self._stored += len(batch)
                self._state.notify_all()

    def _next(self) -> list[ReadableSpan]:
        """Wait for a batch; an empty one when it is over."""
        with self._state:
            self._state.wait_for(lambda: self._waiting or self._closed)
            hurried = lambda: len(self._waiting) >= BATCH or self._hurry > self._stored or self._closed  # noqa: E731
            self._state.wait_for(hurried, LINGER_SECONDS)
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._state.notify_all()  # there is room
            return batch
