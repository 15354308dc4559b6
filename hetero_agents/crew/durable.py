"""A crew's run that survives the end of its process: what it began with, and what holds its steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from ..errors import UserError
from ..routing import Spent
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
    if go_on is not None and (durable or go_on.id):
        raise UserError(
            f"Run {go_on.id} is durable: go on with resume=, which makes its rounds again as they were."
            if go_on.id
            else "A run goes on as it began: go_on= takes no durable=."
        )
    if resume is None and durable is False:
        yield None, messages, go_on.spent if go_on else Spent()
        return
    run_id = resume if resume is not None else (durable if isinstance(durable, str) else new_id())
    store = registry.app.runs
    with store.held(run_id):
        if resume is not None:
            steps = await store.resume(run_id, crew, confirm)
        else:
            header = {"crew": crew, "messages": [dump(message) for message in messages]}
            steps = await store.begin(run_id, header, confirm)
        if steps.header["crew"] != crew:
            raise UserError(f"Run {run_id} is one of crew {steps.header['crew']!r}, not of {crew!r}.")
        kinds = [k for role in roles.values() for takes in (role.trigger, *role.joins) for k in takes.kinds]
        with steps.entered():
            yield run_id, [load(each, kinds) for each in steps.header["messages"]], steps.spent
