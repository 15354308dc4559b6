"""Which functions can be slots, whatever their types are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import SlotDefinitionError


def check_shape(function: Callable[..., Any], name: str) -> None:
    """Refuse functions that cannot be slots, whatever their types are.

    Raises:
        SlotDefinitionError: a method, a sync function, `*args`, `**kwargs`, positional-only
            parameters, or a body that would never run.
    """
    if not inspect.iscoroutinefunction(function):
        raise SlotDefinitionError(
            f"Slot {name!r} is no `async def` function; declare it `async def` (sync callers use .sync)."
        )
    scope = function.__qualname__.rpartition(".")[0]
    if scope and not scope.endswith("<locals>"):
        raise SlotDefinitionError(
            f"Slot {name!r} is a method of {scope!r}; a slot is a plain function, so move it out of the class."
        )
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise SlotDefinitionError(
                f"Slot {name!r} takes {stars}{parameter.name}; a contract names each parameter, so list them."
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise SlotDefinitionError(
                f"Slot {name!r} has the positional-only parameter {parameter.name!r}; remove the `/`."
            )
    code = function.__code__
    if code.co_code not in _EMPTY_BODIES or not set(code.co_consts) <= {None, ..., function.__doc__}:
        raise SlotDefinitionError(
            f"Slot {name!r} has code in its body, which would never run: a model answers; the body is `...`."
        )


# A slot's body in each way that it is written; what they compile to differs with the version and with -OO.
async def _docstring() -> None:
    """A slot's body."""


async def _dots() -> None: ...


async def _both() -> None:
    """A slot's body."""
    ...


_EMPTY_BODIES = frozenset(f.__code__.co_code for f in (_docstring, _dots, _both))
