"""The `vllm:` engine: a vLLM server that somebody runs, over its OpenAI API, adapters loaded at run time.

To serve specialists it needs `--enable-lora`, `--trust-request-chat-template` (for baked specialists) and
`VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`, and the adapter's folder at the same path as here. Adapter names are immutable: base, specialist, and the weights' hash.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from ..contract import Sha256
from ..errors import EngineError
from .endpoint import BAKED_TEMPLATE, TOP_LOGPROBS

DEFAULT_URL = "http://127.0.0.1:8000/v1"

LIKELIEST = 20
"""Tokens of each place whose probabilities a teacher says: what a vLLM server gives at most unless it is started with --max-logprobs."""

_PROFILE = OpenAIModelProfile(supports_json_schema_output=True, default_structured_output_mode="native")


@dataclass(frozen=True)
class VllmServer:
    """A running vLLM server and the name under which it serves its base."""

    base: str
    base_url: str | None = None

    @property
    def url(self) -> str:
        """The server's OpenAI root, `http://host:port/v1`."""
        return (self.base_url or DEFAULT_URL).rstrip("/")

    def silent(self, error: Exception) -> EngineError:
        """Return the error of a server that does not answer."""
        return EngineError(
            f"The vLLM server at {self.url} does not answer ({error}); start it or change base_url in hetero.toml."
        )

    async def tokens(self, client: httpx2.AsyncClient, text: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a text without special ones around it, or of a chat up to where its answer begins.

        Raises:
            EngineError: the server does not answer, or not that.
        """
        asked: dict[str, Any] = {"prompt": text, "add_special_tokens": False}
        if not isinstance(text, str):
            asked = {"messages": text, "add_generation_prompt": True}
        said = await self._post(client, f"{self.url.removesuffix('/v1')}/tokenize", asked)
        with self._of_vllm():
            return said["tokens"]

    async def log_probabilities(
        self, client: httpx2.AsyncClient, tokens: Sequence[int], places: int
    ) -> list[dict[int, float]]:
        """Return the log-probabilities of the `LIKELIEST` tokens at each of the last places of a given text, the likeliest first.

        Raises:
            EngineError: the server does not answer, or not that.
        """
        asked = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": LIKELIEST}
        said = await self._post(client, f"{self.url}/completions", asked)
        found: list[dict[int, float]] = []
        with self._of_vllm():
            [choice] = said["choices"]
            for place in choice["prompt_logprobs"][-places:]:
                # The token that stands there is said too where it is none of these.
                best = sorted(((one["logprob"], int(token)) for token, one in place.items()), reverse=True)
                found.append({token: chance for chance, token in best[:LIKELIEST]})
        return found

    async def _post(self, client: httpx2.AsyncClient, url: str, asked: Mapping[str, Any]) -> Any:
        try:
            answer = await client.post(url, json={"model": self.base, **asked})
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self.silent(error) from error
        if answer.status_code >= 500:
            raise EngineError(
                f"The vLLM server at {self.url} failed ({answer.status_code}); its log says why. On a processor vLLM fails at what is asked of a teacher where it was started with --enable-lora."
            )
        if answer.is_error:
            raise EngineError(
                f"The vLLM server at {self.url} refuses a request ({answer.status_code} {answer.text[:200]})."
            )
        with self._of_vllm():
            return answer.json()

    @contextmanager
    def _of_vllm(self) -> Generator[None]:
        """Take an answer of another form for what it is: somebody else's."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineError(
                f"What the server at {self.url} answers is not vLLM's: it says no probabilities of a given text. Is base_url right in hetero.toml?"
            ) from error

    def adapter_name(self, specialist_id: str, sha256: Sha256) -> str:
        """Return the name under which the server serves an adapter; it begins with the base's."""
        return f"{self.base}-{specialist_id}-{sha256[:8]}"

    async def load(self, name: str, folder: Path) -> None:
        """Load an adapter unless it is there.

        Raises:
            EngineError: the server does not answer or refuses the adapter.
        """
        try:
            async with httpx2.AsyncClient(timeout=60) as client:
                answer = await client.post(
                    f"{self.url}/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)}
                )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self.silent(error) from error
        if answer.is_error and "already" not in answer.text:
            raise EngineError(
                f"The vLLM server at {self.url} refuses {name} ({answer.text[:200]}); start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
            )


class VllmModel(OpenAIChatModel):
    """A base, or a specialist, on a vLLM server; a specialist that the server does not have, or lost, is loaded."""

    def __init__(self, server: VllmServer, name: str, folder: Path | None = None, *, baked: bool = False) -> None:
        """Make the model; nothing is asked of the server yet.

        Args:
            server: the server.
            name: the base's name, or `server.adapter_name(...)`.
            folder: the specialist's adapter; None for the base.
            baked: the specialist is sent texts without the base's chat template.
        """
        settings = OpenAIChatModelSettings(temperature=0.0, openai_logprobs=True, openai_top_logprobs=TOP_LOGPROBS)
        if baked:
            settings["extra_body"] = {"chat_template": BAKED_TEMPLATE, "add_special_tokens": True}
        super().__init__(
            name,
            provider=OpenAIProvider(base_url=server.url, api_key="unset"),
            profile=_PROFILE,
            settings=settings,
        )
        self._server = server
        self._folder = folder

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask; where the server answers that it has no such model, load the adapter and ask again.

        Raises:
            EngineError: the adapter cannot be loaded, or the server does not take its form of prompts.
        """
        try:
            return await self._asked(messages, model_settings, model_request_parameters)
        except ModelHTTPError as error:
            if error.status_code != 404 or self._folder is None:
                raise
        await self._server.load(self.model_name, self._folder)
        return await self._asked(messages, model_settings, model_request_parameters)

    async def _asked(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        try:
            return await super().request(messages, settings, parameters)
        except ModelHTTPError as error:
            if error.status_code == 400 and "trust-request-chat-template" in str(error.body):
                raise EngineError(
                    f"The vLLM server at {self._server.url} takes no chat template, which {self.model_name} needs; start it with --trust-request-chat-template."
                ) from error
            raise
        except ModelAPIError as error:
            raise self._server.silent(error) from error
