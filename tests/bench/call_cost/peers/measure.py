# pyright: basic, reportMissingImports=false
"""What each contestant runs: the same warm-up, the same clocks, and one line of JSON.

`python peer_NAME.py BASE_URL CALLS`, where BASE_URL ends in `/v1`. Imports nothing that a contestant might not have.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

BASE_URL = sys.argv[1]
CALLS = int(sys.argv[2])
WARM_UP = 20
INSTRUCTION = "Name the intent."
MESSAGE = "message: refund A1"

_called_home: set[str] = set()
_getaddrinfo = socket.getaddrinfo


def _only_loopback(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "", "127.0.0.1", "::1", "localhost"):
        _called_home.add(str(name))
        raise socket.gaierror(socket.EAI_FAIL, f"{name} is not looked up in this benchmark")
    return _getaddrinfo(host, *args, **kwargs)


# Telemetry is switched off by its own switches; what tries all the same is refused here, and told in `called_home`.
socket.getaddrinfo = _only_loopback


class _Clocks:
    def __init__(self) -> None:
        gc.collect()
        self.thread, self.process, self.wall = time.thread_time(), time.process_time(), time.perf_counter()

    def tell(self, peer: str, package: str, finish: Callable[[], object] | None) -> None:
        caller, wall = time.thread_time() - self.thread, time.perf_counter() - self.wall
        if finish is not None:
            finish()
        process = time.process_time() - self.process
        told = {
            "peer": peer,
            "version": f"{package} {version(package)}",
            "client": f"openai {version('openai')}",
            "caller_ms": caller / CALLS * 1e3,
            "process_ms": process / CALLS * 1e3,
            "wall_ms": wall / CALLS * 1e3,
            "called_home": sorted(_called_home),
        }
        print(json.dumps(told), flush=True)


def _hold(label: Any) -> None:
    if label != "refund":
        raise SystemExit(f"the call gave {label!r}, not 'refund'")


def measure(
    peer: str, package: str, call: Callable[[], Awaitable[Any]], finish: Callable[[], object] | None = None
) -> None:
    """Measure an async call that gives the label, in one event loop.

    Args:
        peer: the contestant's name.
        package: the distribution whose version is told.
        call: one typed structured call.
        finish: what is still to be done after the last call, such as flushing spans; counts as process time only.
    """

    async def run() -> None:
        for _ in range(WARM_UP):
            _hold(await call())
        clocks = _Clocks()
        for _ in range(CALLS):
            _hold(await call())
        clocks.tell(peer, package, finish)

    asyncio.run(run())


def measure_sync(peer: str, package: str, call: Callable[[], Any]) -> None:
    """Measure a blocking call that gives the label."""
    for _ in range(WARM_UP):
        _hold(call())
    clocks = _Clocks()
    for _ in range(CALLS):
        _hold(call())
    clocks.tell(peer, package, None)
