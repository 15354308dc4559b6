"""Messages as JSON, for a run that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

from ..errors import CrewError


def dump(content: object) -> dict[str, Any]:
    """Return a message's content as JSON with its type's name."""
    kind: Any = type(content)
    return {"type": kind.__qualname__, "content": TypeAdapter[Any](kind).dump_python(content, mode="json")}


def load(data: dict[str, Any], kinds: Sequence[type[Any]]) -> Any:
    """Return the content that `dump` wrote.

    Args:
        data: what it wrote.
        kinds: types that it may be of, or of a class below.

    Raises:
        CrewError: it is of none of them any more.
    """
    for kind in _below(kinds):
        if kind.__qualname__ == data["type"]:
            return TypeAdapter(kind).validate_python(data["content"])
    raise CrewError(f"The run kept a {data['type']}, which no role publishes any more; start the run again.")


def _below(kinds: Sequence[type[Any]]) -> Iterator[type[Any]]:
    for kind in kinds:
        yield kind
        yield from _below(type.__subclasses__(kind))
