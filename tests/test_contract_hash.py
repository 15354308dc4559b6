"""The contract's hash and the schemas under it: the same on every Python and pydantic that we support."""

from typing import Annotated, Any, Literal
from unittest.mock import ANY

import pytest
from pydantic import BaseModel, Field
from pydantic_ai.messages import ModelRequest, UserPromptPart

from hetero_agents import Fits, OneOf, Slot, slot
from hetero_agents.contract import Contract, SlotId, canonical_schema, schema_text, sha256_of
from hetero_agents.contract.contract import FORM


class Address(BaseModel):
    street: str
    city: str


class Person(BaseModel):
    """Somebody."""

    title: str = Field(description="Dr, Mx")
    home: Address
    work: Address | None = None


class Tree(BaseModel):
    label: str
    children: list["Tree"] = []


@slot(name="hash.classify")
async def classify(message: str) -> Literal["refund", "other"]:
    """Name the customer's intent."""
    ...


@slot(name="hash.choose")
async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
    """Choose the tool that serves the request."""
    ...


@slot(name="hash.fill")
async def fill(request: str, parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters")]:
    """Write the arguments."""
    ...


@slot(name="hash.read")
async def read(text: str) -> Person:
    """Read the person."""
    ...


@slot(name="hash.grow")
async def grow(seed: Tree) -> Tree:
    """Grow the tree."""
    ...


GOLDEN = {
    "hash.classify": "2c442bae037d500de7923ab98b4ea8894274ad2aec08049ed3974a0ccf185b8c",
    "hash.choose": "1cae06b015a49fd5d7afa8e84c172799dfe46ce830f0090ea39557143274ec7d",
    "hash.fill": "89a09408e0f80fb3e5813ac9511a7998eee0e8fee6219a0618bd15ebc9d9bcb4",
    "hash.read": "0d248db59110ffa45f7d5d50feef0cbf2d9fce0b3248d7002d507ccc76c1c376",
    "hash.grow": "5cbdb20d7ec9a69391f5545133f3a5067a8ce0c9cb9cf8d1e32513b0846584a6",
}
"""Written once by hand: a change here makes every specialist that was ever trained unusable."""


@pytest.mark.parametrize("declared", [classify, choose, fill, read, grow], ids=lambda s: s.id)
def test_a_hash_is_the_same_for_ever(declared: Slot[..., Any]) -> None:
    assert declared.contract.sha256 == GOLDEN[declared.id]


def request_of(text: str, instructions: str) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(content=text, timestamp=ANY)], instructions=instructions, timestamp=ANY)


def test_a_call_and_its_answer_are_written_like_this_as_long_as_the_form_keeps_its_number() -> None:
    assert FORM == 2
    schema = {
        "type": "object",
        "required": ["city"],
        "properties": {
            "city": {"type": "string", "description": "not shown"},
            "kind": {"enum": ["music", "theater"]},
            "days": {"type": "array", "items": {"type": "integer"}, "default": [1]},
        },
    }
    arguments = fill.contract.bind(("Jazz in Oslo", schema), {})
    assert fill.contract.messages(arguments) == [
        request_of(
            'parameters: {city: string, kind?: "music"|"theater", days?: integer[] = [1]}\nrequest: Jazz in Oslo',
            "Write the arguments.",
        )
    ]
    assert (
        fill.contract.answer_text({"kind": "music", "city": "Oslo"}, arguments) == '{"city": "Oslo", "kind": "music"}'
    )
    arguments = choose.contract.bind(("Hi", ["a", "b"]), {})
    assert choose.contract.messages(arguments) == [
        request_of('tools: ["a","b"]\nrequest: Hi', "Choose the tool that serves the request.")
    ]
    assert choose.contract.answer_text("a", arguments) == '"a"'


def test_the_form_that_baked_specialists_are_trained_on_changes_with_form_alone() -> None:
    schema = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
    assert (
        fill.contract.baked_text(fill.contract.bind(("Jazz in Oslo", schema), {})) == "{city: string}\nJazz in Oslo\n"
    )
    assert choose.contract.baked_text(choose.contract.bind(("Hi", ["a", "b"]), {})) == '["a","b"]\nHi\n'


def hash_of(function: Any, **options: Any) -> str:
    return slot(name="hash.other", **options)(function).contract.sha256


def test_the_hash_changes_with_the_instruction() -> None:
    assert hash_of(classify.function, instructions="Another.") != classify.contract.sha256


def test_the_hash_changes_with_a_parameters_type() -> None:
    async def other(message: int) -> Literal["refund", "other"]:
        """Name the customer's intent."""
        ...

    assert hash_of(other) != classify.contract.sha256


def test_the_hash_changes_with_the_return_type() -> None:
    async def other(message: str) -> Literal["refund", "other", "more"]:
        """Name the customer's intent."""
        ...

    assert hash_of(other) != classify.contract.sha256


def test_the_hash_changes_with_a_parameters_name() -> None:
    async def other(text: str) -> Literal["refund", "other"]:
        """Name the customer's intent."""
        ...

    assert hash_of(other) != classify.contract.sha256


def test_the_hash_changes_with_the_mark() -> None:
    async def free(request: str, tools: list[str]) -> str:
        """Choose the tool that serves the request."""
        ...

    assert hash_of(free) != choose.contract.sha256


def test_the_hash_changes_with_the_order_of_parameters_because_the_prompt_does() -> None:
    async def one(text: str, limit: int) -> str: ...
    async def other(limit: int, text: str) -> str: ...

    assert hash_of(one) != hash_of(other)


def test_the_hash_changes_with_the_order_of_an_answers_keys_because_its_text_does() -> None:
    class Reversed(BaseModel):
        city: str
        street: str

    async def one(text: str) -> Address: ...
    async def other(text: str) -> Reversed: ...

    assert hash_of(one) != hash_of(other)


def test_the_hash_does_not_change_with_checks() -> None:
    @slot(name="hash.checked")
    async def checked(message: str) -> Literal["refund", "other"]:
        """Name the customer's intent."""
        ...

    checked.check(lambda intent: None)
    assert checked.contract.sha256 == classify.contract.sha256


def test_the_hash_does_not_change_with_a_defaults_value() -> None:
    async def three(text: str, limit: int = 3) -> str: ...
    async def four(text: str, limit: int = 4) -> str: ...

    assert hash_of(three) == hash_of(four)


def test_the_hash_does_not_change_when_a_parameter_gets_a_default() -> None:
    async def without(text: str, limit: int) -> str: ...
    async def with_default(text: str, limit: int = 3) -> str: ...

    assert hash_of(without) == hash_of(with_default)


def test_the_hash_does_not_change_with_the_name_or_the_docstrings_indentation() -> None:
    async def other(message: str) -> Literal["refund", "other"]:
        """
        Name the customer's intent.
        """
        ...

    assert hash_of(other) == classify.contract.sha256


def test_canonical_json_sorts_keys_and_keeps_characters() -> None:
    assert sha256_of({"b": 1, "a": "é"}) == sha256_of({"a": "é", "b": 1})
    assert sha256_of("é") == "f2886017e9c7abacf804b54d64787dce2b611c9544ba21f3affdd126a6e50086"


# -- canonical schemas -----------------------------------------------------------------------------


def test_titles_are_dropped_but_a_property_of_that_name_stays() -> None:
    schema = canonical_schema(Person.model_json_schema())
    assert "title" not in schema
    assert schema["properties"]["title"] == {"description": "Dr, Mx", "type": "string"}
    assert "title" in schema["required"]


def test_the_order_of_properties_is_kept() -> None:
    one = canonical_schema({"properties": {"b": {"type": "string"}, "a": {"type": "string"}}})
    other = canonical_schema({"properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
    assert sha256_of(one) != sha256_of(other)


def test_definitions_are_inlined() -> None:
    schema = canonical_schema(Person.model_json_schema())
    assert "$defs" not in schema
    assert schema["properties"]["home"]["properties"] == {"street": {"type": "string"}, "city": {"type": "string"}}


def test_required_keys_are_sorted() -> None:
    one: dict[str, Any] = {"type": "object", "properties": {}, "required": ["b", "a"]}
    other: dict[str, Any] = {"type": "object", "properties": {}, "required": ["a", "b"]}
    assert canonical_schema(one) == canonical_schema(other)


def test_a_recursive_model_stays_finite() -> None:
    schema = canonical_schema(Tree.model_json_schema())
    assert schema["$ref"] == "#/$defs/Tree"
    assert schema["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}


def test_values_are_kept_as_they_are() -> None:
    schema = {"enum": [{"title": "x", "required": ["b", "a"]}], "default": {"title": "y"}}
    assert canonical_schema(schema) == schema


def test_properties_named_like_keywords_are_kept() -> None:
    names = ("$defs", "title", "required", "properties", "enum")
    schema = {"type": "object", "properties": {name: {"type": "string", "title": "T"} for name in names}}
    assert canonical_schema(schema)["properties"] == {name: {"type": "string"} for name in names}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string|null"),
        ({"enum": ["a", 1, None]}, '"a"|1|null'),
        ({"const": "a"}, '"a"'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer|null"),
        ({"type": "array", "items": {"type": "integer"}}, "integer[]"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a"|"b")[]'),
        ({"type": "array"}, "any[]"),
        ({"type": "object"}, "object"),
        ({}, "any"),
        (True, "any"),
        (
            {"properties": {"city": {"type": "string"}, "kind": {"enum": ["music"]}}, "required": ["city"]},
            '{city: string, kind?: "music"}',
        ),
        (
            {"type": "object", "properties": {"at": {"type": "object", "properties": {"x": {"type": "number"}}}}},
            "{at?: {x?: number}}",
        ),
        (
            {
                "type": "object",
                "properties": {
                    "year": {"type": "integer", "default": "any"},
                    "kind": {"enum": ["2d", "3d"], "default": "all"},
                    "seats": {"type": "integer", "default": 2},
                },
            },
            '{year?: integer, kind?: "2d"|"3d", seats?: integer = 2}',
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "object",
                "definitions": {"unit": {"enum": ["m", "km"]}},
                "properties": {
                    "at": {"type": "array", "items": [{"type": "integer"}], "default": [1]},
                    "unit": {"$ref": "#/definitions/unit", "default": "mile"},
                },
            },
            "{at?: any[] = [1], unit?: any}",
        ),
        (
            {
                "type": "object",
                "properties": {"left": {"$ref": "#", "default": {}}, "right": {"$ref": "#", "default": 1}},
            },
            "{left?: any = {}, right?: any}",
        ),
        (
            {"type": "object", "properties": {"day": {"$ref": "#/properties/day", "default": "today"}}},
            '{day?: any = "today"}',
        ),
    ],
)
def test_a_schema_reads_as_a_type(schema: Any, text: str) -> None:
    assert schema_text(schema) == text


def test_descriptions_stand_behind_their_fields_where_they_are_asked_for() -> None:
    day = {"type": "string", "description": "As\nYYYY-MM-DD.", "default": "today"}
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "day": day}, "required": ["city"]}
    assert schema_text(schema, descriptions=True) == '{\ncity: string\nday?: string = "today" // As YYYY-MM-DD.\n}'
    assert schema_text(schema) == '{city: string, day?: string = "today"}'


def test_a_contract_that_shows_descriptions_is_another_one() -> None:
    async def fill(request: str, parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters", True)]:
        """Fill."""
        ...

    async def bare(request: str, parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters")]:
        """Fill."""
        ...

    shown, plain = Contract(fill, SlotId("a"), None), Contract(bare, SlotId("a"), None)
    assert shown.sha256 != plain.sha256
    schema = {"type": "object", "properties": {"day": {"type": "string", "description": "As YYYY."}}}
    assert "// As YYYY." in shown.baked_text({"request": "r", "parameters": schema})
    assert "As YYYY" not in plain.baked_text({"request": "r", "parameters": schema})


def test_a_reference_in_a_schema_reads_as_what_it_refers_to() -> None:
    schema = {
        "type": "object",
        "properties": {"home": {"$ref": "#/$defs/Address"}},
        "$defs": {"Address": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    assert schema_text(schema) == "{home?: {city?: string}}"
