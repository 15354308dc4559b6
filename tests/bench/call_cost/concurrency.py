"""Show that slot calls do not wait for each other: 1, 10 and 100 in flight at once, beside the bare OpenAI client.

    python tests/bench/call_cost/concurrency.py [--delay 0.2] [--sizes 1,10,100] [--repeats 5]

The endpoint takes `--delay` seconds for each answer. Without a queue a batch takes that once, whatever its size, and
the CPU time of its calls on the event loop; with a queue of k seats it would take the delay size/k times. `at once` is
what the endpoint saw in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from endpoint_process import MockEndpoint, mock_endpoint
from openai import AsyncOpenAI
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from hetero_agents import flush, slot


class Intent(BaseModel):
    """What a message is about."""

    label: str


@slot
async def intent(message: str) -> Intent:
    """Name the intent."""
    ...


@dataclass(frozen=True)
class Batch:
    """One batch of calls that were in flight together."""

    peer: str
    size: int
    wall: float
    """Seconds from the first call to the last answer."""
    cpu: float
    """Seconds of CPU time on the event loop's thread."""
    at_once: int
    """Requests that the endpoint held at the same time, at most."""


def bare_client(base_url: str) -> Callable[[], Awaitable[Intent]]:
    """Return the same call with nothing but the OpenAI client."""
    client = AsyncOpenAI(base_url=base_url, api_key="x")

    async def call() -> Intent:
        completion = await client.chat.completions.create(
            model="m",
            messages=[{"role": "system", "content": "Name the intent."}, {"role": "user", "content": "refund A1"}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "Intent", "schema": Intent.model_json_schema()},
            },
        )
        return Intent.model_validate_json(completion.choices[0].message.content or "")

    return call


async def one_batch(peer: str, call: Callable[[], Awaitable[Intent]], size: int, endpoint: MockEndpoint) -> Batch:
    """Start `size` calls together and wait for all."""
    flush()  # what an earlier batch left to write is not this one's
    endpoint.counts()
    wall, cpu = time.perf_counter(), time.thread_time()
    answers = await asyncio.gather(*(call() for _ in range(size)))
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    assert {answer.label for answer in answers} == {"refund"}
    return Batch(peer, size, wall, cpu, endpoint.counts()[1])


async def compare(endpoint: MockEndpoint, sizes: Sequence[int], repeats: int) -> list[Batch]:
    """Measure both in alternation, after a warm-up that opens the connections."""
    calls = {"openai": bare_client(endpoint.base_url), "hetero_slot": lambda: intent("refund A1")}
    for peer, call in calls.items():
        await one_batch(peer, call, max(sizes), endpoint)
    return [
        await one_batch(peer, call, size, endpoint)
        for size in sizes
        for _ in range(repeats)
        for peer, call in calls.items()
    ]


def table_of(batches: Sequence[Batch], delay: float) -> Table:
    """Return medians by size and peer."""
    table = Table(title=f"Calls in flight at once, each answered after {delay * 1e3:g} ms (medians)")
    table.add_column("in flight", justify="right")
    table.add_column("peer")
    for title in ("batch, ms", "of it CPU, ms", "calls/s", "at once"):
        table.add_column(title, justify="right")
    for size, peer in dict.fromkeys((batch.size, batch.peer) for batch in batches):
        mine = [batch for batch in batches if (batch.size, batch.peer) == (size, peer)]
        wall = statistics.median(batch.wall for batch in mine)
        cpu = statistics.median(batch.cpu for batch in mine)
        at_once = max(batch.at_once for batch in mine)
        table.add_row(str(size), peer, f"{wall * 1e3:.0f}", f"{cpu * 1e3:.0f}", f"{size / wall:.0f}", str(at_once))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Slot calls in flight at once, beside the bare OpenAI client.")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds that each answer takes")
    parser.add_argument("--sizes", default="1,10,100", help="calls in flight, by comma")
    parser.add_argument("--repeats", type=int, default=5, help="batches of each size")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    with tempfile.TemporaryDirectory() as folder, mock_endpoint(options.delay) as endpoint:
        Path(folder, "hetero.toml").write_text(
            '[models]\nbig = "openai-chat:m"\n\n[tiers]\nllm = {model = "big"}\n\n[privacy]\ncontent = "raw"\n'
        )
        os.environ |= {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": "x"}
        before = Path.cwd()
        os.chdir(folder)
        try:
            console.print(table_of(asyncio.run(compare(endpoint, sizes, options.repeats)), options.delay))
            flush()
        except KeyboardInterrupt:
            console.print("Stopped.")
        finally:
            os.chdir(before)


if __name__ == "__main__":
    main()
