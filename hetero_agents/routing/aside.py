"""Work that no answer waits for: models that are asked beside a call, to compare them. It runs while no call does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

_log = logging.getLogger("hetero_agents")

WAITING = 256
"""Pieces of work that wait at most; more are counted as left out."""

PATIENCE = 30.0
"""Seconds that a piece waits for a quiet moment before it is left out: a busy process has better things to do."""

Work = Callable[[], Awaitable[None]]


class Aside:
    """A thread with an event loop of its own, begun at the first piece of work."""

    def __init__(self) -> None:
        self._queue: deque[tuple[float, Work, contextvars.Context]] = deque()
        self._changed = threading.Condition()
        self._calls = 0
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self.left_out = 0
        """Pieces that were not done: too many, no quiet moment, or an end before they could be."""

    @contextmanager
    def call(self) -> Generator[None]:
        """Say that a call goes on, so that what is aside waits."""
        with self._changed:
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                if not self._calls:
                    self._changed.notify_all()

    def add(self, work: Work) -> None:
        """Do a piece of work later, in the context of now; an exception of it is logged, and ends nothing else."""
        with self._changed:
            if self._pid != os.getpid():  # a forked child has no thread
                self._pid, self._thread, self._busy = os.getpid(), None, False
                self._queue.clear()
            if self._closing or len(self._queue) >= WAITING:
                self.left_out += 1
                return
            self._queue.append((time.monotonic(), work, contextvars.copy_context()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hetero-aside", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, seconds: float = 10.0) -> None:
        """Finish what waits, for some seconds at most; say how much was left out."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            until = time.monotonic() + seconds
            while (self._queue or self._busy) and self._thread and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self.left_out += len(self._queue) + self._busy
            self._queue.clear()
        if self.left_out:
            _log.warning("%d comparisons of models were not made.", self.left_out)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (piece := self._next()) is not None:
                _, work, context = piece
                try:
                    runner.run(_done(work), context=context)
                except Exception as error:
                    _log.warning("A comparison of models failed: %s", error)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _next(self) -> tuple[float, Work, contextvars.Context] | None:
        with self._changed:
            while True:
                while self._queue and not self._closing and time.monotonic() - self._queue[0][0] > PATIENCE:
                    self._queue.popleft()
                    self.left_out += 1
                if self._queue and (self._closing or not self._calls):
                    self._busy = True
                    return self._queue.popleft()
                if self._closing:
                    return None
                self._changed.wait(1.0 if self._queue else None)


async def _done(work: Work) -> None:
    await work()
