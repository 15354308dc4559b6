"""What plain code answers: the contestants without any model."""

from __future__ import annotations

from typing import Annotated, Any

from hetero_agents import Fits, OneOf, Slot, slot
from hetero_agents.contract import sha256_of
from hetero_agents.distill.curate import Example
from hetero_agents.distill.evaluate import plain_code


def answers_of(declared: Slot[..., Any], *calls: dict[str, Any], phase: str = "word_overlap") -> list[Any]:
    """What a contestant answers to calls."""
    examples = [Example(sha256_of(values), values, "x", "big", False, "", "") for values in calls]
    return [p.output for p in plain_code(declared.contract, examples, examples) if p.phase == phase]


def test_options_may_be_objects_that_a_schema_lists() -> None:
    @slot(name="plain_code.pick")
    async def pick(request: str, schema: dict[str, Any]) -> Annotated[dict[str, Any], Fits("schema")]:
        """Pick one."""
        ...

    objects = [{"city": "Oslo"}, {"city": "Rome"}]
    call = {"request": "To Rome, please", "schema": {"enum": objects}}
    assert answers_of(pick, call) == [objects[1]]
    assert answers_of(pick, call, phase="most_frequent") == [objects[0]]


def test_what_a_description_says_counts_where_the_names_say_nothing() -> None:
    @slot(name="plain_code.choose")
    async def choose(request: str, tools: dict[str, str]) -> Annotated[str, OneOf("tools")]:
        """Choose a tool."""
        ...

    request, said = "Will it rain in Oslo?", ["Reads the news.", "Says whether it will rain."]
    for tools in ({"a": said[0], "b": said[1]}, {"a": said[1], "b": said[0]}):
        (rain,) = (name for name, text in tools.items() if "rain" in text)
        assert answers_of(choose, {"request": request, "tools": tools}) == [rain]


def test_an_answer_that_abstains_has_no_description() -> None:
    @slot(name="plain_code.maybe")
    async def maybe(request: str, tools: dict[str, str]) -> Annotated[str | None, OneOf("tools")]:
        """Choose a tool, or none."""
        ...

    assert answers_of(maybe, {"request": "Rain?", "tools": {"a": "Says where rain falls."}}) == ["a"]
