"""Messages as JSON, for a run that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import CrewError


def dump(content: object) -> dict[str, Any]:
    """Return a message's content as JSON, with its class.

    Raises:
        CrewError: it does not come back from JSON as it was: fields that are left out, secrets, bytes that are no text.
    """
    kind: Any = type(content)
    try:
        data = {"type": _name(kind), "content": TypeAdapter[Any](kind).dump_python(content, mode="json", by_alias=True)}
        same = TypeAdapter[Any](kind).validate_python(data["content"]) == content
    except ValueError:  # pydantic's errors are some
        same, data = False, {}
    if not same:
        raise CrewError(
            f"A {kind.__qualname__} does not come back from JSON as it was, so a durable run cannot keep it; change its fields, or run without durable."
        )
    return data


def load(data: dict[str, Any], kinds: Sequence[type[Any]]) -> Any:
    """Return the content that `dump` wrote.

    Args:
        data: what it wrote.
        kinds: types that it may be of, or of a class below.

    Raises:
        CrewError: it is of none of them any more.
    """
    for kind in _below(kinds):
        if _name(kind) == data["type"]:
            try:
                return TypeAdapter(kind).validate_python(data["content"])
            except ValidationError:
                break
    raise CrewError(f"The run kept a {data['type']} that fits no type of its roles any more; start the run again.")


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _below(kinds: Sequence[type[Any]]) -> Iterator[type[Any]]:
    for kind in kinds:
        yield kind
        yield from _below(type.__subclasses__(kind))
