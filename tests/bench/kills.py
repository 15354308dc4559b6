"""`python -m tests.bench.kills [--kills 100]`: processes that write to one vault are killed (SIGKILL) at random moments.

Four processes write small batches as fast as they can, each telling its acknowledged spans through a pipe; one after another is
killed and another takes its place. Then everything acknowledged must be in the vault, and no file be unreadable. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from hetero_agents.spans import SealedVault
from hetero_agents.spans.segments import SUFFIX, Segment
from tests.support import call_span

PROCESSES = 4


@dataclass(frozen=True)
class Survived:
    """What was left."""

    kills: int
    acknowledged: int
    """Spans of whose storing a process was told."""
    lost: int
    """Acknowledged spans that the vault does not give."""
    damaged: int
    """Records that are neither whole nor the torn end of a killed process's file."""
    torn: int
    """Files that end in half a record, which is left out."""


def write(folder: str, name: str, acknowledged: Connection[Any, Any]) -> None:
    """Write for ever, and tell what is stored."""
    vault, number = SealedVault(Path(folder)), 0
    while True:
        batch = [call_span(name, number + i) for i in range(8)]
        vault.write(batch)
        acknowledged.send([span["span_id"] for span in batch])
        number += len(batch)


def survive(kills: int, folder: Path, seed: int = 0) -> Survived:
    """Kill writers and return what was left."""
    context, dice = multiprocessing.get_context("fork"), random.Random(seed)
    SealedVault(folder).made_keyring()
    told: set[str] = set()
    writers: list[tuple[ForkProcess, Connection[Any, Any]]] = []

    def start(number: int) -> None:
        ours, theirs = Pipe(duplex=False)
        process = context.Process(target=write, args=(str(folder), f"writer{number}.", theirs), daemon=True)
        process.start()
        theirs.close()
        writers.append((process, ours))

    def hear(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _, pipe in writers:
                if pipe.poll():
                    told.update(pipe.recv())
            time.sleep(0.001)

    def kill() -> None:
        process, pipe = writers.pop(dice.randrange(len(writers)))
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        try:
            while pipe.poll():
                told.update(pipe.recv())
        except EOFError:
            pass

    for number in range(PROCESSES):
        start(number)
    for number in range(kills):
        hear(dice.uniform(0.01, 0.3))
        kill()
        start(PROCESSES + number)
    while writers:
        kill()
    stored = {span["span_id"] for span in SealedVault(folder).read()}
    segments = [Segment(path) for path in folder.glob(f"*{SUFFIX}")]
    for segment in segments:
        segment.scan()
    damaged, torn = sum(s.damaged for s in segments), sum(s.torn for s in segments)
    return Survived(kills + PROCESSES, len(told), len(told - stored), damaged, torn)


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HETERO_KEYS"] = f"{folder}/keys"
        print(json.dumps(asdict(survive(parser.parse_args().kills, Path(folder) / "vault"))))


if __name__ == "__main__":
    main()
