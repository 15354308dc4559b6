"""Curation (step S2): what becomes an example, what is left out and why, and a split that nothing leaks through."""

from __future__ import annotations

import random
import string
from typing import Annotated, Any, Literal

import pytest

from hetero_agents import DistillError, Fits, OneOf, Slot, UnknownNameError, slot
from hetero_agents.contract import Sha256
from hetero_agents.distill.curate import Example, curate, with_varied_options
from hetero_agents.spans import SlotCall


def label_slot() -> Slot[[str], Literal["a", "b"]]:
    @slot(name="curate.label")
    async def label(message: str) -> Literal["a", "b"]:
        """Label it."""
        ...

    return label


LABEL = label_slot()


def call(number: int, **fields: Any) -> SlotCall:
    """An answered call that can be trained on; no two are near-duplicates."""
    dice = random.Random(number)
    message = " ".join("".join(dice.choices(string.ascii_lowercase, k=7)) for _ in range(8))
    values: dict[str, Any] = {
        "slot": "curate.label",
        "trace_id": f"{number:032x}",
        "span_id": f"{number:016x}",
        "contract": LABEL.contract.sha256,
        "input": {"message": message},
        "output": "ba"[number % 2],
        "corrected": False,
        "binding": "big",
        "specialist": None,
        "trainable": True,
        "hci": False,
        "outcome": "ok",
        "start": number,
    }
    return SlotCall(**(values | fields))


CALLS = [call(number) for number in range(200)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hci": True}, "talks to a human"),
        ({"contract": "0" * 64}, "another contract"),
        ({"outcome": "failed"}, "of a failed run"),
        ({"specialist": "curate.label@1"}, "answered by a specialist"),
        ({"trainable": False}, "the model's terms"),
        ({"output": "c"}, "not of the contract, as it is stored"),
    ],
)
def test_what_cannot_be_trained_on_is_left_out_and_counted(fields: dict[str, Any], reason: str) -> None:
    made = curate([*CALLS, call(999, **fields)], LABEL.contract, split_by=None)
    assert made.left_out == {reason: 1}
    assert sum(map(len, made.parts.values())) == len(CALLS)


@pytest.mark.parametrize("fields", [{"outcome": "failed"}, {"specialist": "curate.label@1"}, {"trainable": False}])
def test_a_corrected_answer_is_an_example_all_the_same(fields: dict[str, Any]) -> None:
    made = curate([*CALLS, call(999, corrected=True, output="b", **fields)], LABEL.contract, split_by=None)
    assert made.left_out == {}
    assert [e.output for part in made.parts.values() for e in part if e.corrected] == ["b"]


def test_of_one_input_the_latest_correction_counts_or_else_the_latest_answer() -> None:
    def output(*calls: SlotCall) -> Any:
        made = curate([*CALLS, *calls], LABEL.contract, split_by=None)
        assert made.left_out == {"the same input again": len(calls)}
        return next(e.output for part in made.parts.values() for e in part if e.input == CALLS[5].input)

    assert output(call(5, output="b", start=1000)) == "b"
    assert output(call(5, output="b", start=1000, corrected=True), call(5, output="a", start=2000)) == "b"


def test_the_split_is_by_cluster_and_does_not_depend_on_the_order_or_on_what_is_new() -> None:
    def places(calls: list[SlotCall]) -> dict[str, str]:
        parts = curate(calls, LABEL.contract, split_by="message").parts
        return {e.input["message"]: part for part, examples in parts.items() for e in examples}

    before, more = places(CALLS), [call(number) for number in range(200, 260)]
    assert places(CALLS[::-1]) == before
    after = places([*CALLS, *more])
    assert {message: after[message] for message in before} == before
    like = call(5, input={"message": str(CALLS[5].input["message"]) + "!"})
    near = places([*CALLS, like])
    assert near[like.input["message"]] == near[CALLS[5].input["message"]]


def test_too_few_examples_are_refused_with_what_was_left_out() -> None:
    few = [*CALLS[:3], call(7, outcome="failed")]
    with pytest.raises(DistillError, match=r"has 3 usable examples and needs \d+.*left out: 1 \(of a failed run\)"):
        curate(few, LABEL.contract, split_by=None)
    with pytest.raises(DistillError, match=r"calls count if their content is stored, which \[privacy\]"):
        curate([], LABEL.contract, split_by=None)
    with pytest.raises(DistillError, match="The answers of 'big' may not be trained on"):
        curate([call(1, trainable=False)], LABEL.contract, split_by=None)


def test_one_answer_to_all_inputs_is_refused() -> None:
    with pytest.raises(DistillError, match="one and the same answer to all 60 inputs: a constant needs no model"):
        curate([call(n, output="a") for n in range(60)], LABEL.contract, split_by=None)


def test_a_parameter_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="There is no parameter 'massage', did you mean 'message'"):
        curate(CALLS, LABEL.contract, split_by="massage")


@slot(name="curate.described")
async def described(request: str, tools: dict[str, str]) -> Annotated[str, OneOf("tools")]:
    """Choose a tool."""
    ...


TOOLS = {f"tool_{letter}": f"Does what {letter} says, and nothing that any other tool does." for letter in "abcdefgh"}


def described_call(number: int, tools: dict[str, str] = TOOLS) -> SlotCall:
    """A call with descriptions; no two requests are near-duplicates."""
    values = {"request": call(number).input["message"], "tools": tools}
    return call(number, contract=described.contract.sha256, input=values, output=f"tool_{'abcdefgh'[number % 8]}")


def test_the_same_options_in_another_order_are_another_prompt_to_learn_from() -> None:
    turned = dict(reversed(TOOLS.items()))
    calls = [described_call(number) for number in range(60)]
    made, others, both = (
        curate(some, described.contract, split_by="request")
        for some in (calls, [*calls[1:], described_call(0, turned)], [*calls, described_call(0, turned)])
    )
    assert made.sha256 != others.sha256, "what was made of one is not found again for the other"
    assert both.left_out == {}
    assert sum(map(len, both.parts.values())) == 61
    assert (
        len(
            {
                part
                for part, examples in both.parts.items()
                for e in examples
                if e.input["request"] == calls[0].input["request"]
            }
        )
        == 1
    )


@slot(name="curate.listed")
async def listed(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
    """Choose a tool."""
    ...


@slot(name="curate.fitted")
async def fitted(request: str, tools: dict[str, Any]) -> Annotated[dict[str, Any], Fits("tools")]:
    """Fill it in."""
    ...


@pytest.mark.parametrize(
    ("declared", "tools", "output"),
    [
        (described, TOOLS, "tool_{}"),
        (listed, list(TOOLS.values()), "Does what {} says, and nothing that any other tool does."),
        (fitted, {"properties": {name: {"description": said} for name, said in TOOLS.items()}}, {}),
    ],
)
def test_calls_that_offer_the_same_are_no_near_duplicates_for_that(
    declared: Slot[..., Any], tools: Any, output: Any
) -> None:
    def one(number: int) -> SlotCall:
        values = {"request": call(number).input["message"], "tools": tools}
        letter = "abcdefgh"[number % 8]
        given = output.format(letter) if isinstance(output, str) else {"n": number}
        return call(number, contract=declared.contract.sha256, input=values, output=given)

    made = curate([one(number) for number in range(60)], declared.contract, split_by=None)
    assert (made.left_out, len({e.cluster for part in made.parts.values() for e in part})) == ({}, 60)


def test_what_may_be_answered_keeps_calls_apart_where_nothing_else_is_asked() -> None:
    @slot(name="curate.best")
    async def best(options: dict[str, str]) -> Annotated[str, OneOf("options")]:
        """Choose the best."""
        ...

    def one(number: int) -> SlotCall:
        options = dict.fromkeys(call(number).input["message"].split(), "")
        return call(number, contract=best.contract.sha256, input={"options": options}, output=list(options)[number % 8])

    made = curate([one(number) for number in range(60)], best.contract, split_by=None)
    assert len({e.cluster for part in made.parts.values() for e in part}) == 60


def with_options(tools: Any) -> list[Example]:
    """Forty calls with these options, half of them abstaining."""
    return [
        Example(Sha256(f"{n}"), {"request": f"r{n}", "tools": tools}, "c" if n % 2 else None, "big", False, "t", "s")
        for n in range(40)
    ]


def test_options_come_in_other_orders_and_with_some_left_out_but_never_without_the_answer() -> None:
    tools = list("abcdefgh")
    examples = with_options(tools)
    varied = with_varied_options(examples, "tools", forms=3, seed=1)
    assert (
        varied
        == with_varied_options(examples, "tools", forms=3, seed=1)
        != with_varied_options(examples, "tools", 3, 2)
    )
    assert varied[:40] == examples
    for before, after in zip(examples * 2, varied[40:], strict=True):
        assert (after.key, after.output, after.input["request"]) == (before.key, before.output, before.input["request"])
        options = after.input["tools"]
        assert len(set(options)) == len(options) >= 2 and set(options) <= set(tools)
        assert before.output is None or before.output in options
    orders = [tuple(e.input["tools"]) for e in varied[40:]]
    assert len(set(orders)) > 70
    assert 20 < sum(len(order) < 8 for order in orders) < 60
    assert tools == list("abcdefgh"), "the examples themselves are as they were"


def test_options_keep_their_descriptions_in_other_orders() -> None:
    tools = {name: f"does {name}" for name in "abcdefgh"}
    varied = [e.input["tools"] for e in with_varied_options(with_options(tools), "tools", forms=2, seed=1)[40:]]
    assert all(said == tools[name] for options in varied for name, said in options.items())
    assert len({tuple(options) for options in varied}) > 30
    assert {8} < {len(options) for options in varied}
