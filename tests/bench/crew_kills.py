"""Runs of a crew that are killed at random moments and resumed: is a finished model call made again, is the result the same?

python -m tests.bench.crew_kills [KILLS] [SEED] [--postgres]

Runs are kept in SQLite, or with `--postgres` in a server that is started for it; one database holds them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from hetero_agents import Crew, To, effect, slot
from hetero_agents.bindings import Workspace
from hetero_agents.slots import App, registry
from tests.postgres import postgres
from tests.support import NATIVE_JSON, TOML, FakeEngines, write_workspace

TASKS = 6
CALLS = 1 + 3 * TASKS + 3
"""Model calls of a whole run: a plan; two of each task and one of its review; the same again for the one that is refused."""


class Requirement(BaseModel):
    text: str


class Task(BaseModel):
    file: str
    again: bool = False


class Patch(BaseModel):
    file: str
    text: str
    again: bool


class Approved(BaseModel):
    file: str
    text: str


class Delivery(BaseModel):
    texts: list[str]


@slot(name="kills.ask")
async def ask(what: str) -> str:
    """Answer."""
    ...


def company(effects: Path) -> Crew:
    """Return a crew with a fan-out, parallel slot calls in a role, a loop of reviews, and an effect."""
    crew = Crew("kills", gives=Delivery)

    @crew.role
    async def plan(requirement: Requirement) -> list[Task]:
        await ask(requirement.text)
        return [Task(file=f"f{number}") for number in range(TASKS)]

    @crew.role
    async def write(task: Task) -> Patch:
        one, two = await asyncio.gather(ask(f"{task.file} one {task.again}"), ask(f"{task.file} two {task.again}"))
        return Patch(file=task.file, text=one + two, again=task.again)

    @crew.role
    async def review(patch: Patch) -> Approved | To[Task]:
        await ask(f"review {patch.text}")
        if patch.file == "f1" and not patch.again:
            return To(Task(file="f1", again=True), write)
        return Approved(file=patch.file, text=patch.text)

    @crew.role
    async def publish(done: list[Approved]) -> Delivery:
        async def push(key: str) -> Any:
            with effects.open("a") as file:
                file.write(f"{key}\n")
            return "pushed"

        await effect("push", len(done), push, safe=True)
        return Delivery(texts=sorted(each.text for each in done))

    return crew


def work(root: Path, resume: bool) -> None:
    """Run the crew in this process, or resume it; each model call is a line of `calls` as it begins."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = str(messages[-1].parts[-1].content)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
        with (root / "calls").open("a") as file:
            file.write(f"{os.getpid()}\n")
        await asyncio.sleep(random.Random(asked).random() / 200)
        return ModelResponse(parts=[TextPart(json.dumps(f"<{asked[-40:]}>"))])

    app = App.of(Workspace(write_workspace(root, TOML)))
    app.engines = FakeEngines(root, models={"fake:big": FunctionModel(answer, model_name="big", profile=NATIVE_JSON)})
    registry.use(app)
    crew = company(root / "effects")
    run = asyncio.run(
        crew.run(until=Delivery, resume=root.name)
        if resume
        else crew.run(Requirement(text="r"), until=Delivery, durable=root.name)
    )
    (root / "result").write_text(json.dumps([[m.label, m.content.model_dump()] for m in run.messages]))
    app.close()
    os._exit(0)


def finished(root: Path) -> int:
    """Return how many model calls the run has kept; -1 where it has not begun."""
    where = os.environ.get("HETERO_RUNS", f"sqlite:///{root / '.hetero' / 'runs.db'}")
    table = "dbos.workflow_status" if where.startswith("postgres") else "workflow_status"
    engine = create_engine(make_url(where.replace("postgresql:", "postgresql+psycopg:")))
    try:
        with engine.connect() as connection:
            query = text(f"SELECT workflow_uuid, status FROM {table} WHERE workflow_uuid LIKE :of")
            rows = [(row.workflow_uuid, row.status) for row in connection.execute(query, {"of": f"{root.name}/%"})]
    except DBAPIError:  # nothing is there yet
        return -1
    finally:
        engine.dispose()
    if not any("/start#" in name and status == "SUCCESS" for name, status in rows):
        return -1
    return sum("/kills.ask/" in name and status == "SUCCESS" for name, status in rows)


def calls(root: Path) -> int:
    """Return how many model calls have begun, in all processes."""
    return len((root / "calls").read_text().splitlines()) if (root / "calls").exists() else 0


def killed(root: Path, moments: random.Random, times: int) -> Counter[str]:
    """Kill a run so many times, resume it to its end, and return what was seen.

    Raises:
        AssertionError: a finished call was made again, or the result or effects are not those of a run that nobody kills.
    """
    context, seen = get_context("fork"), Counter[str]()
    for kill in range(times + 1):
        kept, begun = max(0, finished(root)), calls(root)
        process = context.Process(target=work, args=(root, finished(root) >= 0))
        process.start()
        if kill < times:
            stop = begun + moments.randrange(CALLS - kept + 1)
            while process.is_alive() and calls(root) < stop:
                time.sleep(0.0005)
            time.sleep(moments.random() * 0.01)
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGKILL)
                seen["kills"] += 1
                seen["kills before the end of the calls"] += finished(root) < CALLS
        process.join()
        made = calls(root) - begun
        seen["calls that were cut off"] += max(0, made - (max(0, finished(root)) - kept))
        if kill == times:
            assert process.exitcode == 0, process.exitcode
            assert made == CALLS - kept, (made, kept)
    assert finished(root) == CALLS
    return seen


def main(kills: int = 50, seed: int = 1, *, on_postgres: bool = False) -> None:
    """Kill runs and print what was seen."""
    moments, seen = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if on_postgres:
            os.environ["HETERO_RUNS"] = stack.enter_context(postgres())
        killed(Path(folder) / "whole", moments, 0)
        whole = (Path(folder) / "whole" / "result").read_text()
        number = 0
        while seen["kills"] < kills:
            number += 1
            root = Path(folder) / str(number)
            seen += killed(root, moments, moments.choice((1, 1, 1, 2, 3)))
            assert (root / "result").read_text() == whole, number
            pushed = (root / "effects").read_text().splitlines()
            assert len(set(pushed)) == 1, pushed
            seen["effects made again with the same key"] += len(pushed) - 1
    print(
        f"{number} runs of {CALLS} model calls: {dict(seen)}; no finished call was made again, each result is the same."
    )


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument != "--postgres"]
    main(*numbers, on_postgres="--postgres" in sys.argv)
