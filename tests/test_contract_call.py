"""What a slot sends and takes back: arguments, messages, answers (DESIGN §3)."""

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)

from hetero_agents import Fits, NotSent, OneOf, Slot, UserError, slot
from hetero_agents.contract import sha256_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    title: str
    price: float
    note: str | None = None


class Order(BaseModel):
    items: list[Item]
    colour: Colour = Colour.RED


class Handle:
    """What pydantic cannot serialise."""


@slot(name="contract.choose")
async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
    """Choose a tool."""
    ...


@slot(name="contract.maybe")
async def maybe(tools: list[str]) -> Annotated[str | None, OneOf("tools")]:
    """Choose a tool, or none."""
    ...


@slot(name="contract.described")
async def described(request: str, tools: dict[str, str]) -> Annotated[str, OneOf("tools")]:
    """Choose a tool by what it does."""
    ...


@slot(name="contract.fill")
async def fill(request: str, parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters")]:
    """Write the arguments."""
    ...


@slot(name="contract.order")
async def order(text: str, limit: int = 3) -> Order:
    """Read the order."""
    ...


# -- a call's arguments ----------------------------------------------------------------------------


def test_arguments_bind_as_those_of_a_plain_function() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'tools'"):
        choose.contract.bind(("x",), {})


def test_defaults_are_applied_before_hashing() -> None:
    contract = order.contract
    assert contract.dump(contract.bind(("x",), {})) == contract.dump(contract.bind((), {"text": "x", "limit": 3}))


def test_what_is_dumped_can_be_loaded_again() -> None:
    given = fill.contract.bind(("x", {"type": "object"}), {})
    assert fill.contract.load(fill.contract.dump(given)) == given


@pytest.mark.parametrize("chosen", [choose, maybe])
def test_an_empty_list_is_an_error_before_any_call(chosen: Slot[..., str | None]) -> None:
    arguments: dict[str, Any] = {name: [] if name == "tools" else "x" for name in chosen.contract.parameters}
    with pytest.raises(UserError, match="empty 'tools': there is nothing to choose from"):
        chosen.contract.bind((), arguments)


@pytest.mark.parametrize("schema", [{"type": "bogus"}, {"type": "string", "pattern": "("}])
def test_an_invalid_schema_is_an_error_before_any_call(schema: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a 'parameters' that is no JSON Schema"):
        fill.contract.bind(("x", schema), {})


def test_a_schema_with_a_reference_to_nowhere_is_an_error_before_any_call() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}
    with pytest.raises(UserError, match="parameters"):
        fill.contract.bind(("x", schema), {})


def test_a_schema_is_never_fetched_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda request, *_: asked.append(request))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    schema = {"type": "object", "properties": {"a": {"$ref": "http://schemas.invalid/a.json"}}}
    with pytest.raises((UserError, ValueError)):
        fill.contract.validate({"a": 1}, fill.contract.bind(("x", schema), {}))
    assert asked == []


# -- what is sent ----------------------------------------------------------------------------------


def prompt_of(messages: list[ModelMessage]) -> Any:
    request = messages[-1]
    assert isinstance(request, ModelRequest)
    [part] = request.parts
    assert isinstance(part, UserPromptPart)
    return part.content


def test_one_value_is_the_prompt_itself_and_several_have_their_names() -> None:
    @slot(name="contract.one")
    async def one(message: str) -> str: ...

    assert prompt_of(one.contract.messages({"message": "Hello"})) == "Hello"
    assert prompt_of(order.contract.messages({"text": "Hello", "limit": 3})) == "text: Hello\nlimit: 3"


def test_what_the_answer_is_chosen_from_stands_first_for_prompt_caches() -> None:
    prompt = prompt_of(choose.contract.messages({"request": "Hello", "tools": ["a", "b"]}))
    assert prompt == 'tools: ["a","b"]\nrequest: Hello'


def test_a_schema_is_sent_as_a_type() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    prompt = prompt_of(fill.contract.messages({"request": "x", "parameters": schema}))
    assert prompt == "parameters: {city: string}\nrequest: x"


def test_what_is_not_sent_is_neither_in_the_dump_nor_the_messages_nor_the_hash() -> None:
    @slot(name="contract.handle")
    async def with_handle(text: str, handle: Annotated[Handle, NotSent]) -> str: ...

    @slot(name="contract.nohandle")
    async def without_handle(text: str) -> str: ...

    arguments = with_handle.contract.bind(("x", Handle()), {})
    assert with_handle.contract.dump(arguments) == {"text": "x"}
    assert prompt_of(with_handle.contract.messages(arguments)) == "x"
    assert with_handle.contract.sha256 == without_handle.contract.sha256


def test_a_history_parameter_becomes_the_messages_before_the_prompt() -> None:
    @slot(name="contract.history")
    async def follow(history: list[ModelMessage], message: str) -> str: ...

    before: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart("Hi")]),
        ModelResponse(parts=[TextPart("Hello")]),
    ]
    messages = follow.contract.messages({"history": before, "message": "And now?"})
    assert messages[:2] == before
    assert prompt_of(messages) == "And now?"


def test_an_image_goes_into_the_prompt_beside_the_text() -> None:
    @slot(name="contract.image")
    async def look(image: BinaryContent, question: str) -> str: ...

    image = BinaryContent(b"\x89PNG", media_type="image/png")
    assert prompt_of(look.contract.messages({"image": image, "question": "What?"})) == ["What?", image]


def test_several_images_go_into_the_prompt_in_order() -> None:
    @slot(name="contract.images")
    async def compare(images: list[BinaryContent], question: str) -> str: ...

    images = [BinaryContent(bytes([n]), media_type="image/png") for n in (1, 2)]
    assert prompt_of(compare.contract.messages({"images": images, "question": "Same?"})) == ["Same?", *images]


def test_calls_of_text_alone_can_be_baked() -> None:
    @slot(name="contract.chat")
    async def chat(history: list[ModelMessage], message: str) -> str: ...

    @slot(name="contract.picture")
    async def picture(image: BinaryContent) -> str: ...

    @slot(name="contract.tool")
    async def tool(text: str, limit: int, handle: Annotated[Handle, NotSent]) -> str: ...

    assert [s.contract.can_bake for s in (chat, picture, tool)] == [False, False, True]
    assert tool.contract.baked_text({"text": "x", "limit": 3, "handle": Handle()}) == "x\n3\n"


# -- the answer ------------------------------------------------------------------------------------


def test_one_of_asks_for_the_values_of_this_call_alone() -> None:
    assert choose.contract.answer_schema({"tools": ["a", "b", "a"]}) == {"type": "string", "enum": ["a", "b"]}


def test_abstaining_is_one_of_the_answers_where_the_type_allows_it() -> None:
    assert maybe.contract.answer_schema({"tools": ["a"]}) == {"enum": ["a", None]}
    assert maybe.contract.validate(None, {"tools": ["a"]}) is None


def test_options_may_have_descriptions_which_are_read_and_not_answered() -> None:
    call = described.contract.bind(("Rain?", {"the  weather": "Says how it\n  will be.", "news": ""}), {})
    assert described.contract.baked_text(call) == '{\n"the  weather": Says how it will be.\n"news":\n}\nRain?\n'
    assert described.contract.answer_schema(call) == {"type": "string", "enum": ["the  weather", "news"]}
    assert described.contract.options(call) == ["the  weather", "news"]
    assert described.contract.option_texts(call) == ['"the  weather"', '"news"']
    assert described.contract.validate("news", call) == "news"
    with pytest.raises(ValueError, match="'Says how it' is not one of the tools"):
        described.contract.validate("Says how it", call)
    with pytest.raises(UserError, match="empty 'tools'"):
        described.contract.bind(("Rain?", {}), {})


def test_the_order_of_options_tells_calls_apart_with_descriptions_as_in_a_list() -> None:
    for declared, tools, turned in (
        (described, {"a": "x", "b": "y"}, {"b": "y", "a": "x"}),
        (choose, ["a", "b"], ["b", "a"]),
    ):
        one, other = ({"request": "x", "tools": given} for given in (tools, turned))
        keys = {declared.contract.key_of(call) for call in (one, other, dict(reversed(one.items())))}
        assert len(keys) == len({declared.contract.baked_text(call) for call in (one, other)}) == 2
    assert choose.contract.key_of({"tools": ["a"], "request": "x"}) == sha256_of({"request": "x", "tools": ["a"]})


@pytest.mark.parametrize(
    ("tools", "others"),
    [
        ({"a: b": "c"}, {"a": "b: c"}),
        ({"a": "", "b": ""}, {"a:\nb": ""}),
        ({'a": b': "c"}, {"a": 'b": c'}),
        ({"a": "b\nc: d"}, {"a": "b", "c": "d"}),
    ],
)
def test_other_options_are_never_the_same_prompt(tools: dict[str, str], others: dict[str, str]) -> None:
    prompts = [described.contract.baked_text({"request": "x", "tools": given}) for given in (tools, others)]
    assert prompts[0] != prompts[1]
    assert [prompt.count("\n") for prompt in prompts] == [3 + len(tools), 3 + len(others)]
    for prompt, given in zip(prompts, (tools, others), strict=True):
        assert all(described.contract.answer_text(name, {"tools": given}) in prompt for name in given)


def test_a_description_that_is_no_text_is_refused_before_any_prompt() -> None:
    tools: Any = {"weather": "", "news": None}
    with pytest.raises(UserError, match="the description of 'news' is None; write a text, \"\" where there is none"):
        described.contract.bind(("Rain?", tools), {})


def test_an_answer_outside_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="'c' is not one of the tools"):
        choose.contract.validate("c", {"request": "x", "tools": ["a", "b"]})


def test_an_answer_that_does_not_fit_the_schema_says_where() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with pytest.raises(ValueError, match=r"\$\.n: 'x' is not of type 'integer'"):
        fill.contract.validate({"n": "x"}, {"request": "x", "parameters": schema})


def said(text: str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(text)])


def test_a_bare_answer_is_parsed_where_the_engine_takes_any_root() -> None:
    assert choose.contract.parse(said('"a"'), {"tools": ["a"]}, bare_json=True) == "a"


def test_an_answer_that_is_no_object_is_unwrapped_where_the_engine_demands_objects() -> None:
    assert choose.contract.parse(said('{"response": "a"}'), {"tools": ["a"]}, bare_json=False) == "a"


def test_an_object_is_never_wrapped() -> None:
    text = '{"items": [{"title": "x", "price": 1}]}'
    assert order.contract.parse(said(text), {}, bare_json=False).items == [Item(title="x", price=1)]


def test_an_answer_by_tool_call_is_parsed() -> None:
    response = ModelResponse(parts=[ToolCallPart("final_result", {"response": "a"})])
    assert choose.contract.parse(response, {"tools": ["a"]}, bare_json=False) == "a"


@pytest.mark.parametrize(
    ("text", "complaint"), [("nonsense", "is not JSON"), ('"a"', "has no key 'response'"), ("{}", "has no key")]
)
def test_an_answer_in_the_wrong_form_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        choose.contract.parse(said(text), {"tools": ["a"]}, bare_json=False)


def asked_schema(declared: Slot[..., Any], call: dict[str, Any], *, bare_json: bool) -> Any:
    parameters = declared.contract.request_parameters(call, mode="native", bare_json=bare_json)
    assert parameters.output_object is not None
    return parameters.output_object.json_schema


def test_the_request_wraps_an_answer_that_is_no_object_and_only_where_needed() -> None:
    call = {"tools": ["a"]}
    enum = {"type": "string", "enum": ["a"]}
    wrapped = {"type": "object", "properties": {"response": enum}, "required": ["response"]}
    assert asked_schema(choose, call, bare_json=False) == wrapped
    assert asked_schema(choose, call, bare_json=True) == enum


def test_definitions_stay_at_the_root_when_an_answer_is_wrapped() -> None:
    @slot(name="contract.items")
    async def items(text: str) -> list[Item]: ...

    schema = asked_schema(items, {}, bare_json=False)
    assert schema["properties"]["response"]["items"] == {"$ref": "#/$defs/Item"}
    assert "Item" in schema["$defs"]


def test_a_model_that_answers_by_tool_is_given_the_schema_as_a_tool() -> None:
    asked = order.contract.request_parameters({}, mode="tool", bare_json=False)
    assert [tool.name for tool in asked.output_tools] == ["final_result"]
    assert asked.output_tools[0].parameters_json_schema["properties"].keys() == {"items", "colour"}
    assert (asked.output_object, asked.allow_text_output) == (None, False)


def test_the_text_of_an_answer_has_its_keys_in_the_order_of_the_schema() -> None:
    value = {"colour": "blue", "items": [{"note": None, "price": 1.0, "title": "é"}]}
    assert order.contract.answer_text(value, {}) == (
        '{"items": [{"title": "é", "price": 1.0, "note": null}], "colour": "blue"}'
    )


def test_the_text_of_an_answer_follows_the_schema_of_its_call() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}}
    assert fill.contract.answer_text({"a": 1, "x": 3, "b": 2}, {"parameters": schema}) == '{"b": 2, "a": 1, "x": 3}'


def test_few_and_known_answers_are_listed_and_others_are_not() -> None:
    @slot(name="contract.yes")
    async def yes(text: str) -> bool: ...
    @slot(name="contract.colour")
    async def colour(text: str) -> Colour: ...
    @slot(name="contract.literal")
    async def literal(text: str) -> Literal["a", "b"]: ...

    assert maybe.contract.options({"tools": ["a", "b"]}) == ["a", "b", None]
    assert yes.contract.options({}) == [True, False]
    assert colour.contract.options({}) == ["red", "blue"]
    assert literal.contract.options({}) == ["a", "b"]
    assert order.contract.options({}) is None


def test_a_schema_with_references_inside_definitions_has_no_listed_answers() -> None:
    schema = {"$ref": "#/$defs/a/properties/b", "$defs": {"a": {"properties": {"b": {"type": "object"}}}}}
    assert fill.contract.options({"parameters": schema}) is None
