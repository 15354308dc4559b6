"""The `local:` engine: llama.cpp's OpenAI-compatible server inside this process (xllamacpp).

One server for each base, started at the first call; any number of specialists on it, chosen request
by request. Adapters must never see each other's cached keys, so:

- the server's RAM prompt cache is off (`cache_ram_mib=0`): it is keyed by tokens alone and would
  hand a prompt that one adapter computed to another;
- a server slot drops its cache when a request with another adapter arrives (llama.cpp's own rule),
  and slots are taken least recently used, so more specialists than slots cost time, never rightness.

`tests/test_model.py` holds this against transformers under mixed traffic.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings, merge_model_settings

from ..errors import EngineError
from .catalog import Weights
from .endpoint import BAKED_TEMPLATE, SERVER_SLOTS, TOP_LOGPROBS
from .llamacpp import llama_cpp, server_params
from .served import chat_template, fetch_served

if TYPE_CHECKING:
    from pydantic_ai import RunContext

CONTEXT_A_SLOT = 4096
"""Tokens of prompt and answer that one request may have, at most the model's own window."""

DEFAULT_MAX_TOKENS = 512

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What llama.cpp speaks to a model without a chat template."""

_BAKED = "hetero_baked"
"""Variable of the server's chat template that a request to a baked specialist sets."""

LOCAL_PROFILE = OpenAIModelProfile(supports_json_schema_output=True, default_structured_output_mode="native")


@dataclass
class _Server:
    """One running llama.cpp server and the adapters it was started with (they can only be given at start)."""

    url: str
    key: str
    adapters: tuple[Path, ...]
    handle: Any
    in_flight: int = 0
    retired: bool = False


@dataclass
class LocalServers:
    """The llama.cpp servers of this process, one for each base."""

    _servers: dict[Path, _Server] = field(default_factory=dict[Path, _Server])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """For the counts; held for an instant only."""
    _starts: defaultdict[Path, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    """One start of a base's server at a time."""
    _pid: int = field(default_factory=os.getpid)

    def take(self, weights: Weights, adapter: Path | None) -> _Server:
        """Return a running server that has the adapter, counting one request on it; blocks for about a second at a start.

        A server without the adapter is replaced by one that has it too; requests in flight finish on the old one.
        """
        with self._lock:
            if self._pid != os.getpid():  # after a fork the parent's threads are not here
                self._servers, self._pid = {}, os.getpid()
            start = self._starts[Path(weights.source, weights.file)]
        with start:
            path = fetch_served(weights)
            server = before = self._servers.get(path)
            if server is None or (adapter is not None and adapter not in server.adapters):
                # Those whose files were deleted since, as after `hetero forget`, nobody asks any more.
                adapters = tuple(each for each in server.adapters if each.is_file()) if server else ()
                server = _start(path, (*adapters, adapter) if adapter else adapters, weights)
            with self._lock:
                server.in_flight += 1
                if server is not before:
                    self._servers[path] = server
                    if before is not None:
                        self._retire(before)
            return server

    def give_back(self, server: _Server) -> None:
        """Count a request as done; a replaced server stops with its last one."""
        with self._lock:
            server.in_flight -= 1
            if server.retired and server.in_flight == 0:
                server.handle = None

    def close(self) -> None:
        """Stop all servers."""
        with self._lock:
            for server in self._servers.values():
                server.handle = None
            self._servers.clear()

    def _retire(self, server: _Server) -> None:
        server.retired = True
        if server.in_flight == 0:
            server.handle = None  # its destructor stops threads and frees the weights


def _start(path: Path, adapters: tuple[Path, ...], weights: Weights) -> _Server:
    llama = llama_cpp("A local: model")
    params = server_params(llama, path, cores())
    params.model_alias = {weights.name}
    params.n_parallel = SERVER_SLOTS
    params.n_ctx = SERVER_SLOTS * min(CONTEXT_A_SLOT, weights.context)
    params.use_jinja = True
    template = chat_template(path) or _CHATML
    params.chat_template = f"{{% if {_BAKED} is defined %}}{BAKED_TEMPLATE}{{% else %}}{template}{{% endif %}}"
    if adapters:
        params.lora_adapters = [llama.CommonAdapterLoraInfo(str(adapter), 0.0) for adapter in adapters]
    try:
        handle = llama.Server(params)
    except Exception as error:
        raise EngineError(
            f"llama.cpp cannot load {path.name} with {len(adapters)} adapters ({error}); is an adapter for another base?"
        ) from error
    return _Server(f"{handle.listening_address}/v1", params.api_keys[0], adapters, handle)


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_model(
    servers: LocalServers, weights: Weights, adapter: Path | None, name: str | None = None, *, baked: bool = False
) -> LocalModel:
    """Return a pydantic-ai model of a base, or of a specialist on it.

    Args:
        servers: the process's servers.
        weights: the base.
        adapter: the specialist's `adapter.gguf`; None for the base.
        name: the model's name in spans; the base's where None.
        baked: the specialist is sent texts without the base's chat template.
    """
    return LocalModel(servers, weights, adapter, name or weights.name, baked)


class LocalModel(OpenAIChatModel):
    """llama.cpp in this process; its answers obey the JSON Schema of the request through a grammar without free spaces."""

    def __init__(self, servers: LocalServers, weights: Weights, adapter: Path | None, name: str, baked: bool) -> None:
        # The address is known only when the server runs; it runs only when somebody asks.
        super().__init__(
            name, provider=OpenAIProvider(base_url="http://127.0.0.1:9/v1", api_key="unset"), profile=LOCAL_PROFILE
        )
        self.client.max_retries = 0  # an engine in this process that fails will fail again
        self._servers = servers
        self._weights = weights
        self._adapter = adapter
        self._template = {"chat_template_kwargs": {_BAKED: True}} if baked else {}

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask, and say in `model_name` who answered."""
        async with self._running(model_settings, model_request_parameters) as (settings, parameters):
            response = await super().request(messages, settings, parameters)
        return replace(response, model_name=self.model_name)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Ask for a stream."""
        async with (
            self._running(model_settings, model_request_parameters) as (settings, parameters),
            super().request_stream(messages, settings, parameters, run_context) as stream,
        ):
            yield stream

    @asynccontextmanager
    async def _running(
        self, settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> AsyncGenerator[tuple[ModelSettings, ModelRequestParameters]]:
        # A future and no task: the end of a loop cancels tasks, and the count below would stay.
        taking = asyncio.get_running_loop().run_in_executor(None, self._servers.take, self._weights, self._adapter)
        try:
            server = await asyncio.shield(taking)
        except asyncio.CancelledError:  # the thread goes on and counts a request that nobody makes
            taking.add_done_callback(lambda done: done.exception() or self._servers.give_back(done.result()))
            raise
        try:
            if str(self.client.base_url).rstrip("/") != server.url:
                self.client.base_url, self.client.api_key = server.url, server.key
            lora = [{"id": i, "scale": float(path == self._adapter)} for i, path in enumerate(server.adapters)]
            body: dict[str, Any] = {"lora": lora, **self._template}
            if parameters.output_object is not None and not parameters.function_tools:
                body["grammar"] = grammar_of(parameters.output_object.json_schema)
                parameters = replace(
                    parameters, output_mode="text", output_object=None, output_tools=[], allow_text_output=True
                )
            own = OpenAIChatModelSettings(
                temperature=0.0,
                max_tokens=DEFAULT_MAX_TOKENS,
                openai_logprobs=True,
                openai_top_logprobs=TOP_LOGPROBS,
                extra_body=body,
            )
            yield merge_model_settings(own, settings) or own, parameters
        finally:
            self._servers.give_back(server)


def grammar_of(schema: Mapping[str, Any]) -> str:
    """Return the grammar of a JSON Schema's one form: keys in the schema's order, `", "` and `": "` between, as `answer_text` writes."""
    return _grammar(json.dumps(schema, ensure_ascii=False))


@lru_cache(maxsize=1024)
def _grammar(schema: str) -> str:
    closed = _closed(json.loads(schema))
    closed["x-guidance"] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return "%llguidance {}\nstart: %json " + json.dumps(closed, ensure_ascii=False)


def _closed(node: Any) -> Any:
    """A copy of a schema in which objects take no properties that they do not name."""
    if isinstance(node, list):
        return [_closed(item) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    source = cast("dict[str, Any]", node)
    out = {
        key: {name: _closed(part) for name, part in value.items()}
        if key == "properties"
        else value
        if key in ("enum", "const", "default", "examples")
        else _closed(value)
        for key, value in source.items()
    }
    if "properties" in out:
        out.setdefault("additionalProperties", False)
    return out
