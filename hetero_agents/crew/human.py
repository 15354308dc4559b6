"""A human as a role: who is asked, and how words become a message."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ..errors import UserError

Ask = Callable[[str, object], Awaitable[str]]
"""Gets the role's name and the message; gives what the human said: text for the only field of the answer, or JSON."""


async def terminal(role: str, message: object) -> str:
    """Show a message on the terminal and read a line.

    Raises:
        UserError: there is nobody to ask.
    """
    shown = json.dumps(to_jsonable_python(message), indent=2, ensure_ascii=False)
    prompt = f"{type(message).__name__} for {role}:\n{shown}\n{role}> "
    if not sys.stdin.isatty():
        raise UserError(f"The role {role!r} asks a human and this is no terminal; give it another way to ask.")
    return await asyncio.to_thread(input, prompt)


def said(text: str, kinds: Sequence[type]) -> Any:
    """Return the message that words mean: JSON of one of the types, or text for the only field that one of them needs.

    Raises:
        UserError: they mean none.
    """
    reasons: list[str] = []
    for kind in kinds:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            reasons.append(f"{kind.__name__}: {error.errors(include_url=False)[0]['msg']}")
    for kind in kinds:
        if kind is str:
            return text
        if issubclass(kind, BaseModel):
            needed = [name for name, field in kind.model_fields.items() if field.is_required()]
            # JSON that is no such message is a mistake, not a text.
            if (
                len(needed) == 1
                and kind.model_fields[needed[0]].annotation is str
                and not text.lstrip().startswith("{")
            ):
                return cast(Any, kind)(**{needed[0]: text})
    raise UserError(f"That is no {' or '.join(kind.__name__ for kind in kinds)} ({'; '.join(reasons)}).")
