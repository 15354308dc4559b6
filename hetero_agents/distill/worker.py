"""Step S5, and attacks on what it gave, in a process of its own, with its job on standard input.

What training takes of memory is given back when it ends, and its threads do not slow the engine that
measures afterwards. The job and what comes back are lines of JSON; content touches no further file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..engines.catalog import Weights
from ..errors import DistillError, HeteroError
from .canaries import Attack, Canary, Leak, attack
from .recipe import Recipe
from .train import Job, Progress, Trained, train

if TYPE_CHECKING:
    from ..engines.vllm import VllmServer

STOPPED = 130
"""Exit status of a training that was stopped after its checkpoint was written."""

SETTINGS = {
    # glibc keeps freed memory: handing it back after each batch and taking it again costs a tenth of the time (mallopt(3)).
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    # oneDNN keeps the kernels of more shapes than those of a few dozen lengths.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16384",
}
"""Environment of the process that trains."""

LINE_LIMIT = 64 * 1024 * 1024
"""Bytes of the longest line that comes back: the learning curve of a long training."""


async def train_aside(job: Job, progress: Progress) -> Trained:
    """Run `train` in a process of its own; cancelling stops it after its checkpoint.

    Args:
        job: what to train on what.
        progress: called after each batch.

    Raises:
        HeteroError: what `train` raises.
        DistillError: the process ended in another way; what it printed is a note on the error.
    """
    return Trained.from_json(await _aside(job_line(job), progress))


async def attack_aside(job: Attack, progress: Progress) -> list[Leak]:
    """Run `attack` in a process of its own.

    Args:
        job: a shadow and its canaries.
        progress: called after each canary.

    Raises:
        DistillError: the process ended without an answer.
    """
    line = json.dumps({"attack": asdict(job) | {"adapter": str(job.adapter)}})
    return [Leak(**leak) for leak in (await _aside(line, progress))["leaks"]]


async def _aside(job: str, progress: Progress) -> dict[str, Any]:
    # Not `-m`, for which the package has imported this module before it runs; and without the working directory on the path.
    program = f"from {__name__} import main; raise SystemExit(main())"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", program),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        limit=LINE_LIMIT,
        env=os.environ | SETTINGS,
    )
    assert process.stdin and process.stdout and process.stderr
    printed = asyncio.create_task(process.stderr.read())
    result: dict[str, Any] | None = None
    try:
        process.stdin.write(job.encode())
        process.stdin.close()
        async for line in process.stdout:
            match json.loads(line):
                case {"done": done, "total": total}:
                    progress(done, total)
                case {"error": sentence, "kind": kind}:
                    cls: type[HeteroError] = vars(errors)[kind]
                    raise cls.__new__(cls, sentence)  # without its __init__, which made the sentence
                case values:
                    result = values
        status = await process.wait()
        if result is None:
            raise _ended(status, (await printed).decode(errors="replace").strip())
        return result
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await process.wait()
            except asyncio.CancelledError:  # asked a second time: without the checkpoint
                process.kill()
                await process.wait()
                raise
        await printed


def _ended(status: int, printed: str) -> DistillError:
    if status == STOPPED:
        return DistillError("The training was stopped; the same command goes on from what is kept.")
    if status == -signal.SIGKILL:
        return DistillError(
            "The training was killed, which is what happens when memory runs out; the same command goes on from what is kept."
        )
    last = printed.splitlines()[-1:] or ["without a word"]
    error = DistillError(f"The training ended with status {status}: {last[0]}")
    error.add_note(printed)
    return error


def job_line(job: Job) -> str:
    """Return a job as a line of JSON."""
    return json.dumps(asdict(job) | {"folder": str(job.folder)})


def read_job(line: str) -> Job | Attack:
    """Return the job of a line that `job_line` gave, or the attack of one of `attack_aside`."""
    values: dict[str, Any] = json.loads(line)
    if attacked := values.get("attack"):
        known = {"weights": Weights(**attacked["weights"]), "adapter": Path(attacked["adapter"])}
        return Attack(**attacked | known | {"canaries": [Canary(**canary) for canary in attacked["canaries"]]})
    return Job(
        weights=Weights(**values["weights"]),
        texts=[(call, answer) for call, answer in values["texts"]],
        recipe=Recipe(**values["recipe"]),
        folder=Path(values["folder"]),
        teacher=_teacher(values["teacher"]) if values["teacher"] else None,
        chats=values["chats"],
        select=[(call, answer) for call, answer in values["select"]],
        forms=values["forms"],
        checkpoint_seconds=values["checkpoint_seconds"],
    )


def _teacher(values: dict[str, Any]) -> Weights | VllmServer:
    if "base_url" not in values:
        return Weights(**values)
    from ..engines.vllm import VllmServer  # and openai with it, which takes a moment

    return VllmServer(**values)


def main() -> int:
    """Train as the job on standard input says."""
    steps, stopping = list[int](), list[int]()

    def stop(number: int, frame: object) -> None:
        stopping.append(number)
        if not steps:  # nothing is trained yet, so there is nothing to keep
            os._exit(STOPPED)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # Only our lines may stand on standard output, whatever a library prints.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=lines, flush=True)

    def progress(done: int, total: int) -> None:
        steps.append(done)
        if stopping:
            raise InterruptedError
        say({"done": done, "total": total})  # raises where the parent is gone, and so ends the training

    try:
        job = read_job(sys.stdin.read())
        result = asdict(train(job, progress)) if isinstance(job, Job) else {"leaks": _leaks(job, progress)}
    except InterruptedError:
        return STOPPED
    except HeteroError as error:
        say({"error": str(error), "kind": type(error).__name__})
        return 1
    say(result)
    return 0


def _leaks(job: Attack, progress: Progress) -> list[dict[str, Any]]:
    return [asdict(leak) for leak in attack(job, progress)]
