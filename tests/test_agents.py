"""Language-model agency: a plain pydantic_ai.Agent, to which `Slots` brings slots as typed tools and a late model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import UserError as PydanticAIUserError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from hetero_agents import (
    EngineError,
    IntegrityError,
    NotSent,
    ReplayMissError,
    Slot,
    SlotDefinitionError,
    Slots,
    UnknownNameError,
    slot,
    workflow_outcome,
)
from hetero_agents.slots import App
from hetero_agents.spans import Trace, read_traces

from .conftest import OpenApp
from .support import TOML, Answers, answers

DESK = f'{TOML}[slots."desk"]\nmodel = "small"\n'
CALL = ModelResponse(parts=[ToolCallPart("classify", {"message": "broken", "urgent": True})])


class Handle:
    """What pydantic cannot serialise."""


def classify_slot() -> Slot[..., Literal["refund", "other"]]:
    @slot(name="agents.classify")
    async def classify(message: str, urgent: bool = False) -> Literal["refund", "other"]:
        """Name the customer's intent."""
        ...

    return classify


def desk_agent(*slots: Slot[..., Any]) -> Agent[None, str]:
    return Agent("slot:desk", name="desk", capabilities=[Slots(*slots)])


def ask(agent: Agent[None, str], prompt: str, model: Model | None = None) -> str:
    return asyncio.run(agent.run(prompt, model=model)).output


def root_and_slot(*root: Any) -> dict[str, Answers]:
    """Return the agent's own model, which gives these answers, and the model of its slots."""
    return {"fake:small": answers(*root), "fake:big": answers("refund")}


def only_run(app: App) -> Trace:
    app.tracing.flush()
    [trace] = read_traces(app.vault)
    return trace


def run(open_app: OpenApp) -> Trace:
    app = open_app(root_and_slot(CALL, ModelResponse(parts=[TextPart("Done.")])), DESK)
    assert ask(desk_agent(classify_slot()), "My parcel is broken") == "Done."
    return only_run(app)


# -- tools -----------------------------------------------------------------------------------------


def tools_of(agent: Agent[None, str]) -> dict[str, tuple[str | None, Any]]:
    model = TestModel(call_tools=[])
    ask(agent, "x", model=model)
    assert model.last_model_request_parameters is not None
    tools = model.last_model_request_parameters.function_tools
    return {tool.name: (tool.description, tool.parameters_json_schema) for tool in tools}


def test_a_slot_is_a_tool_with_its_instruction_and_schema(open_app: OpenApp) -> None:
    open_app({})
    description, schema = tools_of(desk_agent(classify_slot()))["classify"]
    assert description == "Name the customer's intent."
    assert schema["required"] == ["message"]
    assert schema["properties"]["message"]["type"] == "string"
    assert schema["properties"]["urgent"] == {"type": "boolean", "default": False}


def test_an_agent_without_slots_has_no_tools_of_ours(open_app: OpenApp) -> None:
    open_app({})
    assert tools_of(desk_agent()) == {}


def test_the_agents_model_calls_the_slot_and_sees_its_answer(open_app: OpenApp) -> None:
    models = root_and_slot(CALL, ModelResponse(parts=[TextPart("Done.")]))
    open_app(models, DESK)
    ask(desk_agent(classify_slot()), "x")
    [result] = [part for part in models["fake:small"].asked[1][-1].parts if isinstance(part, ToolReturnPart)]
    assert result.content == "refund"
    assert models["fake:big"].seen() == ["message: broken\nurgent: true"]


def test_a_slot_with_a_required_parameter_that_is_not_sent_cannot_be_a_tool() -> None:
    @slot(name="agents.handle")
    async def look_up(message: str, handle: Annotated[Handle, NotSent]) -> str: ...

    with pytest.raises(SlotDefinitionError, match="cannot be a tool: its parameter 'handle' is NotSent"):
        Slots(look_up)


def test_a_parameter_that_is_not_sent_is_no_part_of_the_tool(open_app: OpenApp) -> None:
    @slot(name="agents.optional")
    async def look_up(message: str, handle: Annotated[Handle | None, NotSent] = None) -> str: ...

    open_app({})
    _, schema = tools_of(desk_agent(look_up))["look_up"]
    assert list(schema["properties"]) == ["message"]


# -- the model -------------------------------------------------------------------------------------


def test_the_model_is_resolved_at_the_run_and_not_before(open_app: OpenApp) -> None:
    agent = desk_agent()  # no workspace is open here
    open_app({"fake:small": answers(ModelResponse(parts=[TextPart("small")]))}, DESK)
    assert ask(agent, "x") == "small"
    open_app({"fake:big": answers(ModelResponse(parts=[TextPart("big")]))})
    assert ask(agent, "x") == "big"


def test_another_model_given_to_the_run_comes_first(open_app: OpenApp) -> None:
    open_app({}, DESK)
    assert ask(desk_agent(), "x", model=TestModel(custom_output_text="other")) == "other"


@pytest.mark.parametrize("trouble", [EngineError("no memory"), IntegrityError("another file"), ValueError("no JSON")])
def test_an_agents_model_that_fails_falls_back_along_its_chain(open_app: OpenApp, trouble: Exception) -> None:
    toml = f'{TOML}[slots."desk"]\nmodel = "small"\nfallback = ["big"]\n'
    said = ModelResponse(parts=[TextPart("big")])
    app = open_app({"fake:small": answers(trouble), "fake:big": answers(said)}, toml)
    assert ask(desk_agent(), "x") == "big"
    bindings = [span["attributes"].get("hetero.binding") for span in only_run(app).spans]
    assert "big" in bindings


@pytest.mark.parametrize("trouble", [EngineError("no weights"), IntegrityError("another file")])
def test_an_agents_engine_that_cannot_start_falls_back_along_its_chain(open_app: OpenApp, trouble: Exception) -> None:
    toml = f'{TOML}[slots."desk"]\nmodel = "small"\nfallback = ["big"]\n'
    said = ModelResponse(parts=[TextPart("big")])
    open_app({"fake:small": trouble, "fake:big": answers(said)}, toml)
    assert ask(desk_agent(), "x") == "big"


def test_an_engine_that_an_agent_does_not_need_is_not_started(open_app: OpenApp) -> None:
    toml = f'{TOML}[slots."desk"]\nmodel = "small"\nfallback = ["big"]\n'
    said = ModelResponse(parts=[TextPart("small")])
    open_app({"fake:small": answers(said), "fake:big": EngineError("no weights")}, toml)
    assert ask(desk_agent(), "x") == "small"


def test_the_bindings_timeout_holds_for_an_agents_model_too(open_app: OpenApp) -> None:
    async def wait(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    toml = f'{TOML}[slots."desk"]\nmodel = "small"\nfallback = ["big"]\ntimeout = 0.02\n'
    said = ModelResponse(parts=[TextPart("big")])
    open_app({"fake:small": FunctionModel(wait), "fake:big": answers(said)}, toml)

    async def within_a_second() -> str:
        async with asyncio.timeout(1):
            return (await desk_agent().run("x")).output

    assert asyncio.run(within_a_second()) == "big"


def test_a_state_that_an_answer_key_does_not_hold_passes_and_nothing_falls_back(open_app: OpenApp) -> None:
    toml = f'{TOML}[slots."desk"]\nmodel = "small"\nfallback = ["big"]\n'
    big = answers("never asked")
    app = open_app({"fake:small": answers(ReplayMissError("no answer for this state")), "fake:big": big}, toml)
    with pytest.raises(ReplayMissError):
        ask(desk_agent(), "x")
    assert big.asked == []
    assert only_run(app).outcome == "failed"


def test_without_the_capability_pydantic_ai_says_that_it_does_not_know_the_model(open_app: OpenApp) -> None:
    open_app({}, DESK)
    with pytest.raises(PydanticAIUserError, match="slot:desk"):
        ask(Agent("slot:desk"), "x")


def test_a_model_id_that_is_not_ours_is_pydantic_ais_question(open_app: OpenApp) -> None:
    open_app({}, DESK)
    assert ask(Agent("test", capabilities=[Slots()]), "x") == "success (no tool calls)"


# -- the run in the vault --------------------------------------------------------------------------


def test_a_run_is_one_trace_with_the_slot_under_its_tool(open_app: OpenApp) -> None:
    trace = run(open_app)
    [root] = trace.roots
    assert root["attributes"]["gen_ai.operation.name"] == "invoke_agent"
    [call] = [span for span in trace.spans if span["attributes"].get("hetero.slot") == "agents.classify"]
    by_id = {span["span_id"]: span for span in trace.spans}
    assert call["parent_id"] is not None
    assert by_id[call["parent_id"]]["attributes"]["gen_ai.operation.name"] == "execute_tool"


def test_the_agents_chat_spans_say_which_agents_model_they_are(open_app: OpenApp) -> None:
    trace = run(open_app)
    [root] = trace.roots
    chats = [span["attributes"] for span in trace.children(root) if span["name"].startswith("chat")]
    assert [(chat["hetero.slot"], chat["hetero.binding"]) for chat in chats] == [("desk", "small")] * 2
    assert all(chat["hetero.train_on_outputs"] is False for chat in chats)


def test_an_agent_that_talks_to_a_human_says_so_in_its_chat_spans(open_app: OpenApp) -> None:
    app = open_app({"fake:small": answers(ModelResponse(parts=[TextPart("Hi")]))}, f"{DESK}hci = true\n")
    ask(desk_agent(), "x")
    [chat] = [span for span in only_run(app).spans if "hetero.slot" in span["attributes"]]
    assert chat["attributes"]["hetero.hci"] is True


def test_a_streamed_run_says_it_too(open_app: OpenApp) -> None:
    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "Hi"

    app = open_app({"fake:small": FunctionModel(stream_function=stream)}, f"{DESK}hci = true\n")

    async def streamed() -> str:
        async with desk_agent().run_stream("x") as result:
            return await result.get_output()

    assert asyncio.run(streamed()) == "Hi"
    marks = [span["attributes"].get("hetero.hci") for span in only_run(app).spans if span["name"].startswith("chat")]
    assert marks == [True]


def test_an_outcome_said_in_a_tool_is_that_of_the_agents_run(open_app: OpenApp) -> None:
    call = ModelResponse(parts=[ToolCallPart("close", {})])
    app = open_app({"fake:small": answers(call, ModelResponse(parts=[TextPart("Done.")]))}, DESK)
    agent = desk_agent()

    @agent.tool_plain
    def close() -> str:  # pyright: ignore[reportUnusedFunction]
        workflow_outcome(ok=True, score=0.75)
        return "closed"

    ask(agent, "x")
    trace = only_run(app)
    assert (trace.outcome, trace.roots[0]["attributes"]["hetero.outcome"]) == ("ok", "ok")


def test_an_agents_failure_marks_its_run_failed(open_app: OpenApp) -> None:
    app = open_app({"fake:small": answers(ValueError("no JSON"))}, DESK)
    with pytest.raises(EngineError, match=r"small gave no response \(ValueError: no JSON\)"):
        ask(desk_agent(), "x")
    assert only_run(app).outcome == "failed"


def test_two_runs_at_once_are_two_traces(open_app: OpenApp) -> None:
    def echo(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("Hi")])

    app = open_app({"fake:small": FunctionModel(echo)}, DESK)
    agent = desk_agent()

    async def both() -> None:
        await asyncio.gather(agent.run("x"), agent.run("y"))

    asyncio.run(both())
    app.tracing.flush()
    assert len(list(read_traces(app.vault))) == 2


def test_an_unknown_model_of_the_chain_is_said_by_name(open_app: OpenApp) -> None:
    app = open_app({}, DESK)
    with pytest.raises(UnknownNameError, match="did you mean 'small'"):
        app.workspace.model("smal")
