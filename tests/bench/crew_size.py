"""`python -m tests.bench.crew_size [--code]`: crews of 10 to 1,000 roles, runs of 1,000 to 20,000 messages; CPU time a message, peak memory.

Each role calls a slot that a script answers (with `--code` it calls nothing, so that what the crew itself takes is seen); spans are made,
and dropped where they would be stored. Each cell is a process of its own, and the cells go round robin; a cell says the median of its repeats
and their least and most. Patterns:

- `chain`: each role takes what the one before it publishes;
- `fan_out`: one role publishes a list, each item for one of many roles, and one role collects what they publish;
- `join`: a chain in which each role also reads what the fifth role before it published, of the same run through the chain;
- `memory`: `fan_out` in which each role asks `Memory` for the requirement and for what it said itself;
- `addressed`: `fan_out` in which all take the same type, and each message is for one of them, by its function.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Union, cast

from pydantic import BaseModel, create_model
from rich.console import Console
from rich.table import Table

from hetero_agents import Crew, Memory, To, slot
from hetero_agents.testing import scripted

SHAPES = [(10, 1_000), (10, 10_000), (100, 10_000), (1_000, 1_000), (1_000, 5_000), (1_000, 10_000), (1_000, 20_000)]
"""Roles and messages."""
BACK = 5
"""How far back a role of `join` reads."""


class Requirement(BaseModel):
    items: int


class Done(BaseModel):
    item: int = 0


class Delivery(BaseModel):
    items: int


class Item(BaseModel):
    item: int = 0


@slot(name="bench.answer")
async def answer(item: int) -> str:
    """Answer."""
    ...


async def ask(item: int) -> None:
    """What a role does."""
    await answer(item)


async def nothing(item: int) -> None:
    """What a role does with `--code`."""


Work = Callable[[int], Awaitable[None]]
Made = tuple[Crew, Sequence[object]]
"""A crew, and what its run begins with."""


def add(crew: Crew, name: str, function: Callable[..., Awaitable[Any]], **hints: Any) -> None:
    """Add a role whose types were made here: those of its parameters, and as `gives` what it returns."""
    function.__annotations__ = {("return" if key == "gives" else key): hint for key, hint in hints.items()}
    crew.role(name=name)(function)


def kinds_of(count: int) -> list[type[Item]]:
    """Return types of messages."""
    return [create_model(f"Item{number}", __base__=Item) for number in range(count)]


def chain(roles: int, messages: int, work: Work, back: int = 0) -> Made:
    """Return a crew in a row; a role may also read what was published some roles before it."""

    def step(gives: type[Item]) -> Callable[[Item], Awaitable[Item]]:
        async def role(item: Item) -> Item:
            await work(item.item)
            return gives(item=item.item)

        return role

    def reading(gives: type[Item]) -> Callable[[Item, Item], Awaitable[Item]]:
        async def role(item: Item, earlier: Item) -> Item:
            if earlier.item != item.item:
                raise ValueError(f"{item} was given {earlier}, which did not lead to it.")
            await work(item.item)
            return gives(item=item.item)

        return role

    kinds = kinds_of(roles + 1)
    crew = Crew("chain", gives=kinds[-1])
    for number, (takes, gives) in enumerate(itertools.pairwise(kinds)):
        if back and number >= back:
            add(crew, f"role{number}", reading(gives), item=takes, earlier=kinds[number - back], gives=gives)
        else:
            add(crew, f"role{number}", step(gives), item=takes, gives=gives)
    return crew, [kinds[0](item=number) for number in range(max(1, messages // roles))]


def join(roles: int, messages: int, work: Work) -> Made:
    """Return a crew in a row whose roles read beside."""
    return chain(roles, messages, work, BACK)


def fan_out(roles: int, messages: int, work: Work, *, remembers: bool = False) -> Made:
    """Return a crew of one who gives lists, many who each take a type of their own, and one who collects."""
    kinds = kinds_of(roles - 2)
    crew = Crew("fan_out", gives=Delivery)

    async def lead(requirement: Requirement) -> list[Item]:
        return [kinds[number % len(kinds)](item=number) for number in range(requirement.items)]

    async def collect(done: list[Done]) -> Delivery:
        return Delivery(items=len(done))

    def worker() -> Callable[..., Awaitable[Done]]:
        async def role(item: Item) -> Done:
            await work(item.item)
            return Done(item=item.item)

        async def remembering(item: Item, memory: Memory) -> Done:
            if memory.latest(Requirement) is None or memory.of(Requirement)[0].items < 1 or memory.mine():
                raise ValueError("A worker remembers something else than was said.")
            return await role(item)

        return remembering if remembers else role

    add(crew, "lead", lead, requirement=Requirement, gives=list[cast("Any", Union[tuple(kinds)])])  # noqa: UP007
    for number, kind in enumerate(kinds):
        add(crew, f"role{number}", worker(), item=kind, **({"memory": Memory} if remembers else {}), gives=Done)
    add(crew, "collect", collect, done=list[Done], gives=Delivery)
    return crew, [Requirement(items=messages // 2)]


def memory(roles: int, messages: int, work: Work) -> Made:
    """Return a fan-out whose workers ask what was said."""
    return fan_out(roles, messages, work, remembers=True)


def addressed(roles: int, messages: int, work: Work) -> Made:
    """Return a fan-out by address."""
    crew = Crew("addressed", gives=Delivery)
    workers: list[Callable[..., Awaitable[Done]]] = []

    def worker() -> Callable[..., Awaitable[Done]]:
        async def role(item: Item) -> Done:
            await work(item.item)
            return Done(item=item.item)

        return role

    async def lead(requirement: Requirement) -> list[To[Item]]:
        return [To(Item(item=number), workers[number % len(workers)]) for number in range(requirement.items)]

    async def collect(done: list[Done]) -> Delivery:
        return Delivery(items=len(done))

    add(crew, "lead", lead, requirement=Requirement, gives=list[To[Item]])
    for number in range(roles - 2):
        workers.append(worker())
        add(crew, f"role{number}", workers[-1], item=Item, gives=Done)
    add(crew, "collect", collect, done=list[Done], gives=Delivery)
    return crew, [Requirement(items=messages // 2)]


PATTERNS = {pattern.__name__: pattern for pattern in (chain, fan_out, join, memory, addressed)}


async def measured(pattern: str, roles: int, messages: int, *, code: bool) -> dict[str, float]:
    """Make one run; what it took."""
    crew, begins = PATTERNS[pattern](roles, messages, nothing if code else ask)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    run = await crew.run(*begins, max_rounds=roles + 3)
    took = time.process_time() - began
    if run.ended != "idle" or len(run.messages) < 0.9 * messages or (not code and run.spent.calls < 0.4 * messages):
        raise SystemExit(f"{pattern}: {run.why} {len(run.messages)} messages, {run.spent}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"microseconds": took / len(run.messages) * 1e6, "peak": peak / 1e3, "more": (peak - before) / 1e3}


def one(pattern: str, roles: int, messages: int, *, code: bool) -> None:
    """Make one run in this process, and print it."""
    with scripted({"bench.answer": "done"}) as vault:
        vault.write = lambda records: None
        print(json.dumps(asyncio.run(measured(pattern, roles, messages, code=code))))


def main() -> None:
    """Measure every cell in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", action="store_true", help="roles that call nothing")
    parser.add_argument("--patterns", default=",".join(PATTERNS), help="which, by comma")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("PATTERN", "ROLES", "MESSAGES"), help="one run in this process")
    options = parser.parse_args()
    if options.one:
        pattern, roles, messages = options.one
        one(pattern, int(roles), int(messages), code=options.code)
        return
    cells = [(pattern, *shape) for pattern in options.patterns.split(",") for shape in SHAPES]
    found: dict[tuple[str, int, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    for _ in range(options.repeats):
        for cell in cells:
            command = [sys.executable, "-m", "tests.bench.crew_size", "--one", *map(str, cell)]
            ran = subprocess.run([*command, *(["--code"] if options.code else [])], capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"{cell}: {ran.stderr[-2000:]}")
            found[cell].append(json.loads(ran.stdout.splitlines()[-1]))
    table = Table(title=f"CPU time of a message, µs, and peak memory, n = {options.repeats}: median (least to most)")
    for title in ("pattern", "roles", "messages", "µs a message", "peak, MB", "of it the run's"):
        table.add_column(title, justify="left" if title == "pattern" else "right")
    for (pattern, roles, messages), runs in found.items():
        took = [run["microseconds"] for run in runs]
        peak, more = (max(run[key] for run in runs) for key in ("peak", "more"))
        spread = f"{statistics.median(took):.0f} ({min(took):.0f}–{max(took):.0f})"
        table.add_row(pattern, f"{roles:,}", f"{messages:,}", spread, f"{peak:.0f}", f"{more:.0f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
