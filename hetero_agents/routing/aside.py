"""Work that no answer waits for: models that are asked beside a call, to compare them. It runs while no call does."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from weakref import WeakSet

from .ledger import ledger_now

_log = logging.getLogger("hetero_agents")

WAITING = 256
"""Pieces of work that wait at most; more are counted as left out."""

CLOSING = 5.0
"""Seconds that the end of a process waits for what is aside: half of what container runtimes grant."""

PATIENCE = 30.0
"""Seconds that a piece waits for a quiet moment; a process that has none does it beside its calls then, one at a time."""

Work = Callable[[], Awaitable[None]]


class Aside:
    """A thread with an event loop of its own, begun at the first piece of work."""

    def __init__(self) -> None:
        """Begin nothing yet."""
        self.begin()
        _all.add(self)

    def begin(self) -> None:
        """Be as new: a forked child has neither the thread nor its work."""
        self._queue: deque[tuple[float, Work, contextvars.Context]] = deque()
        self._changed = threading.Condition()
        self._calls = 0
        self._busy = False
        self._closing = self._over = False
        self._thread: threading.Thread | None = None
        self._cancel: Callable[[], object] | None = None
        self.left_out = 0
        """Pieces that were not done: too many, a failure, or an end before they could be."""

    @contextmanager
    def call(self) -> Generator[None]:
        """Say that a call goes on, so that what is aside waits."""
        with self._changed:
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls = max(0, self._calls - 1)  # a child forked in a call has not begun it
                if not self._calls:
                    self._changed.notify_all()

    def add(self, work: Work) -> None:
        """Do a piece of work later, in the context of now; an exception of it is logged, and ends nothing else."""
        with self._changed:
            if self._closing or len(self._queue) >= WAITING:
                self.left_out += 1
                return
            context = contextvars.copy_context()
            context.run(ledger_now.set, None)  # no run pays for what is asked to watch it
            self._queue.append((time.monotonic(), work, context))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="hetero-aside", daemon=True)
                thread.start()
                self._thread = thread
                _before_executors_end(self.close)
            self._changed.notify_all()

    def close(self, seconds: float = CLOSING) -> None:
        """Finish what waits, for some seconds at most; say how much was left out. Once: closed again it does nothing."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
            until = time.monotonic() + seconds
            while (self._queue or self._busy) and self._thread and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            left_out = self.left_out + len(self._queue) + self._busy
            self._queue.clear()
            self._over = True
            if self._cancel:
                with contextlib.suppress(RuntimeError):  # it ended just now, and its loop with it
                    self._cancel()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(seconds)  # its requests are over before engines end, which would wait for them
        if left_out:
            _log.warning("%d comparisons of models were not made.", left_out)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (piece := self._next()) is not None:
                _, work, context = piece
                try:
                    runner.run(self._do(work), context=context)
                except asyncio.CancelledError:  # at the end, which counts it
                    pass
                except Exception as error:
                    _log.warning("A comparison of models failed: %s", str(error) or type(error).__name__)
                    with self._changed:
                        self.left_out += 1
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    async def _do(self, work: Work) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with self._changed:
            if self._over:  # between its taking and here
                raise asyncio.CancelledError
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await work()
        finally:
            self._cancel = None

    def _next(self) -> tuple[float, Work, contextvars.Context] | None:
        with self._changed:
            while True:
                late = bool(self._queue) and time.monotonic() - self._queue[0][0] > PATIENCE
                if self._queue and (self._closing or late or not self._calls):
                    self._busy = True
                    return self._queue.popleft()
                if self._closing:
                    return None
                self._changed.wait(1.0 if self._queue else None)


_all: WeakSet[Aside] = WeakSet()


def _after_fork() -> None:
    for aside in list(_all):
        aside.begin()


os.register_at_fork(after_in_child=_after_fork)


def _before_executors_end(close: Callable[[], None]) -> None:
    """Close before `concurrent.futures` refuses work at the end of the interpreter: opening a model needs its threads.

    That is what `atexit` is too late for; the hook is the one that `concurrent.futures` uses itself, and the last registered goes first.
    """
    importlib.import_module("concurrent.futures.thread")  # which registers its own
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # the end has begun
            register(close)
