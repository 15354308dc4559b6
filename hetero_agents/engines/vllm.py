"""The `vllm:` engine: a vLLM server that somebody runs, over its OpenAI API, adapters loaded at run time.

The server needs `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`, and the adapter's folder at
the same path as here. Adapter names are immutable: base, specialist, and the weights' hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx2
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

from ..contract import Sha256
from ..errors import EngineError

DEFAULT_URL = "http://127.0.0.1:8000/v1"

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

    async def load(self, specialist_id: str, sha256: Sha256, folder: Path) -> str:
        """Load an adapter unless it is there; return its name, which begins with the base's.

        Raises:
            EngineError: the server does not answer or refuses the adapter.
        """
        name = f"{self.base}-{specialist_id}-{sha256[:8]}"
        try:
            async with httpx2.AsyncClient(timeout=60) as client:
                served = await client.get(f"{self.url}/models")
                if any(entry["id"] == name for entry in served.raise_for_status().json()["data"]):
                    return name
                answer = await client.post(
                    f"{self.url}/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)}
                )
        except httpx2.HTTPError as error:
            raise EngineError(
                f"The vLLM server at {self.url} does not answer ({error}); start it or change base_url in hetero.toml."
            ) from error
        if answer.is_error and "already" not in answer.text:
            raise EngineError(
                f"The vLLM server at {self.url} refuses {specialist_id} ({answer.text[:200]}); start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
            )
        return name


def vllm_model(server: VllmServer, name: str) -> OpenAIChatModel:
    """Return a pydantic-ai model of a base or an adapter on a vLLM server."""
    provider = OpenAIProvider(base_url=server.url, api_key="unset")
    settings = OpenAIChatModelSettings(temperature=0.0, openai_logprobs=True)
    return OpenAIChatModel(name, provider=provider, profile=_PROFILE, settings=settings)
