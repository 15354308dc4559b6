"""A crew's run that survives the end of its process: what it began with, and what holds its steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from ..errors import UserError
from ..routing import Spent, steps_now
from ..slots import registry
from .role import Role
from .run import CrewRun
from .wire import dump, load

Confirm = Callable[[str, Any], Awaitable[bool]]
"""Asked with name and key of an effect that may have happened: True if it has, False to do it again."""


def new_id() -> str:
    """Return an id for a durable run: when it began, in UTC, and six hexadecimal digits."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(3)}"


@asynccontextmanager
async def kept_run(
    crew: str,
    roles: Mapping[str, Role],
    messages: Sequence[object],
    go_on: CrewRun[Any] | None,
    durable: bool | str,
    resume: str | None,
    confirm: Confirm | None,
) -> AsyncGenerator[tuple[str | None, Sequence[object], Spent]]:
    """Hold what keeps a run; give its id, what it begins with, and what it has spent. The arguments are those of `Crew.run`."""
    run_id = resume or (go_on.id if go_on else None) or (durable if isinstance(durable, str) else None)
    spent = go_on.spent if go_on else Spent()
    if run_id is None and not durable:
        yield None, messages, spent
        return
    run_id = run_id or new_id()
    store = registry.app.runs
    with store.held(run_id):
        if resume or go_on:
            steps = await store.resume(run_id, confirm)
        else:
            header = {"crew": crew, "messages": [dump(message) for message in messages]}
            steps = await store.begin(run_id, header, confirm)
        if steps.header["crew"] != crew:
            raise UserError(f"Run {run_id} is one of crew {steps.header['crew']!r}, not of {crew!r}.")
        if resume:
            kinds = [k for role in roles.values() for takes in (role.trigger, *role.joins) for k in takes.kinds]
            messages, spent = [load(each, kinds) for each in steps.header["messages"]], steps.spent
        token = steps_now.set(steps)
        try:
            yield run_id, messages, spent
        finally:
            steps_now.reset(token)
