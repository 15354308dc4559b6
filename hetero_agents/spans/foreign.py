"""Model calls as other programs' instrumentation records them, brought to one form.

Read are the GenAI semantic conventions (pydantic-ai, OpenLLMetry from 0.50 and others), OpenLLMetry's earlier
`gen_ai.prompt.N.*`, and OpenInference's `llm.*`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from .names import Names
from .record import SpanRecord

_FLAT = (
    ("llm.input_messages.", "llm.output_messages.", "message.role", "message.content", "message.tool_calls."),
    ("gen_ai.prompt.", "gen_ai.completion.", "role", "content", "tool_calls."),
)
"""Conventions with an attribute for each message: OpenInference's, and OpenLLMetry's earlier one."""

_OFFERED = re.compile(r"llm\.tools\.\d+\.tool\.json_schema|llm\.request\.functions\.\d+\.name")
"""Their attributes for a tool that is offered."""

_Part = tuple[str, Any]
"""Who said it, and the text, or the arguments of a tool call that is the answer; None for anything else."""


@dataclass(frozen=True)
class ModelCall:
    """One call of a model.

    Attributes:
        site: what made the call, as its program calls it: the agent, the chain or task around it; None where nothing is.
        model: as a pydantic-ai model id, for example `openai:gpt-5.2`.
        prompt: the user's message; None where the call holds more than instructions and one text.
        answer: the text, or the arguments of a tool call that is the answer; None where it is neither.
        input_tokens: as the engine counts; 0 where nobody said.
        output_tokens: the same.
    """

    site: str | None
    model: str
    prompt: str | None
    answer: Any
    input_tokens: int
    output_tokens: int


def model_call_of(span: SpanRecord, spans: Mapping[str, SpanRecord]) -> ModelCall | None:
    """Return the model call that a span is; None if it is another span. What has not the form of its convention is not there.

    Args:
        span: the span.
        spans: the spans of its trace, by id.
    """
    attributes = span["attributes"]
    kind = str(attributes.get("openinference.span.kind", "")).upper()
    if kind != "LLM" and attributes.get(Names.OPERATION, attributes.get("llm.request.type")) != "chat":
        return None
    said, answered = _conversation(attributes)
    turns = [part for role, part in said if role not in ("system", "developer")]
    answers = [part for _, part in answered]

    def first(*keys: str) -> str:
        return next((str(attributes[key]) for key in keys if attributes.get(key)), "")

    def count(*keys: str) -> int:
        return next((value for key in keys if isinstance(value := attributes.get(key), int)), 0)

    provider = first("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system").lower()
    return ModelCall(
        site=_site(span, spans),
        model=f"{provider}:{first(Names.REQUEST_MODEL, 'llm.model_name')}",
        prompt=turns[0] if len(turns) == 1 and isinstance(turns[0], str) else None,
        answer=answers[0] if len(answers) == 1 else None,
        input_tokens=count(Names.INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
        output_tokens=count(Names.OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    )


def _site(span: SpanRecord, spans: Mapping[str, SpanRecord]) -> str | None:
    """The agent or task that a span says it is of, else the nearest span around it that says so, else the name of the nearest."""
    around: SpanRecord | None = span
    seen = set[str]()
    while around is not None and around["span_id"] not in seen:
        seen.add(around["span_id"])
        attributes = around["attributes"]
        if isinstance(path := attributes.get("traceloop.entity.path"), str) and path:
            return path.rpartition(".")[2]
        for key in ("gen_ai.agent.name", "traceloop.entity.name", "graph.node.id"):
            if isinstance(name := attributes.get(key), str) and name:
                return name
        around = spans.get(around["parent_id"] or "")
    parent = spans.get(span["parent_id"] or "")
    return parent["name"] if parent else None


def _conversation(attributes: Mapping[str, Any]) -> tuple[list[_Part], list[_Part]]:
    """What was said and what was answered."""
    tools = _answering_tools(attributes)
    if Names.INPUT_MESSAGES in attributes:
        said, answered = attributes[Names.INPUT_MESSAGES], attributes.get(Names.OUTPUT_MESSAGES)
        return _genai(said, set()), _genai(answered, tools)
    for said_under, answered_under, role, content, tool_call in _FLAT:
        if said := _flat(attributes, said_under, role, content, tool_call, set()):
            return said, _flat(attributes, answered_under, role, content, tool_call, tools)
    return [], []


def _answering_tools(attributes: Mapping[str, Any]) -> set[str]:
    """The tools whose call is an answer: those by which a pydantic-ai agent answers, or the only one that was offered."""
    parameters = _loaded(attributes.get("model_request_parameters"))
    if isinstance(parameters, dict):
        return {str(tool.get("name")) for tool in _dicts(cast("dict[str, Any]", parameters).get("output_tools"))}
    offered: list[Any] = [_loaded(value) or value for key, value in attributes.items() if _OFFERED.fullmatch(key)]
    offered += _dicts(_loaded(attributes.get("gen_ai.tool.definitions")))
    match offered:
        case [{"function": {"name": str(name)}}] | [{"name": str(name)}] | [str(name)]:
            return {name}
        case _:
            return set()


def _genai(messages: Any, tools: set[str]) -> list[_Part]:
    """Parts of messages in the GenAI conventions' form, as JSON text or as OTLP's own lists."""
    found: list[_Part] = []
    for message in _dicts(_loaded(messages)):
        for part in _dicts(message.get("parts")):
            match part:
                case {"type": "text", "content": str(text)}:
                    value: Any = text
                case {"type": "tool_call", "name": name, "arguments": arguments} if name in tools:
                    value = _loaded(arguments)
                case {"type": "thinking" | "reasoning"}:
                    continue
                case _:
                    value = None
            found.append((str(message.get("role")), value))
    return found


def _flat(
    attributes: Mapping[str, Any], under: str, role: str, content: str, tool_call: str, tools: set[str]
) -> list[_Part]:
    """Parts of messages in a form with an attribute for each: the text, and each tool call."""
    found: list[_Part] = []
    place = re.compile(re.escape(under) + r"(\d+)\.(?:" + re.escape(tool_call) + r"(\d+)\.)?")
    places = {(int(m[1]), m[2] and int(m[2])) for key in attributes if (m := place.match(key))}
    for number, call in sorted(places, key=lambda place: (place[0], -1 if place[1] is None else place[1])):
        speaker = str(attributes.get(f"{under}{number}.{role}"))
        if call is None:
            if (text := attributes.get(f"{under}{number}.{content}")) is not None:
                found.append((speaker, _plain(text)))
            elif (number, 0) not in places:
                found.append((speaker, None))
            continue
        begin = f"{under}{number}.{tool_call}{call}."
        fields = {key.rpartition(".")[2]: value for key, value in attributes.items() if key.startswith(begin)}
        found.append((speaker, _loaded(fields.get("arguments")) if fields.get("name") in tools else None))
    return found


def _plain(content: Any) -> Any:
    """A message's content as text: as it is, or the only text of a list of parts; None where the list holds more."""
    parts = _dicts(_loaded(content)) if str(content).startswith("[{") else []
    if not parts or any("type" not in part for part in parts):
        return content
    return parts[0].get("text") if len(parts) == 1 else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    entries = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]


def _loaded(value: Any) -> Any:
    """JSON text as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None
