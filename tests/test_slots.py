"""A slot's call: value and result, checks, the chain of models, sync callers, cancellation."""

import asyncio
import contextvars
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from hetero_agents import AnswerError, EngineError, ModelRetry, OneOf, Slot, SlotDefinitionError, UserError, flush, slot
from hetero_agents.distill.base import chat_of
from hetero_agents.distill.curate import curate
from hetero_agents.slots import App, registry
from hetero_agents.spans import SealedVault, calls_of
from hetero_agents.testing import scripted

from .conftest import OpenApp
from .support import NATIVE_JSON, TOML, answers

Intent = Literal["refund", "delivery", "other"]


class Order(BaseModel):
    city: str
    count: int


def classify_slot(**options: Any) -> Slot[[str], Intent]:
    @slot(name="slots.classify", **options)
    async def classify(message: str) -> Intent:
        """Name the customer's intent."""
        ...

    return classify


def slot_span(app: App) -> dict[str, Any]:
    """Return the attributes of the only slot's span."""
    app.tracing.flush()
    [span] = [span for span in app.vault.read() if "hetero.slot" in span["attributes"]]
    return span["attributes"]


def call(declared: Callable[..., Any], *args: Any) -> Any:
    return asyncio.run(declared(*args))


# -- values and results ----------------------------------------------------------------------------


def test_a_call_gives_the_value() -> None:
    with scripted({"slots.classify": "refund"}):
        assert call(classify_slot(), "My parcel is broken") == "refund"


def test_a_model_comes_back_as_its_type() -> None:
    @slot(name="slots.order")
    async def order(text: str) -> Order: ...

    with scripted({"slots.order": {"city": "Oslo", "count": 2}}):
        assert call(order, "x") == Order(city="Oslo", count=2)


def test_a_field_that_has_another_name_in_json_keeps_it_there(tmp_path: Path) -> None:
    class Trip(BaseModel):
        from_: str = Field(alias="from")

    @slot(name="slots.trip")
    async def trip(last: Trip) -> Trip: ...

    with scripted({"slots.trip": {"from": "Oslo"}}) as vault:
        made = call(trip, Trip(**{"from": "Rome"}))
        flush()
    (stored,) = calls_of(vault, "slots.trip")
    assert (stored.input, stored.output) == ({"last": {"from": "Rome"}}, {"from": "Oslo"})
    arguments = trip.contract.load(stored.input)
    assert trip.contract.validate(stored.output, arguments) == made
    assert trip.contract.comes_back(made, arguments)


def test_a_script_may_depend_on_the_prompt() -> None:
    with scripted({"slots.classify": lambda prompt: "refund" if "money" in prompt else "other"}):  # pyright: ignore[reportUnknownLambdaType]
        classify = classify_slot()
        assert [call(classify, text) for text in ("money back", "hello")] == ["refund", "other"]


def test_a_call_with_described_options_comes_back_from_the_vault_as_it_was_asked(tmp_path: Path) -> None:
    @slot(name="slots.described")
    async def described(request: str, tools: dict[str, str]) -> Annotated[str, OneOf("tools")]:
        """Choose a tool."""
        ...

    tools, prompts = {"b weather": "Says how\n it will be.", "a": ""}, list[str]()

    def choose(prompt: str) -> str:
        prompts.append(prompt)
        return "b weather"

    with scripted({"slots.described": choose}) as passing:
        assert call(described, "Rain?", tools) == "b weather"
        flush()
    vault = SealedVault(tmp_path / "vault")
    vault.write(list(passing.read()))
    (stored,) = calls_of(vault, "slots.described")
    vault.close()
    assert prompts == ['tools: {\n"b weather": Says how it will be.\n"a":\n}\nrequest: Rain?']
    arguments = described.contract.load(stored.input)
    assert (arguments, list(arguments["tools"])) == ({"request": "Rain?", "tools": tools}, ["b weather", "a"])
    assert described.contract.validate(stored.output, arguments) == "b weather"
    assert chat_of(described.contract.messages(arguments))[-1] == {"role": "user", "content": prompts[0]}


def test_run_says_how_the_answer_came_about(open_app: OpenApp) -> None:
    usage = RequestUsage(input_tokens=7, output_tokens=2)
    app = open_app({"fake:big": answers(ModelResponse(parts=[TextPart('"refund"')], usage=usage))})
    result = call(classify_slot().run, "x")
    assert (result.output, result.route.decision, result.route.binding) == ("refund", "kept", "big")
    assert (result.route.reason, result.route.specialist, result.confidence) == (None, None, None)
    assert result.usage == usage
    assert result.seconds >= 0
    app.tracing.flush()
    [span] = [span for span in app.vault.read() if span["span_id"] == result.span_id]
    assert span["trace_id"] == result.trace_id


def test_the_span_of_a_call_holds_its_contract_binding_input_and_output(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("refund")})
    classify = classify_slot()
    call(classify, "Where is it?")
    assert slot_span(app) == {
        "hetero.slot": "slots.classify",
        "hetero.contract": classify.contract.sha256,
        "hetero.input": '{"message":"Where is it?"}',
        "hetero.output": '"refund"',
        "hetero.binding": "big",
        "hetero.route.decision": "kept",
        "hetero.train_on_outputs": True,
    }


def test_the_chat_span_is_a_child_of_the_slots_span(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("refund")})
    result = call(classify_slot().run, "x")
    app.tracing.flush()
    [chat] = [span for span in app.vault.read() if span["attributes"].get("gen_ai.operation.name") == "chat"]
    assert (chat["parent_id"], chat["trace_id"]) == (result.span_id, result.trace_id)


def test_a_slot_that_talks_to_a_human_says_so_in_its_span(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("refund")})
    call(classify_slot(hci=True), "x")
    assert slot_span(app)["hetero.hci"] is True


@pytest.mark.parametrize(("declared", "written"), [(False, True), (True, False)])
def test_the_file_has_the_last_word_on_talking_to_humans(open_app: OpenApp, declared: bool, written: bool) -> None:
    app = open_app({"fake:big": answers("refund")}, f'{TOML}[slots."slots.classify"]\nhci = {str(written).lower()}\n')
    call(classify_slot(hci=declared), "x")
    assert slot_span(app).get("hetero.hci", False) is written


# -- checks ----------------------------------------------------------------------------------------


def no_refunds(intent: Intent) -> None:
    if intent == "refund":
        raise ModelRetry("there are no refunds")


def test_a_refused_answer_may_be_mended_once(open_app: OpenApp) -> None:
    big = answers("refund", "other")
    open_app({"fake:big": big})
    classify = classify_slot()
    classify.check(no_refunds)
    result = call(classify.run, "x")
    assert (result.output, result.route.decision) == ("other", "kept")
    assert "there are no refunds" in big.seen()[-1]


def test_an_answer_outside_the_contract_may_be_mended_once(open_app: OpenApp) -> None:
    big = answers("nonsense", "other")
    open_app({"fake:big": big})
    assert call(classify_slot(), "x") == "other"
    assert len(big.asked) == 2


def test_an_answer_that_stays_refused_escalates(open_app: OpenApp) -> None:
    small, big = answers("refund"), answers("other")
    app = open_app({"fake:small": small, "fake:big": big})
    classify = classify_slot(tier="slm")
    classify.check(no_refunds)
    result = call(classify.run, "x")
    assert (len(small.asked), len(big.asked)) == (2, 1)
    assert (result.output, result.route.decision, result.route.binding) == ("other", "escalated", "big")
    assert result.route.reason == "small: there are no refunds"
    assert slot_span(app)["hetero.route.reason"] == "small: there are no refunds"


def test_the_next_model_sees_no_trace_of_a_failed_attempt(open_app: OpenApp) -> None:
    small, big = answers("refund"), answers("other")
    open_app({"fake:small": small, "fake:big": big})
    classify = classify_slot(tier="slm")
    classify.check(no_refunds)
    call(classify, "Where is it?")
    assert big.seen() == ["Where is it?"]
    assert len(big.asked[0]) == 1


REPAIR = f'{TOML}[slots."slots.classify"]\nrepair = true\n'


def test_with_repair_the_next_model_is_shown_the_refused_answer_and_why(open_app: OpenApp) -> None:
    big = answers("other")
    open_app({"fake:small": answers("refund"), "fake:big": big}, REPAIR)
    classify = classify_slot(tier="slm")
    classify.check(no_refunds)
    result = call(classify.run, "Where is it?")
    assert (result.output, result.route.binding) == ("other", "big")
    assert big.seen() == ["Where is it?", "there are no refunds"]


def test_a_repaired_answer_teaches_as_an_answer_of_the_model_that_repaired_it(open_app: OpenApp) -> None:
    """To the call as it was asked: of the refused answer an example holds nothing."""
    app = open_app({"fake:small": answers("refund"), "fake:big": answers("other", "delivery")}, REPAIR)
    classify = classify_slot(tier="slm")
    classify.check(no_refunds)
    questions = [f"{word} " * 30 for word in "abcdefghijklmnopqrstuvwxyzåäöæøéèêëüïîôßñçõãâá"]
    for question in questions:
        call(classify, question)
    app.tracing.flush()
    made = curate(calls_of(app.vault, "slots.classify"), classify.contract, split_by=None)
    examples = [example for part in made.parts.values() for example in part]
    assert sorted(e.input["message"] for e in examples) == sorted(questions)
    assert {e.output for e in examples} == {"other", "delivery"}
    assert ({e.teacher for e in examples}, made.left_out) == ({"big"}, {})


def test_when_no_model_answers_one_sentence_says_why_for_each(open_app: OpenApp) -> None:
    open_app({"fake:small": answers("refund"), "fake:big": answers("refund")})
    classify = classify_slot(tier="slm")
    classify.check(no_refunds)
    with pytest.raises(AnswerError, match=r"'slots.classify' \(small: there are no refunds; big: there are"):
        call(classify, "x")


def test_why_an_answer_is_outside_the_contract_is_said_in_one_line(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("nonsense")})
    with pytest.raises(AnswerError, match="'refund', 'delivery' or 'other'") as caught:
        call(classify_slot(), "x")
    assert "\n" not in str(caught.value)


def test_a_check_may_be_async_and_see_the_arguments(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("refund", "other")})
    classify = classify_slot()

    @classify.check
    async def known(intent: Intent, message: str) -> None:  # pyright: ignore[reportUnusedFunction]
        if intent == "refund" and "refund" not in message:
            raise ModelRetry("nobody asked for that")

    assert call(classify, "hello") == "other"


def test_a_check_sees_keyword_only_arguments_too(open_app: OpenApp) -> None:
    @slot(name="slots.keyword")
    async def keyword(*, message: str) -> str: ...

    seen: list[str] = []

    @keyword.check
    def known(answer: str, *, message: str) -> None:  # pyright: ignore[reportUnusedFunction]
        seen.append(message)

    open_app({"fake:big": answers("yes")})
    assert asyncio.run(keyword(message="hello")) == "yes"
    assert seen == ["hello"]


def test_every_check_must_hold(open_app: OpenApp) -> None:
    big = answers("refund", "delivery", "other")
    open_app({"fake:big": big})
    classify = classify_slot()
    classify.check(no_refunds)

    @classify.check
    def no_deliveries(intent: Intent) -> None:  # pyright: ignore[reportUnusedFunction]
        if intent == "delivery":
            raise ModelRetry("there are no deliveries")

    with pytest.raises(AnswerError, match="there are no deliveries"):
        call(classify, "x")


def sees_nothing() -> None: ...
def sees_too_much(intent: Intent, message: str, more: str) -> None: ...


@pytest.mark.parametrize("verifier", [sees_nothing, sees_too_much])
def test_a_check_that_takes_something_else_is_refused(verifier: Any) -> None:
    with pytest.raises(SlotDefinitionError, match="it takes the output, or the output and message"):
        classify_slot().check(verifier)


def test_a_check_is_given_back_as_it_was() -> None:
    assert classify_slot().check(no_refunds) is no_refunds


# -- engines that fail -----------------------------------------------------------------------------


def test_an_engine_that_fails_escalates(open_app: OpenApp) -> None:
    open_app({"fake:small": answers(EngineError("no memory")), "fake:big": answers("other")})
    result = call(classify_slot(tier="slm").run, "x")
    assert (result.output, result.route.reason) == ("other", "small: no memory")


def test_a_timeout_of_the_engine_escalates_too(open_app: OpenApp) -> None:
    open_app({"fake:small": answers(TimeoutError("read timed out")), "fake:big": answers("other")})
    assert call(classify_slot(tier="slm"), "x") == "other"


def hanging(started: asyncio.Event, ended: list[type[BaseException]]) -> FunctionModel:
    async def wait(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error))
            raise
        raise AssertionError("unreachable")

    return FunctionModel(wait, model_name="hanging", profile=NATIVE_JSON)


def test_a_timeout_of_the_binding_escalates(open_app: OpenApp) -> None:
    ended: list[type[BaseException]] = []
    toml = f'{TOML}[slots."slots.classify"]\ntimeout = 0.02\n'
    open_app({"fake:small": hanging(asyncio.Event(), ended), "fake:big": answers("other")}, toml)
    result = call(classify_slot(tier="slm").run, "x")
    assert (result.output, result.route.reason) == ("other", "small: no answer in 0.02 s")
    assert ended == [asyncio.CancelledError]


def test_cancellation_reaches_the_engine_and_nothing_escalates(open_app: OpenApp) -> None:
    ended: list[type[BaseException]] = []
    big = answers("other")

    async def cancel() -> None:
        started = asyncio.Event()
        open_app({"fake:small": hanging(started, ended), "fake:big": big})
        task = asyncio.create_task(classify_slot(tier="slm").run("x"))
        await started.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert (ended, big.asked) == ([asyncio.CancelledError], [])


# -- sync callers ----------------------------------------------------------------------------------


def test_sync_works_and_works_again() -> None:
    with scripted({"slots.classify": "refund"}):
        classify = classify_slot()
        assert [classify.sync("x"), classify.sync("y")] == ["refund", "refund"]


def test_sync_works_in_a_thread_and_leaves_no_open_loop_when_the_thread_ends() -> None:
    with scripted({"slots.classify": "refund"}), ThreadPoolExecutor(1) as threads:
        classify = classify_slot()
        assert list(threads.map(classify.sync, ["x", "y"])) == ["refund", "refund"]
    gc.collect()  # an open loop says so now, and warnings are errors


def test_sync_is_refused_inside_a_running_loop() -> None:
    async def inside() -> None:
        classify_slot().sync("x")

    with pytest.raises(UserError, match=r"inside a running event loop; write `await classify\(\.\.\.\)` there"):
        asyncio.run(inside())


def test_sync_sees_the_callers_context() -> None:
    name = contextvars.ContextVar[str]("name")

    def answer(prompt: str) -> str:
        return name.get()

    with scripted({"slots.classify": answer}):
        name.set("refund")
        assert classify_slot().sync("x") == "refund"


def test_an_error_of_a_sync_call_does_not_blame_the_loop() -> None:
    with scripted({"slots.classify": EngineError("no memory")}), pytest.raises(AnswerError) as caught:
        classify_slot().sync("x")
    assert not isinstance(caught.value.__context__, RuntimeError)


# -- scripted models for users' tests --------------------------------------------------------------


def test_a_slot_without_a_script_is_said_by_name() -> None:
    with scripted({"slots.clasify": "x"}), pytest.raises(UserError, match=r"did you mean 'slots\.clasify'"):
        call(classify_slot(), "x")


def test_a_scripted_run_gives_its_spans() -> None:
    with scripted({"slots.classify": "refund"}) as vault:
        call(classify_slot(), "x")
        assert flush()
        assert [span["name"] for span in vault.spans if "hetero.slot" in span["attributes"]] == ["slot slots.classify"]


def test_a_cell_of_a_notebook_may_be_run_again_after_a_change() -> None:
    """Each run of a cell is another file to Python, and none of them exists."""
    for number, docstring in ((1, "Greet."), (2, "Greet politely.")):
        source = f'@slot\nasync def greet(name: str) -> str:\n    """{docstring}"""\n    ...\n'
        namespace: dict[str, Any] = {"__name__": "__main__", "slot": slot}
        exec(compile(source, f"/tmp/ipykernel_1/{number}.py", "exec"), namespace)
    assert registry.slot("main.greet").contract.instructions == "Greet politely."
