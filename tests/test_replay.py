"""The answer key: answers by slot and arguments, an agent's steps by its last tool result, in a process of its own."""

import asyncio
import gc
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent

from hetero_agents import ConfigError, ReplayMissError, Slot, Slots, code_agent, slot
from hetero_agents.bindings import Workspace
from hetero_agents.contract import sha256_of
from hetero_agents.engines import INPUT_KEY
from hetero_agents.engines.replay import AnswerKey, ReplayServers
from hetero_agents.routing import BadAnswer, attempt
from hetero_agents.slots import App, registry
from hetero_agents.spans import read_traces
from hetero_agents.testing import MemoryVault

from .support import write_workspace

TOML = (
    '[models]\nkey = { model = "replay:answers.jsonl" }\n[tiers]\nllm = { model = "key" }\n[privacy]\ncontent = "raw"\n'
)

LINES: list[dict[str, Any]] = [
    {"slot": "replay.classify", "input": {"message": "broken", "urgent": False}, "output": "refund"},
    {"slot": "replay.größe", "input": {"message": "broken"}, "output": "groß"},
    {
        "slot": "desk",
        "prompt": "broken",
        "after": None,
        "call": {"tool": "classify", "arguments": {"message": "broken"}},
    },
    {"slot": "desk", "prompt": "broken", "after": {"tool": "classify", "result": "refund"}, "output": "Done."},
]


def write_key(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def classify_slot() -> Slot[..., str]:
    @slot(name="replay.classify")
    async def classify(message: str, urgent: bool = False) -> str: ...

    return classify


# -- the key ---------------------------------------------------------------------------------------


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def after(tool: str, result: Any) -> list[dict[str, Any]]:
    """Return the messages of a tool call and its result."""
    call = {"id": "call_1", "function": {"name": tool, "arguments": "{}"}}
    text = result if isinstance(result, str) else json.dumps(result)
    return [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    ]


def step(path: Path, lines: list[dict[str, Any]], *messages: dict[str, Any]) -> Any:
    """Return the agent's next step by a key of these lines: an output, a (tool, arguments) pair, or None."""
    key = AnswerKey(write_key(path / "answers.jsonl", lines))
    answer = key.answer("desk", {"messages": list(messages)})
    if answer is None:
        return None
    if "tool_calls" not in answer:
        return json.loads(answer["content"])
    [call] = answer["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def rule(after: Any, **then: Any) -> dict[str, Any]:
    return {"slot": "desk", "prompt": "hi", "after": after, **then}


def test_a_slots_answer_is_found_by_its_arguments_in_any_order(tmp_path: Path) -> None:
    key = AnswerKey(write_key(tmp_path / "answers.jsonl", LINES))
    body = {INPUT_KEY: sha256_of({"urgent": False, "message": "broken"})}
    assert key.answer("replay.classify", body) == {"role": "assistant", "content": '"refund"'}
    assert key.answer("replay.other", body) is None


def test_an_agents_first_step_is_found_by_its_prompt(tmp_path: Path) -> None:
    lines = [rule(None, call={"tool": "look", "arguments": {"n": 1}})]
    assert step(tmp_path, lines, user("hi")) == ("look", {"n": 1})
    assert step(tmp_path, lines, user("ho")) is None


def test_the_first_user_prompt_and_the_last_tool_result_decide(tmp_path: Path) -> None:
    lines = [rule({"tool": "b", "result": {"x": 1}}, output="yes")]
    assert step(tmp_path, lines, user("hi"), *after("a", "old"), *after("b", {"x": 1})) == "yes"
    assert step(tmp_path, lines, user("hi"), *after("b", {"x": 2})) is None


def test_a_rule_without_a_result_takes_any_result_of_its_tool(tmp_path: Path) -> None:
    lines = [rule({"tool": "look"}, output="seen")]
    assert step(tmp_path, lines, user("hi"), *after("look", {"x": 2})) == "seen"
    assert step(tmp_path, lines, user("hi"), *after("other", {"x": 2})) is None


def test_a_rule_with_the_result_comes_before_one_without(tmp_path: Path) -> None:
    lines = [rule({"tool": "look"}, output="any"), rule({"tool": "look", "result": "x"}, output="this")]
    assert step(tmp_path, lines, user("hi"), *after("look", "x")) == "this"


def test_result_stands_for_the_last_tool_result(tmp_path: Path) -> None:
    lines = [rule({"tool": "look"}, call={"tool": "fill", "arguments": {"of": {"city": "$result"}}})]
    assert step(tmp_path, lines, user("hi"), *after("look", ["Oslo"])) == ("fill", {"of": {"city": ["Oslo"]}})


def test_result_may_stand_in_a_list(tmp_path: Path) -> None:
    lines = [rule({"tool": "look"}, output=["$result", {"at": ["$result"]}])]
    assert step(tmp_path, lines, user("hi"), *after("look", "Oslo")) == ["Oslo", {"at": ["Oslo"]}]


@pytest.mark.parametrize(
    "line", ["nonsense", "3", "{}", '{"slot": "a", "input": {}}', '{"slot": "a", "prompt": "b", "output": 1}']
)
def test_a_broken_line_is_said_with_its_number(tmp_path: Path, line: str) -> None:
    path = write_key(tmp_path / "answers.jsonl", LINES[:1])
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ConfigError, match=r"^line 2 is not an answer"):
        AnswerKey(path)


# -- its process -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Generator[App]:
    root = write_workspace(tmp_path_factory.mktemp("replay"), TOML)
    write_key(root / "answers.jsonl", LINES)
    app = App.of(Workspace(root), MemoryVault())
    before = registry.use(app)
    yield app
    registry.use(before)
    app.close()


def test_a_slot_is_answered_and_the_model_says_what_it_is(app: App) -> None:
    result = asyncio.run(classify_slot().run("broken"))
    assert (result.output, result.model) == ("refund", "answer-key:answers.jsonl")


def test_a_slots_answer_is_found_too_where_another_models_is_to_be_repaired(app: App) -> None:
    async def repaired() -> str:
        classify = classify_slot()
        endpoint = await app.engines.endpoint(app.workspace.model("key"), classify.id)
        arguments = {"message": "broken", "urgent": False}
        return (await attempt(endpoint, classify.contract, arguments, mend=BadAnswer("no", '"x"'))).output

    assert asyncio.run(repaired()) == "refund"


def test_a_slot_with_letters_of_any_language_is_answered(app: App) -> None:
    @slot(name="replay.größe")
    async def size(message: str) -> str: ...

    assert asyncio.run(size("broken")) == "groß"


def test_an_unknown_state_is_a_miss_and_its_run_failed(app: App) -> None:
    @code_agent(name="replay.run")
    async def run() -> str:
        return await classify_slot()("never seen")

    with pytest.raises(ReplayMissError, match="has no answer for this state, so the workflow counts as failed"):
        asyncio.run(run())
    app.tracing.flush()
    [trace] = read_traces(app.vault, traces=app.vault.traces(1))
    assert trace.outcome == "failed"


def test_an_agents_root_is_answered_step_by_step(app: App) -> None:
    agent = Agent("slot:desk", name="desk", capabilities=[Slots(classify_slot())])
    assert asyncio.run(agent.run("broken")).output == '"Done."'


def test_an_agent_in_an_unknown_state_is_a_miss(app: App) -> None:
    agent = Agent("slot:desk", name="desk", capabilities=[Slots(classify_slot())])
    with pytest.raises(ReplayMissError):
        asyncio.run(agent.run("never seen"))


def test_many_calls_at_once_are_answered(app: App) -> None:
    async def many() -> list[str]:
        classify = classify_slot()
        return list(await asyncio.gather(*(classify("broken") for _ in range(30))))

    assert asyncio.run(many()) == ["refund"] * 30


def test_event_loops_that_end_leave_no_connections_open(app: App) -> None:
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    classify = classify_slot()
    asyncio.run(classify("broken"))
    before = open_files()
    for _ in range(4):
        asyncio.run(classify("broken"))
    assert open_files() <= before


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answers\.jsonl does not exist; correct the replay: model in hetero\.toml"):
        ReplayServers().url(tmp_path / "answers.jsonl")


def test_a_broken_file_is_one_sentence_from_its_process(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"answers\.jsonl cannot be served: line 1 is not an answer") as caught:
        ReplayServers().url(tmp_path / "answers.jsonl")
    assert "\n" not in str(caught.value)


def test_the_process_ends_with_its_parents_close_and_starts_again_when_asked(tmp_path: Path) -> None:
    path = write_key(tmp_path / "answers.jsonl", LINES)
    servers = ReplayServers()
    url = servers.url(path)
    assert servers.url(path) == url
    [(process, _)] = servers._running.values()  # pyright: ignore[reportPrivateUsage]
    servers.close()
    assert process.returncode == 0
