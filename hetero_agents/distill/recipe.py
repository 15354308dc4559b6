"""How a specialist is trained: what `hetero distill --recipe FILE` reads."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ..contract import Contract, Sha256, sha256_of
from ..errors import ConfigError, did_you_mean

LARGE = 300_000_000
"""Parameters of a base above which an adapter learns at a lower rate: at 0.001 one on half a billion is worse after a whole pass than after half of it."""


@dataclass(frozen=True)
class Recipe:
    """How a specialist is trained. Names are PEFT's where it has one."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter; `full` the layers themselves, so that the specialist is a whole model of its own."""
    r: Annotated[int, Field(gt=0, strict=True)] = 16
    """Rank of the adapter (LoRA, Hu et al. 2021)."""
    lora_alpha: Annotated[int, Field(gt=0, strict=True)] = 32
    use_rslora: Annotated[bool, Field(strict=True)] = False
    """Scale by `lora_alpha / sqrt(r)` in place of `lora_alpha / r` (rsLoRA, Kalajdzievski 2023): for high ranks."""
    use_dora: Annotated[bool, Field(strict=True)] = False
    """Train each column's length apart from its direction (DoRA, Liu et al. 2024); merged, a whole model too: no engine loads it beside others."""
    load_in_4bit: Annotated[bool, Field(strict=True)] = False
    """Keep the base's matrices in NF4, doubly quantised, while an adapter is trained on them (QLoRA, Dettmers et al. 2023); by bitsandbytes."""
    learning_rate: Annotated[float, Field(gt=0, strict=True)] | None = None
    """Where None: 0.001 for an adapter, of a base above `LARGE` parameters 0.0003; 0.0001 for the layers themselves."""
    teacher_model: str | None = None
    """A model whose token probabilities are learnt beside the answers (Hinton et al. 2015): `local:large.gguf`, say, or the name of a `vllm:` model in `[models]`.

    It must have the base's tokenizer. Without one, the answers alone are learnt (sequence-level distillation, Kim and Rush 2016).
    """
    teacher_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5
    """Weight of the teacher's probabilities in the loss; the answers have the rest."""
    batch_size: Annotated[int, Field(gt=0, strict=True)] = 4
    epochs: Annotated[float, Field(gt=0, strict=True)] = 1.5
    top_layers: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5
    """Share of the layers, from the top, that are trained: the backward pass ends at the lowest of them."""
    max_length: Annotated[int, Field(ge=16, strict=True)] = 512
    """Tokens of prompt and answer; longer examples are left out."""
    bake: Annotated[bool, Field(strict=True)] = True
    """Train and serve on a call's values alone, without instruction, names and chat template, where the contract allows it."""
    patience: Annotated[int, Field(ge=0, strict=True)] = 3
    """Looks at the select part, two an epoch, without a lower loss after which training ends; 0 never looks.

    What is kept is the adapter of the best look (early stopping).
    """
    balance: Annotated[bool, Field(strict=True)] = False
    """Repeat examples of rare answers, up to `MOST_REPEATS` times, where there are few different answers."""
    vary_options: Annotated[bool, Field(strict=True)] = False
    """Where the answer is one of a parameter's options (`OneOf`): each epoch but the first has them in another order, for half of the calls with some left out.

    Other slots are taught as they are.
    """
    seed: Annotated[int, Field(strict=True)] = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be together."""
        if self.teacher_model is None and self.teacher_share != 0.5:
            raise ValueError("teacher_share goes with a teacher_model")
        if self.method == "full" and (self.use_dora or self.use_rslora):
            raise ValueError("use_dora and use_rslora are ways of LoRA: they do not go with method = 'full'")
        if self.load_in_4bit and self.whole:
            raise ValueError(
                "load_in_4bit goes with adapters: a whole model (method = 'full', use_dora) is written in the base's own matrices"
            )

    def rate(self, parameters: int) -> float:
        """Return the learning rate at its highest, for a base of so many parameters."""
        if self.learning_rate:
            return self.learning_rate
        if self.method == "full":
            return 1e-4
        return 3e-4 if parameters > LARGE else 1e-3

    @property
    def whole(self) -> bool:
        """Whether the specialist is a whole model, which only `local:` can serve, and not an adapter."""
        return self.method == "full" or self.use_dora

    def bakes(self, contract: Contract) -> bool:
        """Return whether a slot's specialist is baked."""
        return self.bake and contract.can_bake

    @property
    def sha256(self) -> Sha256:
        """Hash of the recipe."""
        return sha256_of(asdict(self))

    @classmethod
    def load(cls, path: Path | None = None, **more: Any) -> Recipe:
        """Read a recipe; what it does not say is as by default.

        Args:
            path: a TOML file; an empty recipe where None.
            more: values that come before the file's.

        Raises:
            ConfigError: unreadable, not TOML, an unknown key or a wrong value; one sentence with the place.
        """
        name = "The recipe" if path is None else f"The recipe {path}"
        try:
            values = tomllib.loads(path.read_text("utf-8")) if path else {}
            return TypeAdapter(cls).validate_python({**values, **more})
        except OSError as error:
            raise ConfigError(f"{name} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name} is not TOML: {error}.") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "value_error":
                raise ConfigError(f"{name} cannot be: {first['msg'].removeprefix('Value error, ')}.") from error
            key = str(first["loc"][-1]) if first["loc"] else "the file"
            if first["type"] == "unexpected_keyword_argument":
                known = [field.name for field in fields(cls)]
                raise ConfigError(f"{name}: the key {key!r} does not exist{did_you_mean(key, known)}.") from error
            raise ConfigError(
                f"{name} is wrong at {key!r}: {first['msg'][:1].lower()}{first['msg'][1:]} (it is {first['input']!r})."
            ) from error
