"""What makers publish of small language models: a catalog to choose a base from (step S4). Every figure has its source."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import TypeAdapter

from ..errors import UnknownNameError


@dataclass(frozen=True)
class Published:
    """One published score; harnesses and versions differ, so compare within a benchmark only."""

    benchmark: str
    kind: Literal["tool use", "instruction following", "code"]
    score: float
    """Per cent."""
    source: str


@dataclass(frozen=True)
class KnownModel:
    """A model as its maker describes it."""

    family: str
    parameters: int
    licence: str
    """SPDX id; `LicenseRef-` where it is the maker's own."""
    use_limits: str
    """How the licence limits use; empty where it does not."""
    context: int
    """Tokens."""
    languages: list[str]
    """ISO 639-1."""
    source: str
    """Where to get it (`hf:org/name`); empty where nobody can."""
    figures: str
    """Address of the page or paper that parameters, licence, context and languages are from."""
    scores: list[Published]
    weights_gb: dict[str, float]
    """10^9 bytes by precision, as in the names of GGUF files."""
    weights_source: str
    """`computed` from the parameters, or the address of the files."""
    llama_cpp: bool
    """llama.cpp has its architecture, so `local:` can serve it."""
    lora: bool
    """vLLM serves LoRA adapters on it."""
    not_served: str
    """Why neither can, where neither can."""


@cache
def known_models() -> dict[str, KnownModel]:
    """Return the catalog, by name."""
    text = resources.files("hetero_agents.engines").joinpath("families.toml").read_text("utf-8")
    return TypeAdapter(dict[str, KnownModel]).validate_python(tomllib.loads(text))


def known_model(name: str) -> KnownModel:
    """Return a model of the catalog.

    Raises:
        UnknownNameError: it is not there.
    """
    try:
        return known_models()[name]
    except KeyError:
        raise UnknownNameError("model", name, known_models(), hint="`hetero models list` has all") from None
