# pyright: strict
"""Code as users write it. A line that must be a type error ends in `# error`; every other line is right."""

import asyncio
from typing import Annotated, Any, Literal, assert_type

from pydantic import BaseModel
from pydantic_ai import Agent

from hetero_agents import (
    CodeAgent,
    Fits,
    ModelRetry,
    NotSent,
    OneOf,
    Slot,
    SlotResult,
    Slots,
    code_agent,
    slot,
    subject,
    workflow_outcome,
)

Intent = Literal["refund", "other"]


class Order(BaseModel):
    city: str
    count: int


class Database: ...


@slot
async def classify(message: str, urgent: bool = False) -> Intent:
    """Name the customer's intent."""
    ...


@slot(tier="slm", hci=True, name="desk.read", instructions="Read the order.")
async def read(text: str, database: Annotated[Database, NotSent]) -> Order: ...


@slot
async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]: ...


@slot
async def maybe(tools: list[str]) -> Annotated[str | None, OneOf("tools")]: ...


@slot
async def fill(parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters")]: ...


@slot(tier="medium")  # error
async def wrong_tier(text: str) -> str: ...


# -- calls -----------------------------------------------------------------------------------------


async def calls() -> None:
    assert_type(await classify("x"), Intent)
    assert_type(await classify("x", urgent=True), Intent)
    assert_type(await read("x", Database()), Order)
    assert_type(await choose("x", ["a"]), str)
    assert_type(await maybe(["a"]), str | None)
    assert_type(await fill({}), dict[str, Any])
    assert_type(await classify.run("x"), SlotResult[Intent])
    assert_type((await classify.run("x")).output, Intent)
    assert_type((await classify.run("x")).confidence, float | None)
    assert_type((await classify.run("x")).route.decision, Literal["kept", "escalated", "cached"])
    await classify(3)  # error
    await classify()  # error
    await classify("x", urgent="yes")  # error
    await classify("x", soon=True)  # error
    await classify.run(3)  # error
    await choose("x", "a")  # error
    wrong: int = await classify("x")  # error
    assert_type(await classify("x"), str)  # error
    print((await classify.run("x")).outptu)  # error
    print(wrong)
    match await classify("x"):
        case "refund":
            pass
        case "other":
            pass


assert_type(classify.sync("x"), Intent)
classify.sync(3)  # error


# -- checks ----------------------------------------------------------------------------------------


@classify.check
def known(intent: Intent) -> None:
    if intent == "other":
        raise ModelRetry("say more")


@classify.check
async def known_later(intent: Intent, message: str, urgent: bool = False) -> None: ...


@read.check
def right_city(order: Order) -> None: ...


@classify.check  # error
def wrong_output(order: Order) -> None: ...


@classify.check  # error
def wrong_arguments(intent: Intent, message: int, urgent: bool = False) -> None: ...


@classify.check  # error
def wrong_result(intent: Intent) -> bool: ...


# -- agents ----------------------------------------------------------------------------------------

desk = Agent("slot:desk", output_type=Order, capabilities=[Slots(classify, read)])
Agent("slot:desk", capabilities=[Slots()])
Slots(known)  # error


async def agents() -> None:
    assert_type((await desk.run("x")).output, Order)


@code_agent
async def triage(message: str) -> str:
    with subject("patient-7"):
        intent = await classify(message)
    workflow_outcome(ok=True, score=0.5)
    return intent


@code_agent(name="desk.night")
async def night(count: int) -> Order:
    return Order(city="Oslo", count=count)


agent: CodeAgent[..., str] = triage
declared: Slot[..., Intent] = classify
assert_type(asyncio.run(night(3)), Order)
assert_type(asyncio.run(triage("x")), str)
asyncio.run(triage(3))  # error
workflow_outcome(True)  # error


def not_async(text: str) -> str: ...


slot(not_async)  # error
