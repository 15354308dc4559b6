"""Step S5 in a process of its own: `python -m hetero_agents.distill.worker`, a job on standard input.

What training takes of memory is given back when it ends, and its threads do not slow the engine that
measures afterwards. The job and what comes back are lines of JSON; content touches no further file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engines.catalog import Weights
from ..errors import DistillError, HeteroError, UserError
from .train import Progress, Recipe, Text, Trained, train_lora

STOPPED = 130
"""Exit status of a training that was stopped after its checkpoint was written."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""glibc keeps freed memory: handing it back after each batch and taking it again costs a tenth of the time (mallopt(3))."""

LINE_LIMIT = 64 * 1024 * 1024
"""Bytes of the longest line that comes back: the learning curve of a long training."""


async def train_aside(
    weights: Weights, texts: Sequence[Text], recipe: Recipe, folder: Path, progress: Progress
) -> Trained:
    """Run `train_lora` in a process of its own; cancelling stops it after its checkpoint.

    Args and errors: as `train_lora`.
    """
    job = {"weights": asdict(weights), "texts": texts, "recipe": asdict(recipe), "folder": str(folder)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        limit=LINE_LIMIT,
        env=os.environ | KEEP_MEMORY,
    )
    assert process.stdin and process.stdout and process.stderr
    errors = asyncio.create_task(process.stderr.read())
    trained: Trained | None = None
    try:
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        async for line in process.stdout:
            match json.loads(line):
                case {"done": done, "total": total}:
                    progress(done, total)
                case {"error": sentence, "user": user}:
                    raise (UserError if user else DistillError)(sentence)
                case values:
                    trained = Trained.from_json(values)
        status = await process.wait()
        if trained is None:
            raise DistillError(_end_text(status, (await errors).decode(errors="replace")))
        return trained
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await process.wait()
            except asyncio.CancelledError:  # asked a second time: without the checkpoint
                process.kill()
                raise
        await errors


def _end_text(status: int, errors: str) -> str:
    if status == STOPPED:
        return "The training was stopped; its checkpoint is kept, so the same command goes on."
    if status == -signal.SIGKILL:
        return "The training was killed, which is what happens when memory runs out; its last checkpoint is kept."
    last = errors.strip().splitlines()[-1:] or ["without a word"]
    return f"The training ended with status {status}: {last[0]}"


def main() -> int:
    """Train as the job on standard input says."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopping.append(number))
    # Only our lines may stand on standard output, whatever a library prints.
    lines, sys.stdout = sys.stdout, sys.stderr

    def say(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=lines, flush=True)

    def progress(done: int, total: int) -> None:
        if stopping:
            raise InterruptedError
        say({"done": done, "total": total})  # raises where the parent is gone, and so ends the training

    job = json.loads(sys.stdin.read())
    texts: list[Text] = [(chat, answer) for chat, answer in job["texts"]]
    try:
        trained = train_lora(Weights(**job["weights"]), texts, Recipe(**job["recipe"]), Path(job["folder"]), progress)
    except InterruptedError:
        return STOPPED
    except HeteroError as error:
        say({"error": str(error), "user": isinstance(error, UserError)})
        return 1
    say(asdict(trained))
    return 0


if __name__ == "__main__":
    sys.exit(main())
