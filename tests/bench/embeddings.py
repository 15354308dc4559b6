"""What embeddings cost here, in CPU time of this process: the start, one short text, a batch, a long text; and memory.

python -m tests.bench.embeddings
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from hetero_agents.engines import Engines, embeddings
from hetero_agents.engines.llamacpp import llama_cpp

SHORT = [f"Where is my order number {n} and when does it come?" for n in range(100)]
BATCH = [
    f"Please book me a table for {n} people tomorrow evening at the Italian place near the station, not too late."
    for n in range(64)
]
LONG = [f"{n} " + "word " * 400 for n in range(10)]


def main() -> None:
    """Print what was measured."""
    embeddings.fetch_embedder()
    llama_cpp("This measurement")
    before = psutil.Process().memory_info().rss
    engines = Engines(Path())
    try:
        print(f"start and one text: {_seconds(engines, ['start']):.2f} s")
        short, long = (statistics.median(_seconds(engines, [text]) for text in some) for some in (SHORT, LONG))
        batch = statistics.median(_seconds(engines, BATCH) for _ in range(5)) / len(BATCH)
        print(f"a short text {short * 1e3:.1f} ms, one of a batch {batch * 1e3:.1f} ms, a long one {long * 1e3:.0f} ms")
        print(f"memory {(psutil.Process().memory_info().rss - before) / 1e6:.0f} MB")
    finally:
        engines.close()


def _seconds(engines: Engines, texts: Sequence[str]) -> float:
    started = time.process_time()
    asyncio.run(engines.embed(texts))
    return time.process_time() - started


if __name__ == "__main__":
    main()
