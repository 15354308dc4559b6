"""What several test files need: models that answer from a list, engines that hand them out, lock entries, a collector."""

from __future__ import annotations

import asyncio
import builtins
import json
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, RetryPromptPart, TextPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.profiles import ModelProfile

from hetero_agents.bindings import ModelConfig, Score, Specialist, SpecialistId
from hetero_agents.contract import Sha256, SlotId
from hetero_agents.engines import Endpoint, Engines
from hetero_agents.spans import SpanRecord

TOML = """\
[models]
big = { model = "fake:big", train_on_outputs = true }
small = "fake:small"
[tiers]
llm = { model = "big" }
slm = { model = "small", fallback = ["big"] }
[privacy]
content = "raw"
"""

NATIVE_JSON = ModelProfile(supports_json_schema_output=True, default_structured_output_mode="native")


@dataclass
class Answers:
    """A model that gives its answers in turn, the last one for ever; an exception is raised, a function is called."""

    answers: Sequence[Any]
    asked: list[list[ModelMessage]] = field(default_factory=list[list[ModelMessage]])

    async def reply(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        """Give the next answer. In the caller's loop: from threads, calls that are made at once would get their answers in any order."""
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(list(messages))
        if callable(answer):
            answer = await asyncio.to_thread(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, ModelResponse) else ModelResponse(parts=[TextPart(json.dumps(answer))])

    def model(self, name: str) -> Model:
        """Return it as a pydantic-ai model."""
        return FunctionModel(self.reply, model_name=name, profile=NATIVE_JSON)

    def seen(self) -> list[str]:
        """Return every text that it was sent, retries included."""
        return [
            str(part.content)
            for messages in self.asked
            for message in messages
            if isinstance(message, ModelRequest)
            for part in message.parts
            if isinstance(part, UserPromptPart | RetryPromptPart)
        ]


def answers(*given: Any) -> Answers:
    """Return a model that gives these answers in turn."""
    return Answers(given)


@dataclass
class FakeEngines(Engines):
    """Engines that hand out models by id: a `[models]` id (`fake:big`) or a specialist's; an exception is raised."""

    models: Mapping[str, Answers | Model | Exception] = field(default_factory=dict[str, "Answers | Model | Exception"])
    vector: Callable[[str], list[float]] = field(default=lambda text: [1.0, 0.0])
    """A text's embedding."""

    async def endpoint(self, config: ModelConfig, slot: str) -> Endpoint:
        """Return the model of an entry of `[models]`."""
        return self._of(config.model)

    async def specialist(self, specialist_id: SpecialistId, specialist: Specialist, config: ModelConfig) -> Endpoint:
        """Return the model of a specialist."""
        return self._of(specialist_id)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return each text's vector."""
        return [self.vector(text) for text in texts]

    def _of(self, name: str) -> Endpoint:
        found = self.models[name]
        if isinstance(found, Exception):
            raise found
        return Endpoint(found.model(name) if isinstance(found, Answers) else found, bare_json=True)


def lock_entry(slot: str, contract: str = "0" * 64, adapter: str = "adapters/1") -> Specialist:
    """Return a specialist as the lock holds it."""
    return Specialist(
        slot=SlotId(slot),
        base="fake:small",
        base_sha256=Sha256("1" * 64),
        adapter=adapter,
        adapter_sha256=Sha256("2" * 64),
        gguf_sha256=Sha256("3" * 64),
        contract_sha256=Sha256(contract),
        dataset_sha256=Sha256("4" * 64),
        recipe={"epochs": 1.5},
        examples=100,
        train_seconds=60.0,
        teacher="big",
        scores={"specialist": Score(score=0.9, low=0.85, high=0.94, n=200)},
        max_tokens=16,
        created="2026-03-01T12:00:00+00:00",
    )


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The user's mistake, which is one line on standard error and nothing else."""
        assert (self.code, self.out, self.err.count("\n")) == (2, "", 1), self
        return self.err.removeprefix("hetero: ").rstrip("\n")


Hetero = Callable[..., Done]


def write_workspace(folder: Path, toml: str = TOML) -> Path:
    """Write a hetero.toml and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hetero.toml").write_text(toml)
    return folder


def span(trace: str, number: int, parent: int | None = None, *, status: str = "UNSET", **attributes: Any) -> SpanRecord:
    """Return a span; `slot=` and the like stand for `hetero.slot`."""
    return {
        "trace_id": trace,
        "span_id": f"{trace}{number:02d}",
        "parent_id": None if parent is None else f"{trace}{parent:02d}",
        "name": f"span {number}",
        "kind": "INTERNAL",
        "start": number,
        "end": number + 10,
        "status": status,
        "message": None,
        "attributes": {f"hetero.{key}": value for key, value in attributes.items()},
        "events": [],
        "links": [],
        "resource": {"service.name": "desk"},
        "scope": "hetero_agents",
    }


def call_span(trace: str, number: int, parent: int | None = None, **attributes: Any) -> SpanRecord:
    given: dict[str, Any] = {"slot": "desk.classify", "contract": "c", "input": '{"text": "é"}', "output": '"a"'}
    return span(trace, number, parent, **{**given, **attributes})


def in_processes(work: Callable[..., None], *arguments: tuple[object, ...], ended: int = 0) -> None:
    """Run a function in one process for each tuple of arguments, all at once; each ends with the same exit code."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=given) for given in arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: a fork beside other threads
        for process in processes:
            process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [ended] * len(processes)


@dataclass
class Collected:
    """What reached a collector."""

    names: list[str] = field(default_factory=list[str])
    bytes: builtins.bytes = b""


@contextmanager
def collecting() -> Generator[tuple[Collected, str]]:
    """Run an OTLP collector on this machine; gives what reaches it, and its URL."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest()
            request.ParseFromString(body)
            scopes: list[Any] = [scope for resource in request.resource_spans for scope in resource.scope_spans]
            collected.names.extend(span.name for scope in scopes for span in scope.spans)
            collected.bytes += body
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collected, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
