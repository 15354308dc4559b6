"""Training in a process of its own: what its end means to who waits for it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_agents.distill import Recipe, worker
from hetero_agents.distill.train import Job, Trained
from hetero_agents.engines.catalog import catalog
from hetero_agents.errors import DistillError, MissingExtraError

WEIGHTS = catalog()["smollm2-135m-instruct"]


def stand_in(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script run in the worker's place."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(worker.sys, "executable", str(program))


def run(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Trained, list[tuple[int, int]]]:
    """Return what comes of a worker that is a shell script, given a job larger than a pipe holds."""
    stand_in(script, tmp_path, monkeypatch)
    seen: list[tuple[int, int]] = []
    texts = [([{"role": "user", "content": "x" * 1000}], "yes")] * 200
    trained = asyncio.run(
        worker.train_aside(Job(WEIGHTS, texts, Recipe(), tmp_path), lambda done, total: seen.append((done, total)))
    )
    return trained, seen


def test_lines_become_progress_and_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = '{"examples": 4, "seconds": 1.5, "losses": [[4, 0.5]], "longest_answer": 3, "left_out": 0, "looks": []}'
    script = f"cat > /dev/null; echo '{{\"done\": 1, \"total\": 2}}'; echo '{result}'"
    trained, seen = run(script, tmp_path, monkeypatch)
    assert seen == [(1, 2)]
    assert trained == Trained(4, 1.5, [(4, 0.5)], 3, 0)


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        ("kill -9 $$", DistillError, "which is what happens when memory runs out"),
        ("cat > /dev/null; exit 130", DistillError, "the same command goes on"),
        ("echo 'OSError: no space' >&2; exit 1", DistillError, "ended with status 1: OSError: no space"),
        ("exit 0", DistillError, "ended with status 0: without a word"),
        ('echo \'{"error": "No example fits.", "kind": "DistillError"}\'', DistillError, "No example fits."),
        ('echo \'{"error": "Install it.", "kind": "MissingExtraError"}\'', MissingExtraError, "^Install it.$"),
    ],
)
def test_another_end_is_an_error_in_a_sentence(
    script: str, error: type[Exception], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=sentence):
        run(script, tmp_path, monkeypatch)


def test_what_the_process_printed_is_a_note_on_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DistillError) as caught:
        run("echo first >&2; echo last >&2; exit 1", tmp_path, monkeypatch)
    assert caught.value.__notes__ == ["first\nlast"]


WITH_ANOTHER_TRAINING = """
import os, signal, sys
import hetero_agents.distill.worker as worker
from hetero_agents.errors import DistillError
from hetero_agents.distill.train import Trained

def train(job, progress):
    print("a library talks")
    os.system("echo a program talks")
    progress(1, 2)
    if job.texts[0][1] == "fail":
        raise DistillError("No example fits.")
    if job.texts[0][1] == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    progress(2, 2)
    return Trained(1, 0.5, [(1, 0.25)], 3, 0)

worker.train = train
raise SystemExit(worker.main())
"""


@pytest.mark.parametrize(
    ("answer", "status", "last"),
    [
        (
            "yes",
            0,
            '{"examples": 1, "seconds": 0.5, "losses": [[1, 0.25]], "longest_answer": 3, "left_out": 0, "looks": []}',
        ),
        ("fail", 1, '{"error": "No example fits.", "kind": "DistillError"}'),
        ("stop", worker.STOPPED, '{"done": 1, "total": 2}'),
    ],
)
def test_the_process_prints_its_lines_and_nothing_else(answer: str, status: int, last: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_ANOTHER_TRAINING],
        input=worker.job_line(Job(WEIGHTS, [([], answer)], Recipe(), tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == '{"done": 1, "total": 2}'
    assert lines[-1] == last


def test_cancelling_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "ended"
    script = f"trap 'echo > {note}; exit 130' TERM; echo '{{\"done\": 1, \"total\": 2}}'; while :; do sleep 0.05; done"

    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop(done: int, total: int) -> None:
            task.cancel()

        await worker.train_aside(Job(WEIGHTS, [], Recipe(), tmp_path), stop)

    stand_in(script, tmp_path, monkeypatch)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert note.exists()
