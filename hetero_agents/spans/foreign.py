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
    ("llm.input_messages.", "llm.output_messages.", "message.role", "message.content", "message.tool_calls.0."),
    ("gen_ai.prompt.", "gen_ai.completion.", "role", "content", "tool_calls.0."),
)
"""Conventions with an attribute for each message: OpenInference's, and OpenLLMetry's earlier one."""


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
    """Return the model call that a span is; None if it is another span.

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
    alone = len(turns) == 1 and isinstance(turns[0], str)
    answers = [part for _, part in answered]

    def first(*keys: str, default: Any = "") -> Any:
        return next((attributes[key] for key in keys if attributes.get(key)), default)

    provider = str(first("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")).lower()
    return ModelCall(
        site=_site(span, spans),
        model=f"{provider}:{first(Names.REQUEST_MODEL, 'llm.model_name')}",
        prompt=turns[0] if alone else None,
        answer=answers[0] if len(answers) == 1 else None,
        input_tokens=first(Names.INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", default=0),
        output_tokens=first(
            Names.OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.token_count.completion", default=0
        ),
    )


def _site(span: SpanRecord, spans: Mapping[str, SpanRecord]) -> str | None:
    """The agent or task that a span says it is of, else the nearest span around it that says so, else the name of the nearest."""
    around: SpanRecord | None = span
    while around is not None:
        attributes = around["attributes"]
        for key in ("gen_ai.agent.name", "traceloop.entity.path", "traceloop.entity.name", "graph.node.id"):
            if isinstance(name := attributes.get(key), str) and name:
                return name.rpartition(".")[2]
        around = spans.get(around["parent_id"] or "")
    parent = spans.get(span["parent_id"] or "")
    return parent["name"] if parent else None


def _conversation(attributes: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """What was said and what was answered: (role, text or arguments or None) of each part of each message."""
    if Names.INPUT_MESSAGES in attributes:
        output_tools = _output_tools(attributes)
        said = _genai(attributes[Names.INPUT_MESSAGES], None)
        return said, _genai(attributes.get(Names.OUTPUT_MESSAGES, "[]"), output_tools)
    for said_under, answered_under, *fields in _FLAT:
        said = _flat(attributes, said_under, *fields)
        if said:
            return said, _flat(attributes, answered_under, *fields)
    return [], []


def _genai(messages: Any, tools: set[str] | None) -> list[tuple[str, Any]]:
    """Parts of messages in the GenAI conventions' form.

    Args:
        messages: as JSON text, or as OTLP's own lists.
        tools: names of the tools whose calls are answers; None if every tool's are.
    """
    found: list[tuple[str, Any]] = []
    for message in cast("list[dict[str, Any]]", _loaded(messages) or []):
        for part in cast("list[dict[str, Any]]", message.get("parts", ())):
            value: Any = None
            if part.get("type") == "text":
                value = part.get("content")
            elif part.get("type") == "tool_call" and (tools is None or part.get("name") in tools):
                value = _loaded(part.get("arguments"))
            elif part.get("type") in ("thinking", "reasoning"):
                continue
            found.append((str(message.get("role")), value))
    return found


def _output_tools(attributes: Mapping[str, Any]) -> set[str] | None:
    """The tools through which a pydantic-ai agent answers; None where other instrumentation wrote the span."""
    parameters = _loaded(attributes.get("model_request_parameters"))
    if not isinstance(parameters, dict):
        return None
    tools = cast("list[dict[str, Any]]", cast("dict[str, Any]", parameters).get("output_tools") or [])
    return {str(tool.get("name")) for tool in tools}


def _flat(attributes: Mapping[str, Any], under: str, role: str, content: str, tool_call: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    place = re.compile(re.escape(under) + r"(\d+)\.")
    for number in sorted({int(match[1]) for key in attributes if (match := place.match(key))}):
        message = f"{under}{number}."
        value = attributes.get(message + content)
        if value is None:
            call = next(
                (v for k, v in attributes.items() if k.startswith(message + tool_call) and k.endswith("arguments")),
                None,
            )
            value = _loaded(call)
        found.append((str(attributes.get(message + role)), value))
    return found


def _loaded(value: Any) -> Any:
    """JSON text as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None
