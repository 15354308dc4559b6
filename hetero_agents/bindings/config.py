"""The form of `hetero.toml`, which people write."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import ConfigError, did_you_mean

Tier = Literal["llm", "slm"]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AppConfig(_Form):
    """`[app]`."""

    modules: list[str] = []
    """What the command line imports to find slots, agents and workflows, relative to the file's folder."""


class Price(_Form):
    """`price` of an entry of `[models]`: what a request costs, in US dollars; what is given is added up."""

    input: Annotated[float, Field(ge=0)] | None = None
    """A million input tokens."""
    output: Annotated[float, Field(ge=0)] | None = None
    """A million output tokens."""
    hour: Annotated[float, Field(ge=0)] | None = None
    """An hour of a request: what the hardware costs."""
    watts: Annotated[float, Field(ge=0)] | None = None
    """What the hardware draws during a request."""
    kwh: Annotated[float, Field(ge=0)] | None = None
    """A kilowatt-hour."""

    @property
    def by_time(self) -> bool:
        """A request's time costs."""
        return bool(self.hour or self.watts)

    def of(self, input_tokens: int, output_tokens: int, seconds: float) -> float:
        """Return what a request costs."""
        tokens = (self.input or 0) * input_tokens + (self.output or 0) * output_tokens
        return tokens / 1e6 + ((self.hour or 0) + (self.watts or 0) / 1000 * (self.kwh or 0)) * seconds / 3600

    @model_validator(mode="after")
    def _says_something(self) -> Price:
        if not self.model_fields_set:
            raise ValueError("a price says at least one of input, output, hour, watts with kwh; { hour = 0 } is free")
        if (self.watts is None) != (self.kwh is None):
            raise ValueError("watts and kwh go together")
        return self


class ModelConfig(_Form):
    """An entry of `[models]`: a model id, or a table where more is to be said."""

    model: str
    """`local:`, `vllm:`, `replay:` or any pydantic-ai model id."""
    train_on_outputs: bool = False
    """The model's terms allow training on its outputs. The user says so; nothing is assumed."""
    base_url: str | None = None
    """Where a `vllm:` server listens, for example `http://127.0.0.1:8000/v1`."""
    weights: str | None = None
    """The `local:` model with the same weights as a `vllm:` one, so that specialists can be trained for it."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of an answer at most; a run's budget of tokens or money needs it."""
    price: Price | None = None
    """What a request costs, where the provider's list price does not say it."""


class TierConfig(_Form):
    """An entry of `[tiers]`: what a slot of that tier falls back on."""

    model: str
    fallback: list[str] = []


class SlotConfig(_Form):
    """An entry of `[slots."id"]`."""

    model: str | None = None
    """A name from `[models]`, before the tier's."""
    fallback: list[str] | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds for one model's attempt; afterwards the call goes down its chain."""
    repair: bool = False
    """The next model of the chain that is no specialist is shown an answer that contract or checks refused, to mend it; else nothing of it."""
    error_budget: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The largest accepted rate of wrong answers among those that a specialist gives alone; all its answers are kept where None."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """With which it must have been shown that the error budget is kept."""
    error_budget_by: str | None = None
    """A parameter with few values: the error budget is shown for each of them on its own, and a call with another goes down the chain."""
    p95_seconds: Annotated[float, Field(gt=0)] | None = None
    """Seconds that 95 of 100 answers may take that a specialist gives alone, under an error budget; live evidence decides."""
    cost: Annotated[float, Field(gt=0, le=1)] | None = None
    """With a specialist a call may cost this share of what its teacher's answer costs, in the mean, under an error budget; live evidence decides."""
    samples: Annotated[int, Field(ge=1, le=17)] = 1
    """Answers of a specialist that a vote may be among, under an error budget; `hetero distill` finds how many of them pay."""
    router: bool = False
    """`hetero distill` fits a router, which says by a look at the input whether a specialist is asked at all, under an error budget."""
    audit: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the answers that a specialist gives alone under an error budget that the next model is asked for too, for ever."""
    split_by: str | None = None
    """The parameter that keeps held-out work apart in `hetero distill`; the whole input where None."""
    keep_together: list[Literal["run", "subject"]] = []
    """What else is never divided between training and held-out work: calls of one run, calls of one person."""
    compare: Literal["exact", "unordered", "fields", "judge"] = "exact"
    """When `hetero distill` calls an answer right: equal, equal but for the order of lists, by F1 of its fields, as a judge says."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """By how much numbers may differ, as a share and absolutely, for `exact` and `unordered`."""
    judge: str | None = None
    """The name in `[models]` of the model that judges, for `compare = "judge"`."""

    hci: bool | None = None
    """The slot or agent talks to a human: neither logged for training nor distilled (the paper's S1)."""
    cache: Literal["exact", "semantic"] | None = None
    """`exact`: the same question to the same model is answered from the cache; `semantic`: one that means the same too, where that was certified."""
    cache_seconds: Annotated[float, Field(gt=0)] = 86400.0
    """How long an answer is kept in the cache."""
    personal: bool = False
    """Answers depend on whose call it is: the cache serves nobody else's, and nothing outside `subject()`."""
    unredacted: list[str] = []
    """Parameters whose values are stored as they are, because they hold nothing personal."""
    imported_from: list[str] = []
    """Agents, chains or tasks of other programs, as `hetero import` lists them, whose calls this slot learns from too."""

    @property
    def shown_with(self) -> float:
        """The confidence of a specialist's certificate, and of its cache's: where both answer, they share the chance to be wrong."""
        return 1 - (1 - self.confidence) / 2 if self.cache == "semantic" else self.confidence

    @property
    def measure(self) -> str:
        """What says when an answer is right, in words: an error budget is shown for it alone."""
        return f"{self.compare}, tolerance {self.tolerance:g}" + (f", judge {self.judge}" if self.judge else "")

    @model_validator(mode="after")
    def _belong_together(self) -> SlotConfig:
        for name in ("error_budget_by", "router", "p95_seconds", "cost"):
            if getattr(self, name) and self.error_budget is None:
                raise ValueError(f"{name} goes with error_budget")
        if self.timeout and self.p95_seconds and self.p95_seconds >= self.timeout:
            raise ValueError("p95_seconds is less than timeout, which ends what takes longer")
        if self.judge is not None and self.compare != "judge":
            raise ValueError('judge goes with compare = "judge"')
        if self.tolerance and self.compare not in ("exact", "unordered"):
            raise ValueError('tolerance goes with compare = "exact" or "unordered"')
        return self


class SelectionConfig(_Form):
    """`[selection]`: which models may be the base of a specialist, for `hetero distill --candidates`."""

    licences: list[str] | None = None
    """SPDX ids that are allowed; all where None."""
    languages: list[str] | None = None
    """ISO 639-1 codes of what a base must speak."""
    memory_mb: Annotated[float, Field(gt=0)] | None = None
    """MB that it may take here, as `hetero models probe` measured it."""
    first_token_seconds: Annotated[float, Field(gt=0)] | None = None
    """Seconds to the first token that are good enough, as measured."""
    tokens_a_second: Annotated[float, Field(gt=0)] | None = None
    """Tokens a second that it must write, as measured."""


class PrivacyConfig(_Form):
    """`[privacy]`."""

    content: Literal["redacted", "raw", "none"] = "redacted"
    """What is stored of messages, arguments and answers."""
    otlp_content: bool = False
    """Content goes to the OTLP endpoint too, as it is stored."""
    languages: Annotated[list[str], Field(min_length=1)] = ["en"]
    """ISO 639-1 codes of what is spoken; text in other languages is not stored."""
    link_subjects: bool = False
    """A value has the same surrogate for all subjects, so that spans of several can be linked by it."""
    rules: dict[str, str] = {}
    """Own regular expressions, by the name of the kind of value that they find, for example `EMPLOYEE_ID`."""

    @field_validator("rules")
    @classmethod
    def _compile(cls, rules: dict[str, str]) -> dict[str, str]:
        for name, rule in rules.items():
            try:
                re.compile(rule)
            except re.error as error:
                raise ValueError(f"the rule {name} is no regular expression: {error}") from error
        return rules


class VaultConfig(_Form):
    """`[vault]`."""

    keep_days: Annotated[float, Field(gt=0)] | None = None
    """Days for which spans are kept; for ever where None."""
    keep_mb: Annotated[float, Field(gt=0)] | None = None
    """Megabytes of spans that are kept; the oldest go first."""
    when_full: Literal["drop", "block"] = "drop"
    """What happens to a finished span while `queue` others wait to be stored: it is dropped and counted, or its thread waits."""
    queue: Annotated[int, Field(ge=1)] = 8192
    """Finished spans that wait in memory at most."""


class Config(_Form):
    """The whole of `hetero.toml`."""

    app: AppConfig = AppConfig()
    models: dict[str, ModelConfig] = {}
    tiers: dict[Tier, TierConfig] = {}
    slots: dict[str, SlotConfig] = {}
    selection: SelectionConfig = SelectionConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    vault: VaultConfig = VaultConfig()

    @field_validator("models", mode="before")
    @classmethod
    def _plain_ids(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        entries = cast(dict[str, Any], value)
        return {name: {"model": entry} if isinstance(entry, str) else entry for name, entry in entries.items()}

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read and check a `hetero.toml`.

        Raises:
            ConfigError: unreadable, not TOML, an unknown key, a wrong type, or a name that does not
                exist in `[models]`; one sentence with the place.
        """
        try:
            config = cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}.") from error
        except ValidationError as error:
            raise ConfigError(f"{path}: {_sentence(error)}") from error
        config._check_names(path)
        return config

    def _check_names(self, path: Path) -> None:
        used = [
            (f"[tiers] {tier}", name) for tier, entry in self.tiers.items() for name in (entry.model, *entry.fallback)
        ]
        for slot, entry in self.slots.items():
            used += [
                (f'[slots."{slot}"]', name) for name in (entry.model, entry.judge, *(entry.fallback or ())) if name
            ]
        for where, name in used:
            if name not in self.models:
                raise ConfigError(
                    f"{path}: {where} names the model {name!r}, which [models] does not have{did_you_mean(name, self.models)}."
                )


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parents, key = first["loc"][:-1], str(first["loc"][-1])
        if parents[:1] == ("slots",) and "." not in str(parents[1]) and isinstance(first["input"], dict):
            return f'a slot\'s id stands in quotes: write [slots."{".".join(map(str, first["loc"][1:]))}"].'
        return f"the key {place!r} does not exist{did_you_mean(key, _known_keys(parents))}."
    if first["type"] == "literal_error" and first["loc"][0] == "tiers":
        return f"there is no tier {first['loc'][1]!r}; the tiers are llm and slm."
    if first["type"] == "value_error":
        return f"{place!r} is wrong: {first['msg'].removeprefix('Value error, ')}."
    return f"{place!r} is wrong: {first['msg'][:1].lower()}{first['msg'][1:]} (it is {first['input']!r})."


def _known_keys(parents: tuple[str | int, ...]) -> list[str]:
    forms: dict[str, type[BaseModel]] = {
        "app": AppConfig,
        "models": ModelConfig,
        "tiers": TierConfig,
        "slots": SlotConfig,
        "privacy": PrivacyConfig,
        "vault": VaultConfig,
        "selection": SelectionConfig,
    }
    form = forms.get(str(parents[0]), Config) if parents else Config
    if form is ModelConfig and parents[2:] == ("price",):
        form = Price
    return list(form.model_fields)
