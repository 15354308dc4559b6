"""A slot's contract: what goes in, what comes out, and the instruction, with their SHA-256.

Everything that a model is sent or that is demanded of its answer is derived here, once, so that a
specialist is trained on exactly the form in which it is served. Nothing here runs a model.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NewType, TypeVar, cast, get_args, get_origin

import jsonschema
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelRequest, ModelResponse, UserContent, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition, StructuredOutputMode
from pydantic_ai.tools import ToolDefinition
from referencing.exceptions import Unresolvable

from ..errors import SlotDefinitionError, UserError
from .schema import (
    JsonSchema,
    canonical_schema,
    check_schema,
    compact_json,
    is_object,
    ordered,
    schema_text,
    sha256_of,
    worst_error,
)

SlotId = NewType("SlotId", str)
"""`module.function`: the last part of the module's name and the function's name, or `name=`."""

FORM = 1
"""Counts changes of how calls and answers are written: a specialist that was trained on another form is not served."""

WRAPPED = "response"
"""The only key of the object around an answer that is not an object itself, for engines that demand an object."""

OUTPUT_TOOL = "final_result"
"""pydantic-ai's name of the tool by which models without native JSON answer."""


@dataclass(frozen=True)
class OneOf:
    """The answer is one of the strings in a parameter of the call.

    Stands on the return type: `-> Annotated[str, OneOf("tools")]` with `tools: list[str]`. On
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


@dataclass(frozen=True)
class _NotSent:
    """Marks a parameter that stays here: `Annotated[T, NotSent]`."""


NotSent = _NotSent()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a slot."""

    name: str
    adapter: TypeAdapter[Any]
    kind: typing.Literal["value", "history", "image", "not_sent"]
    required: bool


class Contract:
    """What a slot takes, gives and is told, read from an async function.

    Attributes:
        slot: the slot's id.
        instructions: the cleaned docstring or `instructions=`.
        parameters: the parameters in the order of the signature.
        hints: the resolved type hints, `return` among them.
        sha256: hash over the instruction, the canonical JSON Schemas of input and output, and `FORM`.
            Checks, defaults and `NotSent` parameters are outside it.
    """

    def __init__(self, function: Callable[..., Any], slot: SlotId, instructions: str | None = None) -> None:
        """Read a function that `check_shape` accepts.

        Args:
            function: the decorated function; its hints are resolved here.
            slot: the slot's id, for messages and spans.
            instructions: the instruction; the cleaned docstring where None.

        Raises:
            SlotDefinitionError: a hint cannot be used.
            NameError: a hint names something that does not exist (yet).
        """
        self.slot = slot
        self.instructions = inspect.cleandoc(instructions if instructions is not None else function.__doc__ or "")
        self.signature = inspect.signature(function)
        self.hints = hints = typing.get_type_hints(function, include_extras=True)
        for name in (*self.signature.parameters, "return"):
            if name not in hints:
                where = "has no return type" if name == "return" else f"has no type for its parameter {name!r}"
                raise SlotDefinitionError(f"Slot {slot!r} {where}; a slot's contract is its types, so write one.")
            if _has_typevar(hints[name]):
                raise SlotDefinitionError(
                    f"Slot {slot!r} uses an unbound TypeVar in {name!r}; write the concrete type, as a model needs one schema."
                )
        self.parameters = {
            name: _parameter(slot, name, hints[name], parameter)
            for name, parameter in self.signature.parameters.items()
        }
        returns = hints["return"]
        if returns in (None, type(None)):
            raise SlotDefinitionError(f"Slot {slot!r} returns None; a slot is a question, so say what it answers.")
        self.output = _adapter(slot, "its return type", returns)
        self.constraint = self._read_constraint(returns)
        self.abstains = type(None) in get_args(_bare(returns))
        self._output_schema = _json_schema(slot, "its return type", self.output, "validation")
        self._answers_object = is_object(self._output_schema)
        self.sha256 = sha256_of(
            {
                "form": FORM,
                "instructions": self.instructions,
                "input": self._input_schema(),
                "output": canonical_schema(self._output_schema) | self._constraint_mark(),
            }
        )

    # -- declaration ---------------------------------------------------------------------------

    def _read_constraint(self, returns: Any) -> OneOf | Fits | None:
        found = [mark for mark in getattr(returns, "__metadata__", ()) if isinstance(mark, OneOf | Fits)]
        for name, hint in self.hints.items():
            if name != "return" and any(isinstance(m, OneOf | Fits) for m in getattr(hint, "__metadata__", ())):
                raise SlotDefinitionError(
                    f"Slot {self.slot!r} has OneOf or Fits on its parameter {name!r}; it stands on the return type."
                )
        if any(isinstance(mark, OneOf | Fits) for mark in _marks_below(_bare(returns))):
            raise SlotDefinitionError(
                f"Slot {self.slot!r} has OneOf or Fits inside its return type; it stands around the whole of it: "
                "Annotated[str | None, OneOf(...)]."
            )
        if not found:
            return None
        if len(found) > 1:
            raise SlotDefinitionError(f"Slot {self.slot!r} has more than one OneOf or Fits; keep one.")
        mark = found[0]
        word = type(mark).__name__
        if mark.parameter not in self.parameters:
            raise SlotDefinitionError(
                f"Slot {self.slot!r} returns {word}({mark.parameter!r}), but has no parameter of that name; "
                f"name one of {', '.join(map(repr, self.parameters)) or 'its parameters (it has none)'}."
            )
        if self.parameters[mark.parameter].kind == "not_sent":
            raise SlotDefinitionError(
                f"Slot {self.slot!r} returns {word}({mark.parameter!r}), but that parameter is NotSent."
            )
        given, answer = _bare(self.hints[mark.parameter]), _bare(returns)
        if isinstance(mark, OneOf):
            if given != list[str]:
                raise SlotDefinitionError(
                    f"Slot {self.slot!r}: OneOf needs a parameter of type list[str], {mark.parameter!r} is {_name(given)}."
                )
            if answer is not str and set(get_args(answer)) != {str, type(None)}:
                raise SlotDefinitionError(
                    f"Slot {self.slot!r}: OneOf needs the return type str or str | None, not {_name(answer)}."
                )
        else:
            if given is not dict and get_origin(given) is not dict:
                raise SlotDefinitionError(
                    f"Slot {self.slot!r}: Fits needs a parameter of type dict[str, Any] (a JSON Schema), {mark.parameter!r} is {_name(given)}."
                )
            if answer is not dict and get_origin(answer) is not dict:
                raise SlotDefinitionError(
                    f"Slot {self.slot!r}: Fits needs the return type dict[str, Any], not {_name(answer)}."
                )
        return mark

    def _constraint_mark(self) -> JsonSchema:
        match self.constraint:
            case OneOf(name):
                return {"x-one-of": name}
            case Fits(name):
                return {"x-fits": name}
            case None:
                return {}

    def _input_schema(self) -> JsonSchema:
        properties: JsonSchema = {}
        for name, parameter in self.parameters.items():
            match parameter.kind:
                case "value":
                    schema = _json_schema(self.slot, f"its parameter {name!r}", parameter.adapter, "serialization")
                    properties[name] = canonical_schema(schema)
                case "history" | "image" as kind:
                    # Their schemas belong to pydantic-ai and change with it; their meaning does not.
                    properties[name] = {"x-kind": kind}
                case "not_sent":
                    pass
        # Nothing is optional to the model: defaults are applied before a call is sent.
        return {"type": "object", "properties": properties, "x-order": list(properties)}

    # -- one call ------------------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, defaults applied.

        Raises:
            TypeError: as a plain function would.
            UserError: `OneOf` names an empty list, or `Fits` something that is no JSON Schema.
        """
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        match self.constraint:
            case OneOf(name) if not arguments[name]:
                raise UserError(
                    f"Slot {self.slot!r} was called with an empty {name!r}: there is nothing to choose from."
                )
            case Fits(name):
                try:
                    check_schema(arguments[name])
                except jsonschema.SchemaError as error:
                    raise UserError(
                        f"Slot {self.slot!r} was called with a {name!r} that is no JSON Schema: {error.message}."
                    ) from error
                except Unresolvable as error:
                    raise UserError(
                        f"Slot {self.slot!r} was called with a {name!r} whose reference {error.ref!r} leads nowhere in it; "
                        "write what it refers to into its $defs, as nothing is fetched."
                    ) from error
            case _:
                pass
        return arguments

    def dump(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is sent of the arguments as JSON values."""
        return {
            name: parameter.adapter.dump_python(arguments[name], mode="json")
            for name, parameter in self.parameters.items()
            if parameter.kind != "not_sent"
        }

    def load(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments from what `dump` gave: the way back from a span."""
        return {
            name: parameter.adapter.validate_python(values[name])
            for name, parameter in self.parameters.items()
            if parameter.kind != "not_sent"
        }

    def messages(self, arguments: Mapping[str, Any]) -> list[ModelMessage]:
        """Return the messages of a call: the history, then one user prompt, under the instruction."""
        history: list[ModelMessage] = []
        images: list[UserContent] = []
        lines: list[str] = []
        values = [name for name, parameter in self.parameters.items() if parameter.kind == "value"]
        # What OneOf or Fits names recurs from call to call: it stands first, where prompt caches serve it.
        first = self.constraint.parameter if self.constraint else None
        for name, parameter in sorted(self.parameters.items(), key=lambda item: item[0] != first):
            value = arguments.get(name)
            if parameter.kind == "history":
                history += value or []
            elif parameter.kind == "image":
                images += [value] if isinstance(value, BinaryContent) else value or []
            elif parameter.kind == "value":
                text = self._value_text(name, parameter.adapter.dump_python(value, mode="json"))
                lines.append(text if len(values) == 1 else f"{name}: {text}")
        text = "\n".join(lines)
        prompt = UserPromptPart(content=[text, *images] if images else text)
        return [*history, ModelRequest(parts=[prompt], instructions=self.instructions or None)]

    def _value_text(self, name: str, value: Any) -> str:
        if self.constraint == Fits(name):
            return schema_text(value)
        return value if isinstance(value, str) else compact_json(value)

    def answer_schema(self, arguments: Mapping[str, Any]) -> JsonSchema:
        """Return the JSON Schema that the answer to this call must meet."""
        match self.constraint:
            case OneOf(name):
                options = list(dict.fromkeys(arguments[name]))
                return {"enum": [*options, None]} if self.abstains else {"type": "string", "enum": options}
            case Fits(name):
                return dict(arguments[name])
            case None:
                return self._output_schema

    def options(self, arguments: Mapping[str, Any]) -> list[Any] | None:
        """Return the answers that this call can have where they are few and known (OneOf, enums, bool), else None."""
        schema = canonical_schema(self.answer_schema(arguments))
        if "enum" in schema:
            return list(schema["enum"])
        return [True, False] if schema.get("type") == "boolean" else None

    def request_parameters(
        self, arguments: Mapping[str, Any], *, mode: StructuredOutputMode, bare_json: bool
    ) -> ModelRequestParameters:
        """Return pydantic-ai's request parameters for this call.

        Args:
            arguments: the call's arguments.
            mode: how the model gives structured answers, as its profile says.
            bare_json: the engine takes any JSON Schema at the root; otherwise an answer that is no
                object is asked for as `{"response": ...}`.
        """
        schema = self.answer_schema(arguments)
        if not bare_json and not is_object(schema):
            definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
            inner = {key: value for key, value in schema.items() if key != "$defs"}
            schema = {"type": "object", "properties": {WRAPPED: inner}, "required": [WRAPPED], **definitions}
        if mode == "tool":
            tool = ToolDefinition(name=OUTPUT_TOOL, parameters_json_schema=schema, kind="output")
            return ModelRequestParameters(output_mode="tool", output_tools=[tool], allow_text_output=False)
        answer = OutputObjectDefinition(json_schema=schema, name=OUTPUT_TOOL)
        return ModelRequestParameters(output_mode=mode, output_object=answer, allow_text_output=False)

    def parse(self, response: ModelResponse, arguments: Mapping[str, Any], *, bare_json: bool) -> Any:
        """Return the typed output of a response.

        Raises:
            ValueError: the answer is not JSON or not of the contract; the message says where.
        """
        text = next((call.args_as_json_str() for call in response.tool_calls), None) or response.text or ""
        if self.constraint is None and (bare_json or self._answers_object):
            return self._typed(text)
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the answer is not JSON: {error}") from error
        if not bare_json and not is_object(self.answer_schema(arguments)):
            if not isinstance(value, dict) or WRAPPED not in value:
                raise ValueError(f"the answer has no key {WRAPPED!r}")
            value = cast(Any, value[WRAPPED])
        return self.validate(value, arguments)

    def validate(self, value: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the typed output for a JSON value.

        Raises:
            ValueError: the value is not of the contract; the message says where, in one line.
        """
        output = self._typed(compact_json(value))
        match self.constraint:
            case OneOf(name):
                if output not in arguments[name] and not (output is None and self.abstains):
                    raise ValueError(f"{output!r} is not one of the {name}")
            case Fits(name):
                if (error := worst_error(output, arguments[name])) is not None:
                    raise ValueError(f"{error.json_path}: {error.message}")
            case None:
                pass
        return output

    def _typed(self, text: str) -> Any:
        try:
            return self.output.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the answer"
            raise ValueError(f"{place}: {first['msg']}") from error

    def dump_output(self, output: Any) -> Any:
        """Return an output as a JSON value."""
        return self.output.dump_python(output, mode="json")

    def answer_text(self, value: Any, arguments: Mapping[str, Any]) -> str:
        """Return the text of an answer as engines with a grammar write it: JSON, keys in the order of the schema.

        Specialists are trained on exactly this form.
        """
        schema = self.answer_schema(arguments)
        return json.dumps(ordered(value, schema, schema.get("$defs", {})), ensure_ascii=False)


def _marks_below(hint: Any) -> list[Any]:
    """All annotations inside a type."""
    parts = get_args(hint)
    return [mark for part in parts for mark in (*getattr(part, "__metadata__", ()), *_marks_below(_bare(part)))]


def _parameter(slot: SlotId, name: str, hint: Any, parameter: inspect.Parameter) -> Parameter:
    kind: typing.Literal["value", "history", "image", "not_sent"] = "value"
    bare = _without_none(_bare(hint))
    if any(mark is NotSent for mark in getattr(hint, "__metadata__", ())):
        return Parameter(name, TypeAdapter(Any), "not_sent", parameter.default is parameter.empty)
    if get_origin(bare) is list and _bare(get_args(bare)[0]) == _bare(ModelMessage):
        kind = "history"
    elif bare is BinaryContent or (get_origin(bare) is list and get_args(bare)[0] is BinaryContent):
        kind = "image"
    adapter = _adapter(slot, f"its parameter {name!r}", hint)
    if kind == "value":
        _json_schema(slot, f"its parameter {name!r}", adapter, "serialization")
    return Parameter(name, adapter, kind, parameter.default is parameter.empty)


def _adapter(slot: SlotId, what: str, hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SlotDefinitionError(
            f"Slot {slot!r} cannot send {what} ({_name(hint)}): pydantic cannot serialise it; "
            "use a type it knows, or mark a handle as Annotated[T, NotSent]."
        ) from error


def _json_schema(
    slot: SlotId, what: str, adapter: TypeAdapter[Any], mode: typing.Literal["validation", "serialization"]
) -> JsonSchema:
    try:
        return adapter.json_schema(mode=mode)
    except PydanticUserError as error:
        raise SlotDefinitionError(
            f"Slot {slot!r} has no JSON Schema for {what}: {error.message.splitlines()[0]}."
        ) from error


def _bare(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _without_none(hint: Any) -> Any:
    """`T` for `T | None`, else the type as it is."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    union = get_origin(hint) in (typing.Union, types.UnionType)
    return _bare(parts[0]) if union and len(parts) == 1 else hint


def _has_typevar(hint: Any) -> bool:
    if isinstance(hint, TypeVar):
        return True
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return bool(hint.__pydantic_generic_metadata__["parameters"])
    return any(_has_typevar(part) for part in get_args(hint) if not isinstance(part, types.EllipsisType))


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)
