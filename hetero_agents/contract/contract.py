"""A slot's contract: what goes in, what comes out, and the instruction, with their SHA-256.

Everything that a model is sent or that is demanded of its answer is derived here, once, so that a
specialist is trained on exactly the form in which it is served. Nothing here runs a model.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast, get_args

from pydantic import ValidationError
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelRequest, ModelResponse, UserContent, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition, StructuredOutputMode
from pydantic_ai.tools import ToolDefinition

from ..errors import SlotDefinitionError, UserError
from .hints import (
    Fits,
    OneOf,
    SlotId,
    adapter_of,
    bare_type,
    has_typevar,
    json_schema_of,
    read_constraint,
    read_parameter,
)
from .schema import (
    JsonSchema,
    Sha256,
    canonical_schema,
    check_schema,
    compact_json,
    described,
    is_object,
    ordered,
    schema_text,
    sha256_of,
    worst_error,
)

FORM = 2
"""Counts changes of how calls and answers are written: a specialist that was trained on another form is not served."""

WRAPPED = "response"
"""The only key of the object around an answer that is not an object itself, for engines that demand an object."""

OUTPUT_TOOL = "final_result"
"""pydantic-ai's name of the tool by which models without native JSON answer."""


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
            if has_typevar(hints[name]):
                raise SlotDefinitionError(
                    f"Slot {slot!r} uses an unbound TypeVar in {name!r}; write the concrete type, as a model needs one schema."
                )
        self.parameters = {
            name: read_parameter(slot, name, hints[name], parameter)
            for name, parameter in self.signature.parameters.items()
        }
        returns = hints["return"]
        if returns in (None, type(None)):
            raise SlotDefinitionError(f"Slot {slot!r} returns None; a slot is a question, so say what it answers.")
        self.output = adapter_of(slot, "its return type", returns)
        self.constraint = read_constraint(slot, hints, self.parameters)
        self.abstains = type(None) in get_args(bare_type(returns))
        self._output_schema = json_schema_of(slot, "its return type", self.output, "validation")
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

    def _constraint_mark(self) -> JsonSchema:
        match self.constraint:
            case OneOf(name):
                return {"x-one-of": name}
            case Fits(name, descriptions):
                return {"x-fits": name, **({"x-descriptions": True} if descriptions else {})}
            case None:
                return {}

    def _input_schema(self) -> JsonSchema:
        properties: JsonSchema = {}
        for name, parameter in self.parameters.items():
            match parameter.kind:
                case "value":
                    schema = json_schema_of(self.slot, f"its parameter {name!r}", parameter.adapter, "serialization")
                    properties[name] = canonical_schema(schema)
                case "history" | "image" as kind:
                    # Their schemas belong to pydantic-ai and change with it; their meaning does not.
                    properties[name] = {"x-kind": kind}
                case "not_sent":
                    pass
        # Nothing is optional to the model: defaults are applied before a call is sent.
        return {"type": "object", "properties": properties, "x-order": list(properties)}

    @cached_property
    def free_texts(self) -> list[str]:
        """The parameters that take any text: declared as `str`, and not as one of some values or in a format."""
        fixed = {"enum", "const", "format", "pattern"}
        schemas: dict[str, JsonSchema] = self._input_schema()["properties"]
        return [
            name for name, schema in schemas.items() if schema.get("type") == "string" and not fixed & schema.keys()
        ]

    # -- one call ------------------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, defaults applied.

        Raises:
            TypeError: as a plain function would.
            UserError: `OneOf` names nothing, or an option whose description is no text, or `Fits` something that is no JSON Schema.
        """
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        match self.constraint:
            case OneOf(name) if not arguments[name]:
                raise UserError(
                    f"Slot {self.slot!r} was called with an empty {name!r}: there is nothing to choose from."
                )
            case OneOf(name) if isinstance(arguments[name], dict):
                for option, description in cast(dict[Any, Any], arguments[name]).items():
                    if not isinstance(description, str):
                        raise UserError(
                            f"Slot {self.slot!r} was called with a {name!r} in which the description of {option!r} is "
                            f'{description!r}; write a text, "" where there is none.'
                        )
            case Fits(parameter=name):
                import jsonschema  # for such slots alone: it takes a fifth of this package's import
                from referencing.exceptions import Unresolvable

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
            name: parameter.adapter.dump_python(arguments[name], mode="json", by_alias=True)
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

    def asked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's values, as `dump` gives them, without what `OneOf` or `Fits` names: that says what may be answered."""
        named = self.constraint.parameter if self.constraint else None
        return {name: value for name, value in values.items() if name != named}

    def key_of(self, values: Mapping[str, Any]) -> Sha256:
        """Return the hash by which a call's values, as `dump` gives them, are told from those of others.

        The order of options counts, also where they have descriptions: the prompt has them in it.
        """
        match self.constraint:
            case OneOf(name) if isinstance(values[name], dict):
                return sha256_of({**values, name: list(values[name].items())})
            case _:
                return sha256_of(dict(values))

    def messages(self, arguments: Mapping[str, Any]) -> list[ModelMessage]:
        """Return the messages of a call: the history, then one user prompt, under the instruction."""
        history: list[ModelMessage] = []
        images: list[UserContent] = []
        for name, parameter in self.parameters.items():
            value = arguments.get(name)
            if parameter.kind == "history":
                history += value or []
            elif parameter.kind == "image":
                images += [value] if isinstance(value, BinaryContent) else value or []
        values = self._value_texts(arguments)
        text = "\n".join(text if len(values) == 1 else f"{name}: {text}" for name, text in values.items())
        prompt = UserPromptPart(content=[text, *images] if images else text)
        return [*history, ModelRequest(parts=[prompt], instructions=self.instructions or None)]

    @property
    def can_bake(self) -> bool:
        """Whether a call's values are all text, so that a specialist can learn to answer them alone (`baked_text`)."""
        return all(parameter.kind in ("value", "not_sent") for parameter in self.parameters.values())

    def baked_text(self, arguments: Mapping[str, Any]) -> str:
        """Return the whole prompt of a call for a specialist that has its slot in its weights: the values, each with a line end.

        Instruction, names of parameters and the base's chat template are the same in every call; a specialist that
        was trained without them needs none of them (prompt baking; "context distillation", Askell et al. 2021).
        """
        return "".join(f"{text}\n" for text in self._value_texts(arguments).values())

    def _value_texts(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """The text of each value, in the order of the prompt."""
        # What OneOf or Fits names recurs from call to call: it stands first, where prompt caches serve it.
        first = self.constraint.parameter if self.constraint else None
        texts: dict[str, str] = {}
        for name, parameter in sorted(self.parameters.items(), key=lambda item: item[0] != first):
            if parameter.kind == "value":
                value = parameter.adapter.dump_python(arguments.get(name), mode="json", by_alias=True)
                if isinstance(self.constraint, Fits) and name == first:
                    texts[name] = schema_text(value, descriptions=self.constraint.descriptions)
                elif isinstance(self.constraint, OneOf) and name == first and isinstance(value, dict):
                    texts[name] = described(cast(dict[str, str], value))
                else:
                    texts[name] = value if isinstance(value, str) else compact_json(value)
        return texts

    def answer_schema(self, arguments: Mapping[str, Any]) -> JsonSchema:
        """Return the JSON Schema that the answer to this call must meet."""
        match self.constraint:
            case OneOf(name):
                options = list(dict.fromkeys(arguments[name]))
                return {"enum": [*options, None]} if self.abstains else {"type": "string", "enum": options}
            case Fits(parameter=name):
                return dict(arguments[name])
            case None:
                return self._output_schema

    def options(self, arguments: Mapping[str, Any]) -> list[Any] | None:
        """Return the answers that this call can have where they are few and known (OneOf, enums, bool), else None."""
        schema = canonical_schema(self.answer_schema(arguments))
        if "enum" in schema:
            return list(schema["enum"])
        return [True, False] if schema.get("type") == "boolean" else None

    @property
    def chooses(self) -> bool:
        """Whether a call's values are all text and its answers few and known (OneOf, enums, bool), so that a model of embeddings can choose."""
        few = isinstance(self.constraint, OneOf) or (self.constraint is None and self._option_texts is not None)
        return few and self.can_bake

    def option_texts(self, arguments: Mapping[str, Any]) -> list[str] | None:
        """Return the texts, as `answer_text` writes them, of the answers that this call can have; None where they are not few and known."""
        match self.constraint:
            case OneOf():  # the usual case, without the schema
                options = list(dict.fromkeys(arguments[self.constraint.parameter]))
                return [json.dumps(o, ensure_ascii=False) for o in ([*options, None] if self.abstains else options)]
            case Fits():
                return None
            case None:
                return self._option_texts

    @cached_property
    def _option_texts(self) -> list[str] | None:
        options = self.options({})
        return None if options is None else [self.answer_text(option, {}) for option in options]

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
        text = written(response)
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
            case Fits(parameter=name):
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
        return self.output.dump_python(output, mode="json", by_alias=True)

    def comes_back(self, output: Any, arguments: Mapping[str, Any]) -> bool:
        """Return whether an output is the same after its way through JSON: secrets and excluded fields are not."""
        try:
            return bool(self.validate(self.dump_output(output), arguments) == output)
        except Exception:  # of the user's types and their `__eq__`, which must not cost a good answer
            return False

    def answer_text(self, value: Any, arguments: Mapping[str, Any]) -> str:
        """Return the text of an answer as engines with a grammar write it: JSON, keys in the order of the schema.

        Specialists are trained on exactly this form.
        """
        return json.dumps(self.canonical(value, arguments), ensure_ascii=False)

    def canonical(self, value: Any, arguments: Mapping[str, Any]) -> Any:
        """Return an answer as JSON value with keys in the order of the schema, and the sets of a typed answer sorted."""
        schema = self.answer_schema(arguments)
        return ordered(value, schema, schema.get("$defs", {}), sort_sets=self.constraint is None)


def written(response: ModelResponse) -> str:
    """Return what a model wrote as its answer, as text or as the arguments of a tool call; empty where it wrote none."""
    return next((call.args_as_json_str() for call in response.tool_calls), None) or response.text or ""
