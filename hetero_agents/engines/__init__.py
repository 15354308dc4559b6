"""What runs a model. Each engine is an OpenAI-compatible endpoint behind a pydantic-ai model.

`local:` (llama.cpp in process), `vllm:` (a server), `replay:` (an answer key in a process of its own),
and every model id that pydantic-ai knows.
"""

from .endpoint import EMBEDDER, INPUT_KEY, SERVER_SLOTS, Endpoint, Engines

__all__ = ["EMBEDDER", "INPUT_KEY", "SERVER_SLOTS", "Endpoint", "Engines"]
