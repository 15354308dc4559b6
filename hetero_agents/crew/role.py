"""From an async function to a role: its first parameter's type is what calls it, its return type what it publishes."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from ..errors import CrewDefinitionError
from .message import Memory, RoleFailed, To

OnError = Literal["stop", "go_on"]


@dataclass(frozen=True)
class Takes:
    """A parameter that messages are given to."""

    name: str
    kinds: tuple[type, ...]
    """The message is an instance of one of these."""
    many: bool = False
    """All pending messages of the type at once, as a list."""
    optional: bool = False
    """None where there is no message."""

    @property
    def words(self) -> str:
        """Its types' names."""
        return " or ".join(kind.__name__ for kind in self.kinds)


@dataclass(frozen=True)
class Role:
    """An async function on the blackboard."""

    name: str
    function: Callable[..., Awaitable[Any]]
    trigger: Takes
    """Each message of this type is one call; of a list, all pending ones are."""
    joins: tuple[Takes, ...]
    """What else it reads: the newest that led to the triggering message, else the newest of the run."""
    memory: str | None
    """The parameter that `Memory` is given to."""
    gives: tuple[type, ...]
    """What it may publish."""
    silent: bool
    """It may publish nothing."""
    many: tuple[type, ...]
    """What it may publish as a list."""
    at_once: int | None
    """Calls of it at a time."""
    timeout: float | None
    """Seconds for one call."""
    on_error: OnError

    @property
    def publishes(self) -> tuple[type, ...]:
        """Types of all messages that may come of it."""
        return (*self.gives, RoleFailed) if self.on_error == "go_on" else self.gives


def role_of(
    function: Callable[..., Awaitable[Any]],
    name: str,
    *,
    at_once: int | None = None,
    timeout: float | None = None,
    on_error: OnError = "stop",
) -> Role:
    """Read a role from a function's signature.

    Raises:
        CrewDefinitionError: it cannot be a role; one sentence says why.
        NameError: a hint names something that is not there yet.
    """
    plain = inspect.unwrap(function)
    if not inspect.iscoroutinefunction(plain):
        raise CrewDefinitionError(f"Role {name!r} is no `async def` function; declare it `async def`.")
    if at_once is not None and at_once < 1:
        raise CrewDefinitionError(f"Role {name!r} has at_once={at_once}; it takes 1 or more.")
    if timeout is not None and not timeout > 0:
        raise CrewDefinitionError(f"Role {name!r} has the timeout {timeout:g}; it takes seconds above 0.")
    hints = typing.get_type_hints(plain, include_extras=True)
    takes: list[Takes] = []
    memory: str | None = None
    for parameter in inspect.signature(plain).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise CrewDefinitionError(
                f"Role {name!r} takes {parameter}; each of its parameters has a name and a message type of its own."
            )
        if parameter.default is not parameter.empty:
            continue  # a setting, not a message
        if (hint := hints.get(parameter.name)) is None:
            raise CrewDefinitionError(
                f"Role {name!r} has no type for {parameter.name!r}; the type is what it subscribes to."
            )
        if hint is Memory:
            memory = parameter.name
        else:
            takes.append(_takes(name, parameter.name, hint))
    if not takes:
        raise CrewDefinitionError(f"Role {name!r} takes no message; give it a parameter whose type it waits for.")
    trigger, *joins = takes
    if trigger.optional:
        raise CrewDefinitionError(
            f"Role {name!r} waits for {trigger.name!r}, its first parameter, so that is never None."
        )
    for join in joins:
        if join.many:
            raise CrewDefinitionError(
                f"Role {name!r} takes a list as {join.name!r}; only the first parameter collects messages, ask Memory for the others."
            )
    if "return" not in hints:
        raise CrewDefinitionError(
            f"Role {name!r} has no return type; it is what the role publishes (None for nothing)."
        )
    gives, many, silent = _gives(name, hints["return"])
    return Role(name, function, trigger, tuple(joins), memory, gives, silent, many, at_once, timeout, on_error)


def _takes(role: str, name: str, hint: Any) -> Takes:
    hint = _bare(hint)
    if typing.get_origin(hint) is list:
        return Takes(name, tuple(_kind(role, name, part) for part in _parts(typing.get_args(hint)[0])), many=True)
    parts = _parts(hint)
    kinds = tuple(_kind(role, name, part) for part in parts if part is not types.NoneType)
    return Takes(name, kinds, optional=len(kinds) < len(parts))


def _gives(role: str, hint: Any) -> tuple[tuple[type, ...], tuple[type, ...], bool]:
    """What is published, what of it as a list, and whether that may be nothing."""
    gives: list[type] = []
    many: list[type] = []
    silent = False
    for part in _parts(hint):
        if part in (None, types.NoneType):
            silent = True
        elif typing.get_origin(part) is list:
            many += [_kind(role, "return", _addressed(inner)) for inner in _parts(typing.get_args(part)[0])]
        else:
            gives.append(_kind(role, "return", _addressed(part)))
    return (*gives, *many), tuple(many), silent or bool(many)


def _addressed(hint: Any) -> Any:
    return _bare(typing.get_args(hint)[0]) if typing.get_origin(hint) is To else hint


def _parts(hint: Any) -> list[Any]:
    hint = _bare(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [inner for part in typing.get_args(hint) for inner in _parts(part)]
    return [hint]


def _bare(hint: Any) -> Any:
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return hint


def _kind(role: str, name: str, hint: Any) -> type:
    if not isinstance(hint, type) or typing.get_origin(hint) is not None or hint is object:
        what = getattr(hint, "__name__", None) or str(hint)
        raise CrewDefinitionError(
            f"Role {role!r} has the type {what} at {name!r}; a message is an instance of a class of its own, a BaseModel or dataclass."
        )
    try:
        TypeAdapter(cast("type[Any]", hint))
    except PydanticUserError as error:
        raise CrewDefinitionError(
            f"Role {role!r} has the type {hint.__name__} at {name!r}, which pydantic cannot serialise: {str(error).splitlines()[0]}"
        ) from error
    return hint
