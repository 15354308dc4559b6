"""How a specialist is trained: what `hetero distill --recipe FILE` reads."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ..contract import Sha256, sha256_of
from ..errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Recipe:
    """How a specialist is trained. Names are PEFT's where it has one."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    r: Annotated[int, Field(gt=0, strict=True)] = 16
    """Rank of the adapter (LoRA, Hu et al. 2021)."""
    lora_alpha: Annotated[int, Field(gt=0, strict=True)] = 32
    use_rslora: Annotated[bool, Field(strict=True)] = False
    """Scale by `lora_alpha / sqrt(r)` in place of `lora_alpha / r` (rsLoRA, Kalajdzievski 2023): for high ranks."""
    learning_rate: Annotated[float, Field(gt=0, strict=True)] = 1e-3
    batch_size: Annotated[int, Field(gt=0, strict=True)] = 4
    epochs: Annotated[float, Field(gt=0, strict=True)] = 1.5
    top_layers: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5
    """Share of the layers, from the top, that get an adapter: the backward pass ends at the lowest of them."""
    max_length: Annotated[int, Field(ge=16, strict=True)] = 512
    """Tokens of prompt and answer; longer examples are left out."""
    bake: Annotated[bool, Field(strict=True)] = True
    """Train and serve on a call's values alone, without instruction, names and chat template, where the contract allows it."""
    seed: Annotated[int, Field(strict=True)] = 0

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
            key = str(first["loc"][-1]) if first["loc"] else "the file"
            if first["type"] == "unexpected_keyword_argument":
                known = [field.name for field in fields(cls)]
                raise ConfigError(f"{name}: the key {key!r} does not exist{did_you_mean(key, known)}.") from error
            raise ConfigError(
                f"{name} is wrong at {key!r}: {first['msg'][:1].lower()}{first['msg'][1:]} (it is {first['input']!r})."
            ) from error
