"""From a model id to something that answers: one place where the prefixes are known."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from pydantic_ai.exceptions import UserError as PydanticAIUserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.settings import ModelSettings

from ..bindings import ModelConfig, Specialist, SpecialistId
from ..errors import ConfigError, IntegrityError
from .catalog import fetch_weights, find_weights, verified_sha256

# The engines import openai and httpx, which takes most of a second: each is imported at its first use.
if TYPE_CHECKING:
    from pydantic_ai.providers import Provider

    from .embeddings import Embedder
    from .local import LocalServers
    from .replay import ReplayServers

SERVER_SLOTS = 4
"""Requests that one local server works on at a time."""

TOP_LOGPROBS = 5
"""Alternatives whose log-probabilities come with each token of an answer."""

BAKED_TEMPLATE = "{{ messages[0]['content'] }}"
"""Chat template of a baked specialist: its prompt is the text of the one message, with no markup around it."""

EMBEDDER = "all-minilm-l6-v2"
"""The model of `Engines.embed`."""

INPUT_KEY = "hetero_input"
"""Field of a request's body with the SHA-256 of a slot call's arguments, for answer keys."""


@dataclass(frozen=True)
class Endpoint:
    """A model that can be asked now."""

    model: Model
    bare_json: bool = False
    """The engine takes any JSON Schema at the root of an answer, not objects only."""
    keyed: bool = False
    """Answers are looked up by the hash of the arguments, which the request must carry (`INPUT_KEY`)."""
    baked: bool = False
    """The model is a specialist that is sent a call's values alone (`Contract.baked_text`)."""
    matches: bool = False
    """The model chooses among a call's answers and is sent those (`engines.matcher.Choice`)."""
    settings: ModelSettings = field(default_factory=ModelSettings)


@dataclass
class Engines:
    """The engines of one process: servers are started at the first call that needs them, and end with `close`.

    Attributes:
        root: folder that relative paths in model ids and adapters start from.
    """

    root: Path
    # HTTP clients belong to an event loop, so endpoints are kept for each loop, and closed with it.
    _endpoints: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopEndpoints] = field(
        default_factory=WeakKeyDictionary[asyncio.AbstractEventLoop, "_LoopEndpoints"], repr=False
    )

    async def endpoint(self, config: ModelConfig, slot: str) -> Endpoint:
        """Return the endpoint of a model for a slot.

        Raises:
            ConfigError: pydantic-ai does not know the model id, or its key is missing.
            EngineError: weights or server cannot be had.
        """
        endpoint = await self._endpoint(config, slot)
        if config.max_tokens is None:
            return endpoint
        return replace(endpoint, settings={**endpoint.settings, "max_tokens": config.max_tokens})

    async def _endpoint(self, config: ModelConfig, slot: str) -> Endpoint:
        prefix, _, name = config.model.partition(":")
        match prefix:
            case "local":
                from .local import DEFAULT_MAX_TOKENS, local_model

                weights = find_weights(name, self.root)
                if weights.embeds:
                    return await self._matcher(weights.name)
                return await self._cached(
                    ("local", name),
                    lambda: Endpoint(
                        local_model(self._local, weights, None),
                        bare_json=True,
                        settings=ModelSettings(max_tokens=DEFAULT_MAX_TOKENS),
                    ),
                )
            case "vllm":
                from .vllm import VllmModel, VllmServer

                server = VllmServer(name, config.base_url)
                return await self._cached(
                    ("vllm", server), lambda: Endpoint(VllmModel(server, server.base), bare_json=True)
                )
            case "replay":
                from .replay import replay_model

                # Loading an answer file and starting its process takes a moment: not on the event loop.
                url = await asyncio.to_thread(self._replay.url, (self.root / name).resolve())
                return await self._cached(
                    ("replay", url, slot),
                    lambda: Endpoint(replay_model(url, Path(name).name, slot), bare_json=True, keyed=True),
                )
            case _:
                return await self._cached(("hub", config.model), lambda: Endpoint(_known_model(config.model)))

    async def specialist(self, specialist_id: SpecialistId, specialist: Specialist, config: ModelConfig) -> Endpoint:
        """Return the endpoint of a specialist on its base.

        Args:
            specialist_id: its id.
            specialist: its entry in the lock.
            config: the base's entry in `[models]`.

        Raises:
            EngineError: the base cannot be run.
            IntegrityError: the adapter is not the one that was evaluated, or the base is another.
        """
        folder = self.root / specialist.adapter
        prefix, _, name = specialist.base.partition(":")
        settings, baked = ModelSettings(max_tokens=specialist.max_tokens), specialist.baked
        if prefix == "local":
            from .local import local_model

            weights = find_weights(name, self.root)
            # The file that was fetched is the one that the catalog names; one of the user's own may have been replaced.
            base = weights.sha256 or await asyncio.to_thread(lambda: verified_sha256(fetch_weights(weights)))
            if base != specialist.base_sha256:
                raise IntegrityError(
                    f"{specialist_id} was trained on other weights of {specialist.base} than are there now; distill it again."
                )
            if weights.embeds:
                path = _checked(self.root / specialist.served, specialist.gguf_sha256, specialist_id)
                return await self._matcher(specialist_id, path, specialist.gguf_sha256)
            adapter: Path | None = _checked(self.root / specialist.served, specialist.gguf_sha256, specialist_id)
            if specialist.whole:
                weights, adapter = (
                    replace(weights, name=specialist_id, source=str(adapter), file="", serve_as=None),
                    None,
                )
            return await self._cached(
                ("local", name, specialist_id, specialist.gguf_sha256),
                lambda: Endpoint(
                    local_model(self._local, weights, adapter, specialist_id, baked=baked),
                    bare_json=True,
                    baked=baked,
                    settings=settings,
                ),
            )
        if prefix == "vllm":
            from .vllm import VllmModel, VllmServer

            _checked(folder / "adapter_model.safetensors", specialist.adapter_sha256, specialist_id)
            server = VllmServer(name, config.base_url)
            served_as = server.adapter_name(specialist_id, specialist.adapter_sha256)
            return await self._cached(
                ("vllm", server, served_as),
                lambda: Endpoint(
                    VllmModel(server, served_as, folder.resolve(), baked=baked),
                    bare_json=True,
                    baked=baked,
                    settings=settings,
                ),
            )
        raise ConfigError(
            f"{specialist_id} stands on {specialist.base!r}, which serves no adapters; use local: or vllm:."
        )

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a unit vector of 384 numbers for each text (all-MiniLM-L6-v2, mean pooling): their products are cosines.

        Of a text that is longer than the model's window the first 256 tokens count, about 200 English words.

        Raises:
            EngineError: the model cannot be fetched or run.
            IntegrityError: what was fetched is another model.
            MissingExtraError: llama.cpp is not installed.
        """
        return await asyncio.to_thread(self._embedder.embed, texts)

    async def _matcher(self, name: str, path: Path | None = None, sha256: str = "") -> Endpoint:
        """The endpoint of a matcher: one that was fitted to a slot, or none that was."""
        from .matcher import Matcher, MatcherModel, read_matcher

        return await self._cached(
            ("matcher", name, sha256),
            lambda: Endpoint(
                MatcherModel(name, self.embed, read_matcher(path) if path else Matcher()),
                bare_json=True,
                matches=True,
                settings=ModelSettings(max_tokens=1),  # budgets want to know the longest answer: it writes none
            ),
        )

    async def _cached(self, key: tuple[Any, ...], make: Callable[[], Endpoint]) -> Endpoint:
        loop = asyncio.get_running_loop()
        if (mine := self._endpoints.get(loop)) is None:
            mine = self._endpoints[loop] = _LoopEndpoints()
            await mine.open()
        if key not in mine.made:
            mine.made[key] = make()
        return mine.made[key]

    @cached_property
    def _local(self) -> LocalServers:
        from .local import LocalServers

        return LocalServers()

    @cached_property
    def _embedder(self) -> Embedder:
        from .embeddings import Embedder

        return Embedder()

    @cached_property
    def _replay(self) -> ReplayServers:
        from .replay import ReplayServers

        return ReplayServers()

    def close(self) -> None:
        """Stop every server that this process started."""
        for name in ("_local", "_embedder", "_replay"):
            if name in self.__dict__:
                self.__dict__[name].close()


class _LoopEndpoints:
    """The endpoints of one event loop; their connections are closed when the loop ends."""

    def __init__(self) -> None:
        self.made: dict[tuple[Any, ...], Endpoint] = {}
        self._end = self._close_at_the_end()

    async def open(self) -> None:
        await anext(self._end)

    async def _close_at_the_end(self) -> AsyncGenerator[None]:
        # A loop finalises its async generators before it closes: the one hook that asyncio offers.
        try:
            yield
        finally:
            for endpoint in self.made.values():
                closed = getattr(getattr(endpoint.model, "client", None), "close", lambda: None)()
                if inspect.isawaitable(closed):  # Google's and Amazon's clients close at once
                    await closed
            self.made.clear()
            del self._end  # it holds the loop, which is the key under which this is kept


def _checked(path: Path, sha256: str, specialist_id: SpecialistId) -> Path:
    if not path.is_file():
        raise IntegrityError(f"The weights of {specialist_id} are not at {path}; distill it again or roll it back.")
    if verified_sha256(path) != sha256:
        raise IntegrityError(
            f"{path} is not what was evaluated as {specialist_id}: its SHA-256 differs; distill it again or roll it back."
        )
    return path


def _known_model(model_id: str) -> Model:
    try:
        return infer_model(model_id, provider_factory=_retrying_provider)
    except (PydanticAIUserError, ValueError, ImportError) as error:
        # pydantic-ai goes on with what is done in code.
        if key := re.search(r"`(\w+)` environment variable", str(error)):
            raise ConfigError(
                f"The model {model_id!r} needs {key[1]} in the environment; set it, or name another model in hetero.toml."
            ) from error
        raise ConfigError(f"The model {model_id!r} cannot be used: {error}") from error


_OTHER_CLIENTS = ("groq", "cohere", "huggingface")
"""Providers whose packages take no `httpx2` client."""


def _retrying_provider(name: str) -> Provider[Any]:
    """A provider whose HTTP client tries again, with growing waits, on rate limits, 5xx and lost connections."""
    from pydantic_ai.providers import infer_provider, infer_provider_class

    if name.startswith("gateway/") or name in _OTHER_CLIENTS:
        return infer_provider(name)
    from .retries import patient_client

    provider = cast("Callable[..., Provider[Any]]", infer_provider_class(name))
    if "http_client" not in inspect.signature(provider).parameters:
        return provider()
    made = provider(http_client=patient_client())
    if hasattr(made.client, "max_retries"):
        made.client.max_retries = 0  # the transport retries; both together would multiply
    return made
