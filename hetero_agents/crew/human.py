"""A human as a role: who is asked, and how words become a message."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import select
import sys
import threading
import typing
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ..errors import UserError

Ask = Callable[[str, Any, str | None], Awaitable[str]]
"""Gets the role's name, the message, and what was wrong with the answer before; gives what the human said: text for the only field, or JSON."""

_one_at_a_time = threading.Lock()
"""There is one terminal."""


async def ask_line(prompt: str) -> str:
    """Show a text, with what could steer the terminal made visible, and read a line; one question at a time.

    A question that is cancelled is over: it takes no line that is meant for the next one, and the process can end.

    Raises:
        EOFError: nothing more will be said.
    """
    shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in prompt)
    over, waits = os.pipe()
    try:
        return await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(_read_line, shown, over)))
    finally:
        os.close(waits)


def _read_line(shown: str, over: int) -> str:
    """Read a line, unless the other end of a pipe is closed before there is one."""
    with os.fdopen(over), _one_at_a_time:
        if select.select([over], [], [], 0)[0]:
            return ""
        print(shown, end="", flush=True)
        if over in select.select([sys.stdin, over], [], [])[0]:
            print(flush=True)
            return ""
        if not (line := sys.stdin.readline()):  # a terminal gives one line at a time, so that none is left in a buffer
            raise EOFError
        return line.rstrip("\n")


async def terminal(role: str, message: object, wrong: str | None = None) -> str:
    """Show a message on the terminal and read a line.

    Raises:
        UserError: there is nobody to ask.
    """
    shown = json.dumps(to_jsonable_python(message), indent=2, ensure_ascii=False)
    before = f"{wrong}\n" if wrong else ""
    prompt = f"{before}{type(message).__name__} for {role}:\n{shown}\n{role}> "
    if not sys.stdin.isatty():
        raise UserError(f"The role {role!r} asks a human and this is no terminal; give it another way to ask.")
    return await ask_line(prompt)


def said(text: str, kinds: Sequence[type]) -> Any:
    """Return the message that words mean: JSON of one of the types, or text for the only field that one of them needs.

    Raises:
        UserError: they mean none.
    """
    if not text.strip():
        raise UserError("Nothing was said.")
    reasons: list[str] = []
    for kind in kinds:
        try:
            return TypeAdapter[Any](kind).validate_json(text)
        except ValidationError as error:
            reasons.append(_reason(kind, error))
    for number, kind in enumerate(kinds):
        if kind is str:
            return text
        # JSON that is no such message is a mistake, not a text.
        if (name := _only_text(kind)) and not text.lstrip().startswith("{"):
            try:
                return TypeAdapter[Any](kind).validate_python({name: text})
            except ValidationError as error:
                reasons[number] = _reason(kind, error)
    raise UserError(f"That is no {' or '.join(kind.__name__ for kind in kinds)} ({'; '.join(reasons)}).")


def _reason(kind: type, error: ValidationError) -> str:
    return f"{kind.__name__}: {error.errors(include_url=False)[0]['msg']}"


def _only_text(kind: Any) -> str | None:
    """The only field that a message needs, where that is a text."""
    if issubclass(kind, BaseModel):
        needed = {name: field.annotation for name, field in kind.model_fields.items() if field.is_required()}
    elif dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        without = (dataclasses.MISSING, dataclasses.MISSING)
        needed = {f.name: hints[f.name] for f in dataclasses.fields(kind) if (f.default, f.default_factory) == without}
    else:
        return None
    return next(iter(needed)) if list(needed.values()) == [str] else None
