"""What your own tests need: slots answered by a script instead of a model, and a vault in memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.profiles import ModelProfile

from .bindings import ModelConfig, Workspace
from .engines import Endpoint, Engines
from .errors import UnknownNameError
from .slots import App, registry
from .spans import Feedback, Names, SpanRecord, Vault

Script = Any | Callable[[str], Any]
"""An answer as JSON, or a function from the call's last user prompt to one; an exception in its place is raised."""


class MemoryVault(Vault):
    """A vault that forgets with the process."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []
        self.said: list[Feedback] = []

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Keep spans."""
        self.spans += records

    def read(self, *, slot: str | None = None, traces: Collection[str] | None = None) -> Iterator[SpanRecord]:
        """Give spans, trace by trace."""
        ordered = sorted(self.spans, key=lambda span: (span["trace_id"], span["start"]))
        for trace_id, spans in groupby(ordered, key=lambda span: span["trace_id"]):
            run = list(spans)
            if (traces is None or trace_id in traces) and (
                slot is None or any(s["attributes"].get(Names.SLOT) == slot for s in run)
            ):
                yield from run

    def traces(self, limit: int) -> list[str]:
        """Return the latest traces' ids, newest first."""
        began: dict[str, int] = {}
        for span in self.spans:
            began[span["trace_id"]] = min(span["start"], began.get(span["trace_id"], span["start"]))
        return sorted(began, key=lambda trace_id: -began[trace_id])[:limit]

    def say(self, feedback: Feedback) -> None:
        """Keep feedback."""
        self.said.append(feedback)

    def feedback(self, traces: Collection[str] | None = None) -> list[Feedback]:
        """Return all feedback, or that on some traces."""
        return [said for said in self.said if traces is None or said.trace_id in traces]

    def close(self) -> None:
        """Do nothing."""


@dataclass
class _ScriptedEngines(Engines):
    answers: Mapping[str, Script] = field(default_factory=dict[str, Script])

    async def endpoint(self, config: ModelConfig, slot: str) -> Endpoint:
        if slot not in self.answers:
            raise UnknownNameError("scripted answer for slot", slot, self.answers)
        script = self.answers[slot]

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            value = script(_last_prompt(messages)) if callable(script) else script
            if isinstance(value, Exception):
                raise value
            return ModelResponse(parts=[TextPart(json.dumps(value))])

        profile = ModelProfile(supports_json_schema_output=True, default_structured_output_mode="native")
        return Endpoint(FunctionModel(answer, model_name="scripted", profile=profile), bare_json=True)


@contextmanager
def scripted(answers: Mapping[str, Script]) -> Generator[MemoryVault]:
    """Answer slots by a script; no file, no network, no model. Gives the vault with the spans.

    Args:
        answers: by slot id.
    """
    vault = MemoryVault()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "hetero.toml").write_text(
            '[models]\nscript = {model = "test", max_tokens = 512, price = {hour = 0}}\n[tiers]\nllm = {model = "script"}\nslm = {model = "script"}\n'
            '[privacy]\ncontent = "raw"\n'
        )
        app = App.of(Workspace(root), vault)
        app.engines = _ScriptedEngines(root, answers=answers)
        before = registry.use(app)
        try:
            yield vault
        finally:
            registry.use(before)
            app.close()


def _last_prompt(messages: Sequence[ModelMessage]) -> str:
    prompts = [
        part.content
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart) and isinstance(part.content, str)
    ]
    return prompts[-1] if prompts else ""
