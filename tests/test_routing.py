"""Which model answers: the chain in order, the circuit breaker, what a confidence is."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelRequest, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.profiles import ModelProfile

from hetero_agents import (
    AnswerError,
    Budget,
    BudgetError,
    ConfigError,
    EngineError,
    IntegrityError,
    Ledger,
    ModelRetry,
    ReplayMissError,
    slot,
)
from hetero_agents.bindings import SpecialistId
from hetero_agents.contract import Contract, SlotId
from hetero_agents.engines import Endpoint
from hetero_agents.routing import Answer, Link, State, Terms, ask
from hetero_agents.routing.state import FAILURES_TO_OPEN, REST_SECONDS

from .conftest import OpenApp
from .support import Answers, answers, lock_entry


async def name(text: str) -> str:
    """Name it."""
    ...


CONTRACT = Contract(name, SlotId("routing.name"))


class Clock:
    """A clock that goes when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> State:
    return State(tmp_path / "state" / "state.db", clock)


def opener(given: Answers | Exception) -> Callable[[], Awaitable[Endpoint]]:
    async def open_() -> Endpoint:
        if isinstance(given, Exception):
            raise given
        return Endpoint(given.model("fake"), bare_json=True)

    return open_


def link(label: str, given: Answers | Exception) -> Link:
    """Return a link of a chain; a label with `@` is a specialist's."""
    return Link(label, opener(given), specialist=label if "@" in label else None)


def asked(state: State, *chain: Link, refused: str | None = None) -> Answer:
    return asyncio.run(ask(chain, CONTRACT, {"text": "x"}, checks=(), state=state, instrument=None, refused=refused))


# -- the chain -------------------------------------------------------------------------------------


def test_the_first_model_that_answers_is_kept_and_no_other_is_asked(state: State) -> None:
    second = answers("b")
    route = asked(state, link("one", answers("a")), link("two", second)).route
    assert (route.decision, route.binding, route.reason) == ("kept", "one", None)
    assert second.asked == []


@pytest.mark.parametrize(
    "trouble",
    [
        EngineError("no memory"),
        IntegrityError("another file"),
        ReplayMissError("no answer"),
        ModelHTTPError(503, "fake"),
        UnexpectedModelBehavior("no choices"),
        OSError("no space left on device"),
        ValueError("no JSON"),
        IndexError("no choices"),
        ["not", "of", "the", "contract"],
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_a_model_that_fails_hands_the_call_to_the_next(state: State, trouble: Any) -> None:
    route = asked(state, link("one", answers(trouble)), link("two", answers("b"))).route
    assert (route.decision, route.binding) == ("escalated", "two")
    assert route.reason is not None
    assert route.reason.startswith("one: ")


def test_models_are_asked_in_the_order_of_the_chain(state: State) -> None:
    route = asked(
        state, link("one", EngineError("a")), link("two", EngineError("b")), link("three", answers("c"))
    ).route
    assert (route.binding, route.reason) == ("three", "one: a; two: b")


def test_a_specialist_that_answers_is_named_in_the_route(state: State) -> None:
    assert asked(state, link("a.b@1", answers("a"))).route.specialist == "a.b@1"


def test_what_the_user_wrote_wrong_is_said_and_not_escalated(state: State) -> None:
    with pytest.raises(ConfigError, match="no key"):
        asked(state, link("one", ConfigError("no key")), link("two", answers("b")))


def test_what_is_wrong_with_a_specialist_never_stops_a_call(state: State) -> None:
    route = asked(state, link("a.b@1", ConfigError("no adapters")), link("big", answers("b"))).route
    assert (route.binding, route.reason) == ("big", "a.b@1: no adapters")


def test_a_specialist_that_the_budget_does_not_allow_stops_the_call_though_a_cheaper_model_is_next(
    state: State,
) -> None:
    big = answers("b")
    dear = Link("a.b@1", opener(answers("a")), specialist="a.b@1", terms=Terms("a.b@1", max_tokens=9_000))
    cheap = Link("big", opener(big), terms=Terms("big", max_tokens=1))
    with Ledger(Budget(tokens=5_000)), pytest.raises(BudgetError, match="The budget of 5000 tokens"):
        asked(state, dear, cheap)
    assert big.asked == []


def test_why_a_specialist_was_refused_stands_in_the_route(state: State) -> None:
    route = asked(state, link("big", answers("b")), refused="the contract has changed").route
    assert (route.decision, route.reason) == ("escalated", "the contract has changed")


def test_a_miss_of_the_last_model_passes(state: State) -> None:
    with pytest.raises(ReplayMissError, match="no answer"):
        asked(state, link("key", answers(ReplayMissError("no answer"))))


def test_a_chain_without_an_answer_is_one_error_with_every_reason(state: State) -> None:
    with pytest.raises(AnswerError, match=r"slot 'routing\.name' \(one: a; two: b\)"):
        asked(state, link("one", EngineError("a")), link("two", EngineError("b")))


# -- the breaker -----------------------------------------------------------------------------------


def fail(state: State, times: int) -> None:
    for _ in range(times):
        asked(state, link("a.b@1", EngineError("no memory")), link("big", answers("b")))


def test_a_specialist_rests_after_three_engine_failures_in_a_row(state: State) -> None:
    assert FAILURES_TO_OPEN == 3
    fail(state, 2)
    assert not state.rests("a.b@1")
    fail(state, 1)
    assert state.rests("a.b@1")


def test_a_resting_specialist_is_not_asked_and_the_route_says_so(state: State) -> None:
    fail(state, 3)
    specialist = answers("a")
    route = asked(state, link("a.b@1", specialist), link("big", answers("b"))).route
    assert specialist.asked == []
    assert route.reason == "a.b@1: it rests after repeated engine failures"


def test_a_rest_ends(state: State, clock: Clock) -> None:
    fail(state, 3)
    clock.now += REST_SECONDS - 1
    assert state.rests("a.b@1")
    clock.now += 1
    assert asked(state, link("a.b@1", answers("a"))).route.specialist == "a.b@1"


def test_an_answer_forgets_the_failures_before_it(state: State) -> None:
    fail(state, 2)
    asked(state, link("a.b@1", answers("a")))
    fail(state, 2)
    assert not state.rests("a.b@1")


def test_a_wrong_answer_is_no_engine_failure(state: State) -> None:
    for _ in range(4):
        asked(state, link("a.b@1", answers(3)), link("big", answers("b")))
    assert not state.rests("a.b@1")


def test_a_model_of_the_file_never_rests(state: State) -> None:
    for _ in range(4):
        asked(state, link("small", EngineError("no memory")), link("big", answers("b")))
    small = answers("a")
    assert asked(state, link("small", small), link("big", answers("b"))).route.binding == "small"


def test_processes_of_a_workspace_share_the_breaker(tmp_path: Path, clock: Clock) -> None:
    first, second = (State(tmp_path / "state.db", clock) for _ in range(2))
    fail(first, 3)
    assert second.rests("a.b@1")
    first.close()
    second.close()


def test_a_folder_that_cannot_be_written_keeps_the_breaker_in_memory(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    state = State(tmp_path / "file" / "state.db", clock)
    fail(state, 3)
    assert state.rests("a.b@1")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_slot_whose_specialist_fails_is_answered_by_its_tier(open_app: OpenApp) -> None:
    @slot(name="routing.desk", tier="slm")
    async def desk(text: str) -> str: ...

    specialist_id = SpecialistId("routing.desk@1")
    models = {specialist_id: answers(EngineError("no memory")), "fake:small": answers("small")}
    app = open_app({str(key): value for key, value in models.items()})
    app.workspace.add_specialist(specialist_id, lock_entry(desk.id, desk.contract.sha256))
    app.workspace.activate(desk.id, specialist_id)
    result = asyncio.run(desk.run("x"))
    assert (result.output, result.route.decision) == ("small", "escalated")
    assert result.route.reason == "routing.desk@1: no memory"


# -- confidence ------------------------------------------------------------------------------------


def with_logprobs(*logprobs: float) -> ModelResponse:
    tokens = [{"token": "a", "logprob": logprob} for logprob in logprobs]
    return ModelResponse(parts=[TextPart(json.dumps("a"))], provider_details={"logprobs": tokens})


def test_the_confidence_of_an_answer_is_in_its_attempt(state: State) -> None:
    assert asked(state, link("one", answers(with_logprobs(math.log(0.5))))).attempt.confidence == pytest.approx(0.5)


def test_a_baked_specialist_is_sent_the_values_alone_and_its_refused_answer_goes_down_the_chain(state: State) -> None:
    given = answers(["not", "of", "the", "contract"], "never asked for")

    async def open_() -> Endpoint:
        return Endpoint(given.model("fake"), bare_json=True, baked=True)

    route = asked(state, Link("a@1", open_, specialist="a@1"), link("big", answers("b"))).route
    assert (route.decision, route.binding) == ("escalated", "big")
    ((request,),) = given.asked
    assert isinstance(request, ModelRequest)
    assert request.instructions is None
    assert [part.content for part in request.parts if isinstance(part, UserPromptPart)] == ["x\n"]


def test_a_refused_tool_call_is_answered_by_its_refusal(state: State) -> None:
    """Providers refuse a conversation in which a tool call has no result."""
    calls = [
        ModelResponse(parts=[ToolCallPart("final_result", {"response": value}, tool_call_id="c")]) for value in (1, "x")
    ]
    given = answers(*calls)
    model = FunctionModel(given.reply, model_name="fake", profile=ModelProfile(default_structured_output_mode="tool"))

    async def open_() -> Endpoint:
        return Endpoint(model)

    assert asked(state, Link("big", open_)).attempt.output == "x"
    (refusal,) = given.asked[1][-1].parts
    assert isinstance(refusal, RetryPromptPart)
    assert (refusal.tool_name, refusal.tool_call_id) == ("final_result", "c")


# -- repair ----------------------------------------------------------------------------------------


async def no_a(output: Any, arguments: Any) -> None:
    if output == "a":
        raise ModelRetry("a is taken")


def mended(state: State, *chain: Link, repair: bool = True) -> Answer:
    given = ask(chain, CONTRACT, {"text": "x"}, checks=[no_a], state=state, instrument=None, repair=repair)
    return asyncio.run(given)


def test_the_next_model_sees_nothing_of_a_refused_answer(state: State) -> None:
    big = answers("b")
    assert mended(state, link("small", answers("a")), link("big", big), repair=False).attempt.output == "b"
    assert big.seen() == ["x"]


def test_asked_to_repair_it_sees_the_refused_answer_and_why_after_the_call(state: State) -> None:
    big = answers("b")
    answer = mended(state, link("small", answers("a")), link("big", big))
    assert (answer.attempt.output, answer.route.reason) == ("b", "small: a is taken")
    assert big.seen() == ["x", "a is taken"]
    [[_, tried, refused]] = big.asked
    assert isinstance(tried, ModelResponse)
    assert isinstance(refused, ModelRequest)
    assert (tried.text, refused.instructions) == ('"a"', "Name it.")


def test_a_repair_may_itself_be_mended_once(state: State) -> None:
    big = answers("a", "b")
    assert mended(state, link("small", answers("a")), link("big", big)).attempt.output == "b"
    assert big.seen() == ["x", "a is taken", "x", "a is taken", "a is taken"]


def test_what_is_repaired_is_the_latest_refused_answer_also_past_a_model_that_failed(state: State) -> None:
    big = answers("b")
    dead = link("dead", EngineError("no memory"))
    mended(state, link("one", answers(1)), link("two", answers("a")), dead, link("big", big))
    assert big.seen() == ["x", "a is taken"]


@pytest.mark.parametrize("trouble", [EngineError("no memory"), ModelResponse(parts=[])], ids=["dead", "silent"])
def test_where_no_answer_was_given_there_is_nothing_to_repair(state: State, trouble: Any) -> None:
    big = answers("b")
    mended(state, link("small", answers(trouble)), link("big", big))
    assert big.seen() == ["x"]


def test_what_a_baked_specialist_wrote_is_repaired_as_an_answer_to_the_whole_prompt(state: State) -> None:
    given, big = answers(["not", "text"]), answers("b")

    async def open_() -> Endpoint:
        return Endpoint(given.model("fake"), bare_json=True, baked=True)

    mended(state, Link("a@1", open_, specialist="a@1"), link("big", big))
    [[whole, tried, _]] = big.asked
    assert isinstance(whole, ModelRequest)
    assert (whole.instructions, isinstance(tried, ModelResponse) and tried.text) == ("Name it.", '["not", "text"]')


def test_a_specialist_is_never_asked_to_repair(state: State) -> None:
    second = answers("b")
    mended(state, link("a@2", answers("a")), link("a@1", second))
    assert second.seen() == ["x"]


def test_a_refused_tool_call_is_shown_to_the_next_model_as_text(state: State) -> None:
    """Its model may have no tool of that name."""
    wrote = ModelResponse(parts=[ToolCallPart("final_result", {"response": 1}, tool_call_id="c")])
    model = FunctionModel(answers(wrote).reply, profile=ModelProfile(default_structured_output_mode="tool"))
    big = answers("b")

    async def open_() -> Endpoint:
        return Endpoint(model)

    mended(state, Link("tools", open_), link("big", big))
    [[_, tried, refused]] = big.asked
    assert isinstance(tried, ModelResponse)
    assert (tried.tool_calls, tried.text) == ([], '{"response":1}')
    assert isinstance(refused.parts[0], RetryPromptPart)
    assert refused.parts[0].tool_name is None
