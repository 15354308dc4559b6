"""Votes among several answers of one model, as wholes or field by field, and how distill finds which of them pays."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, model_validator
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import Fits, Slot, slot
from hetero_agents.bindings import Certificate, ModelConfig, SpecialistId
from hetero_agents.contract import Contract, SlotId, sha256_of
from hetero_agents.distill.certify import Tried, keeps
from hetero_agents.distill.curate import Dataset, Example
from hetero_agents.distill.loop import comparator_of
from hetero_agents.distill.rehearse import Rehearsal, Way, certified, remembered
from hetero_agents.engines import Endpoint
from hetero_agents.routing import Attempt, BadAnswer, Check, vote

from .conftest import OpenApp
from .support import NATIVE_JSON, TOML, Answers, answers, lock_entry
from .test_budget import CONTRACT, said


def voted(
    given: Answers,
    samples: int,
    contract: Contract = CONTRACT,
    *,
    by_field: bool = False,
    checks: Sequence[Check] = (),
    **arguments: Any,
) -> Attempt:
    endpoint, given_too = Endpoint(given.model("fake"), bare_json=True), {"text": "x", **arguments}
    asked = vote(endpoint, contract, given_too, samples=samples, by_field=by_field, checks=checks, retries=0)
    return asyncio.run(asked)


def test_a_vote_returns_what_is_said_most_often() -> None:
    made = voted(answers("a", "b", "b"), 3)
    assert (made.output, made.signals) == ("b", {"agreement": 2 / 3})


def test_among_equals_the_likeliest_answer_is_returned() -> None:
    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        drawn = (info.model_settings or {}).get("temperature", 0) > 0
        return said("drawn" if drawn else "likeliest")

    endpoint = Endpoint(FunctionModel(reply, profile=NATIVE_JSON), bare_json=True)
    assert asyncio.run(vote(endpoint, CONTRACT, {"text": "x"}, samples=2)).output == "likeliest"


def test_answers_that_do_not_hold_are_votes_against() -> None:
    assert voted(answers(["not", "text"], "b", "b", ["not", "text"]), 4).signals == {"agreement": 0.5}


async def not_a(output: str, arguments: Mapping[str, Any]) -> None:
    if output == "a":
        raise ModelRetry("it is no a")


def test_of_answers_that_a_verifier_lets_through_the_commonest_is_returned() -> None:
    made = voted(answers("a", "a", "a", "b", "c", "b"), 6, checks=[not_a])
    assert (made.output, made.signals) == ("b", {"agreement": 2 / 6})


def test_where_a_verifier_lets_none_through_there_is_no_answer() -> None:
    with pytest.raises(BadAnswer, match="it is no a"):
        voted(answers("a"), 3, checks=[not_a])


def test_no_answer_that_holds_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        voted(answers(["not", "text"]), 3)


def test_one_sample_asks_once() -> None:
    given = answers("a")
    assert voted(given, 1).signals is None
    assert len(given.asked) == 1


# -- field by field --------------------------------------------------------------------------------


class Stay(BaseModel):
    first: int
    last: int

    @model_validator(mode="after")
    def _in_order(self) -> "Stay":
        if self.first > self.last:
            raise ValueError("it ends before it begins")
        return self


async def stay(text: str) -> Stay:
    """Say which days."""
    ...


STAY = Contract(stay, SlotId("votes.stay"))


def test_each_field_is_its_commonest_value_and_the_agreement_that_of_the_least_sure_field() -> None:
    given = answers(*({"first": a, "last": b} for a, b in [(1, 5), (1, 6), (1, 6), (2, 7), (3, 5)]))
    made = voted(given, 5, STAY, by_field=True)
    assert (made.output, made.signals) == (Stay(first=1, last=5), {"agreement": 2 / 5})


def test_voted_as_a_whole_the_same_answers_give_another() -> None:
    given = answers(*({"first": a, "last": b} for a, b in [(1, 5), (1, 6), (1, 6), (2, 7), (3, 5)]))
    assert voted(given, 5, STAY).output == Stay(first=1, last=6)


def test_what_does_not_hold_when_put_together_is_voted_as_a_whole() -> None:
    given = answers(*({"first": a, "last": b} for a, b in [(4, 5), (4, 6), (1, 3), (2, 3), (2, 3)]))
    made = voted(given, 5, STAY, by_field=True)
    assert (made.output, made.signals) == (Stay(first=2, last=3), {"agreement": 2 / 5})


def test_a_sample_that_does_not_hold_is_a_vote_against_each_field() -> None:
    given = answers({"first": 2, "last": 1}, {"first": 1, "last": 5}, {"first": 1, "last": 5})
    assert voted(given, 3, STAY, by_field=True).signals == {"agreement": 2 / 3}


def test_a_field_that_most_samples_leave_out_is_left_out() -> None:
    async def fill(text: str, parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters")]:
        """Fill them in."""
        ...

    fields = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}}
    given = answers({"a": 1, "b": True}, {"a": 2}, {"a": 1})
    contract = Contract(fill, SlotId("votes.fill"))
    made = voted(given, 3, contract, by_field=True, parameters=fields)
    assert (made.output, made.signals) == ({"a": 1}, {"agreement": 2 / 3})


def test_the_other_signals_are_those_of_the_answer_that_shares_most_fields() -> None:
    pairs = [(3, 5, -1.0), (1, 6, -2.0), (1, 5, -3.0)]
    given = answers(*(said({"first": a, "last": b}, product) for a, b, product in pairs))
    assert voted(given, 3, STAY, by_field=True).signals == {
        "product": -3.0,
        "text": -3.0,
        "least": -3.0,
        "agreement": 2 / 3,
    }


def test_answers_without_fields_are_voted_as_wholes() -> None:
    assert voted(answers("a", "b", "b"), 3, by_field=True).output == "b"


# -- which of them ---------------------------------------------------------------------------------

ONE = SpecialistId("votes.stay@1")


Reply = Callable[[list[ModelMessage], AgentInfo], ModelResponse]


def text_of(messages: list[ModelMessage]) -> str:
    [request] = messages
    assert isinstance(request, ModelRequest)
    [prompt] = request.parts
    assert isinstance(prompt, UserPromptPart)
    return str(prompt.content)


def wavering(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """One of three samples errs in one field, another one in the other: as wholes they are all different."""
    day = int(text_of(messages))
    wrong = (day + (info.model_settings or {}).get("seed", 0)) % 3
    return said({"first": day - (wrong == 0), "last": day + 2 + (wrong == 1)}, -1.0)


def example(day: int) -> Example:
    values = {"text": f"{day}"}
    answer = {"first": day, "last": day + 2}
    return Example(sha256_of(values), values, answer, "big", False, f"{day:032x}", f"{day:016x}", cluster=f"{day}")


def hasty(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Two of three samples are the same wrong answer, the likeliest among them."""
    day = int(text_of(messages))
    seed = (info.model_settings or {}).get("seed", 0)
    return said({"first": day, "last": day + (2 if seed == 2 else 3)}, -1.0)


def test_a_vote_by_field_is_found_by_data_certified_recalled_and_served(open_app: OpenApp) -> None:
    given = proved(open_app, slot(name="votes.stay")(stay), wavering)
    assert (given.samples, given.by_field, given.verified) == (3, True, False)


def test_a_vote_among_what_checks_let_through_is_found_by_data_certified_recalled_and_served(open_app: OpenApp) -> None:
    declared = slot(name="votes.stay")(stay)

    @declared.check
    def _two_days(output: Stay) -> None:
        if output.last != output.first + 2:
            raise ModelRetry("it is two days")

    given = proved(open_app, declared, hasty)
    assert (given.samples, given.by_field, given.verified) == (3, False, True)


def proved(open_app: OpenApp, declared: Slot[..., Stay], reply: Reply) -> Certificate:
    """Certify a specialist that is asked three times, look at what is remembered of it, and let it answer."""
    toml = f'{TOML}[slots."votes.stay"]\nerror_budget = 0.1\nsamples = 3\naudit = 0\n'
    app = open_app({ONE: FunctionModel(reply, profile=NATIVE_JSON), "fake:big": answers("none")}, toml)
    days = [example(day) for day in range(130)]
    data = Dataset({"train": [], "select": days[:40], "certify": days[40:100], "test": days[100:]}, "input", {})
    folder = app.workspace.ensure_state_dir()
    entry = lock_entry(declared.id, declared.contract.sha256)
    asked = Rehearsal(
        app, declared, ModelConfig(model="fake:small"), ONE, entry, folder, lambda step, done, total: None
    )

    async def shown() -> tuple[Certificate, list[Tried]]:
        compare = await comparator_of(app, declared)
        given, _ = await certified(asked, data, compare, await asked.answers(data.parts["test"], Way()))
        made = entry.model_copy(update={"certificate": given})
        return given, (await remembered(app, declared, compare, made, folder, data))["test"]

    given, on_test = asyncio.run(shown())
    assert (given.wrong, given.threshold is not None) == (0, True)
    assert [keeps(given, t) and not t.wrong for t in on_test] == [True] * 30
    app.workspace.add_specialist(ONE, entry.model_copy(update={"certificate": given}))
    app.workspace.activate(declared.id, ONE)
    result = asyncio.run(declared.run("7"))
    assert (result.output, result.route.specialist) == (Stay(first=7, last=9), ONE)
    return given
