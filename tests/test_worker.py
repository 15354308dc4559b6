"""Training in a process of its own: what its end means to who waits for it."""

import asyncio
from pathlib import Path

import pytest

from hetero_agents.distill import Recipe, worker
from hetero_agents.distill.train import Trained
from hetero_agents.engines.catalog import catalog
from hetero_agents.errors import DistillError, UserError

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
        worker.train_aside(WEIGHTS, texts, Recipe(), tmp_path, lambda done, total: seen.append((done, total)))
    )
    return trained, seen


def test_lines_become_progress_and_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = '{"examples": 4, "seconds": 1.5, "losses": [[4, 0.5]], "longest_answer": 3, "left_out": 0}'
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
        ('echo \'{"error": "No example fits.", "user": false}\'', DistillError, "No example fits."),
        ('echo \'{"error": "Install it.", "user": true}\'', UserError, "Install it."),
    ],
)
def test_another_end_is_an_error_in_a_sentence(
    script: str, error: type[Exception], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=sentence):
        run(script, tmp_path, monkeypatch)


def test_cancelling_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "ended"
    script = f"trap 'echo > {note}; exit 130' TERM; echo '{{\"done\": 1, \"total\": 2}}'; while :; do sleep 0.05; done"

    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop(done: int, total: int) -> None:
            task.cancel()

        await worker.train_aside(WEIGHTS, [], Recipe(), tmp_path, stop)

    stand_in(script, tmp_path, monkeypatch)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert note.exists()
