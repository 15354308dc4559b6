"""What the types of a slot's signature say: the kind of each parameter, and the mark on the return type."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_ai.messages import BinaryContent, ModelMessage

from ..errors import SlotDefinitionError
from .schema import JsonSchema

SlotId = NewType("SlotId", str)
"""`module.function`: the last part of the module's name and the function's name, or `name=`."""


@dataclass(frozen=True)
class OneOf:
    """The answer is one of the strings in a parameter of the call.

    Stands on the return type: `-> Annotated[str, OneOf("tools")]` with `tools: list[str]`, or with `tools: dict[str, str]`
    where a description stands behind each string, which the model reads and does not answer. On
    engines with a grammar no other answer can be written; everywhere the answer is validated.
    `Annotated[str | None, OneOf("tools")]` may abstain.
    """

    parameter: str


@dataclass(frozen=True)
class Fits:
    """The answer fits the JSON Schema in a parameter of the call.

    Stands on the return type: `-> Annotated[dict[str, Any], Fits("schema")]` with
    `schema: dict[str, Any]` (JSON Schema 2020-12 unless its `$schema` says otherwise).
    """

    parameter: str
    descriptions: bool = False
    """The prompt shows the descriptions of the schema's fields too: longer, and better where they say in which form a value is wanted."""


@dataclass(frozen=True)
class _NotSent:
    """Marks a parameter that stays here: `Annotated[T, NotSent]`."""


NotSent = _NotSent()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a slot."""

    name: str
    adapter: TypeAdapter[Any]
    kind: Literal["value", "history", "image", "not_sent"]
    required: bool


def read_constraint(slot: SlotId, hints: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> OneOf | Fits | None:
    """Return the mark on a slot's return type, if it has one.

    Raises:
        SlotDefinitionError: the mark stands in a wrong place, or its parameter or the types do not suit it.
    """
    returns = hints["return"]
    found = [mark for mark in getattr(returns, "__metadata__", ()) if isinstance(mark, OneOf | Fits)]
    for name, hint in hints.items():
        if name != "return" and any(isinstance(m, OneOf | Fits) for m in getattr(hint, "__metadata__", ())):
            raise SlotDefinitionError(
                f"Slot {slot!r} has OneOf or Fits on its parameter {name!r}; it stands on the return type."
            )
    if any(isinstance(mark, OneOf | Fits) for mark in _marks_below(bare_type(returns))):
        raise SlotDefinitionError(
            f"Slot {slot!r} has OneOf or Fits inside its return type; it stands around the whole of it: "
            "Annotated[str | None, OneOf(...)]."
        )
    if not found:
        return None
    if len(found) > 1:
        raise SlotDefinitionError(f"Slot {slot!r} has more than one OneOf or Fits; keep one.")
    mark = found[0]
    word = type(mark).__name__
    if mark.parameter not in parameters:
        raise SlotDefinitionError(
            f"Slot {slot!r} returns {word}({mark.parameter!r}), but has no parameter of that name; "
            f"name one of {', '.join(map(repr, parameters)) or 'its parameters (it has none)'}."
        )
    if parameters[mark.parameter].kind == "not_sent":
        raise SlotDefinitionError(f"Slot {slot!r} returns {word}({mark.parameter!r}), but that parameter is NotSent.")
    given, answer = bare_type(hints[mark.parameter]), bare_type(returns)
    if isinstance(mark, OneOf):
        if given not in (list[str], dict[str, str]):
            raise SlotDefinitionError(
                f"Slot {slot!r}: OneOf needs a parameter of type list[str] or dict[str, str], {mark.parameter!r} is {_name(given)}."
            )
        if answer is not str and set(get_args(answer)) != {str, type(None)}:
            raise SlotDefinitionError(
                f"Slot {slot!r}: OneOf needs the return type str or str | None, not {_name(answer)}."
            )
    else:
        if given is not dict and get_origin(given) is not dict:
            raise SlotDefinitionError(
                f"Slot {slot!r}: Fits needs a parameter of type dict[str, Any] (a JSON Schema), {mark.parameter!r} is {_name(given)}."
            )
        if answer is not dict and get_origin(answer) is not dict:
            raise SlotDefinitionError(f"Slot {slot!r}: Fits needs the return type dict[str, Any], not {_name(answer)}.")
    return mark


def _marks_below(hint: Any) -> list[Any]:
    """All annotations inside a type."""
    parts = get_args(hint)
    return [mark for part in parts for mark in (*getattr(part, "__metadata__", ()), *_marks_below(bare_type(part)))]


def read_parameter(slot: SlotId, name: str, hint: Any, parameter: inspect.Parameter) -> Parameter:
    """Return what a parameter is to a call.

    Raises:
        SlotDefinitionError: its type cannot be sent.
    """
    kind: Literal["value", "history", "image", "not_sent"] = "value"
    bare = _without_none(bare_type(hint))
    if any(mark is NotSent for mark in getattr(hint, "__metadata__", ())):
        return Parameter(name, TypeAdapter(Any), "not_sent", parameter.default is parameter.empty)
    if get_origin(bare) is list and bare_type(get_args(bare)[0]) == bare_type(ModelMessage):
        kind = "history"
    elif bare is BinaryContent or (get_origin(bare) is list and get_args(bare)[0] is BinaryContent):
        kind = "image"
    adapter = adapter_of(slot, f"its parameter {name!r}", hint)
    if kind == "value":
        json_schema_of(slot, f"its parameter {name!r}", adapter, "serialization")
    return Parameter(name, adapter, kind, parameter.default is parameter.empty)


def adapter_of(slot: SlotId, what: str, hint: Any) -> TypeAdapter[Any]:
    """Return the pydantic adapter of a type.

    Raises:
        SlotDefinitionError: pydantic has none.
    """
    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SlotDefinitionError(
            f"Slot {slot!r} cannot send {what} ({_name(hint)}): pydantic cannot serialise it; "
            "use a type it knows, or mark a handle as Annotated[T, NotSent]."
        ) from error


def json_schema_of(
    slot: SlotId, what: str, adapter: TypeAdapter[Any], mode: Literal["validation", "serialization"]
) -> JsonSchema:
    """Return the JSON Schema of a type.

    Raises:
        SlotDefinitionError: it has none.
    """
    try:
        return adapter.json_schema(mode=mode)
    except PydanticUserError as error:
        raise SlotDefinitionError(
            f"Slot {slot!r} has no JSON Schema for {what}: {error.message.splitlines()[0]}."
        ) from error


def bare_type(hint: Any) -> Any:
    """Return a type without its annotations."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _without_none(hint: Any) -> Any:
    """`T` for `T | None`, else the type as it is."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    union = get_origin(hint) in (typing.Union, types.UnionType)
    return bare_type(parts[0]) if union and len(parts) == 1 else hint


def has_typevar(hint: Any) -> bool:
    """Return whether a type leaves a type variable open."""
    if isinstance(hint, TypeVar):
        return True
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return bool(hint.__pydantic_generic_metadata__["parameters"])
    return any(has_typevar(part) for part in get_args(hint) if not isinstance(part, types.EllipsisType))


def _name(hint: Any) -> str:
    return str(hint) if get_origin(hint) else getattr(hint, "__name__", None) or str(hint)
