"""What a MetaGPT project says, as far as it can be read from its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | float | bool

Mode = Literal["react", "by_order", "plan_and_act"]

BEGIN = "UserRequirement"
"""What a run of a team begins with."""


@dataclass(frozen=True)
class Place:
    """Where something stands in the project."""

    file: str
    line: int

    def __str__(self) -> str:
        """Return it as compilers do."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, order=True)
class Gap(Place):
    """Something that was not translated."""

    what: str
    """One sentence."""

    def __str__(self) -> str:
        """Return it as a line."""
        return f"{super().__str__()}: {self.what}"


@dataclass(frozen=True)
class Prompt:
    """A prompt whose variable parts stand in it by name, in backticks."""

    text: str
    fields: tuple[str, ...] = ()

    def __add__(self, other: Prompt) -> Prompt:
        return Prompt(self.text + other.text, tuple(dict.fromkeys(self.fields + other.fields)))


@dataclass(frozen=True)
class Part:
    """A part of a typed answer: a child of an ActionNode."""

    key: str
    type: str
    """As Python writes it, with nothing but builtins, `Any` and `Literal`."""
    description: str


@dataclass(frozen=True)
class Action:
    """An Action: a prompt and what it is answered with."""

    name: str
    place: Place
    prompt: Prompt | None
    """None where it asks no model."""
    answer: Sequence[Part] = ()
    """Of an ActionNode; text where there are none."""
    defaults: Mapping[str, Value] = field(default_factory=dict[str, Value])
    """Of the prompt's fields."""


@dataclass(frozen=True)
class Role:
    """A role that was hired."""

    kind: str
    """Its class."""
    place: Place
    values: Mapping[str, Value]
    """Its attributes that stand in the source: name, profile, goal and others."""
    actions: Sequence[str] = ()
    watches: Sequence[str] = (BEGIN,)
    mode: Mode = "react"
    human: bool = False
    send_to: str | None = None
    """The name or class of the role that its messages are for."""

    @property
    def prefix(self) -> str:
        """What MetaGPT says about the role before each prompt, in our words."""
        if desc := self.values.get("desc"):
            return str(desc)
        name, profile = self.values.get("name"), self.values.get("profile")
        who = ", ".join(str(part) for part in (name, profile) if part)
        says = [f"You are {who}." if profile else ""]
        says += [f"Your goal: {goal}." if (goal := str(self.values.get("goal") or "").rstrip(".")) else ""]
        says += [f"Constraints: {held}." if (held := str(self.values.get("constraints") or "").rstrip(".")) else ""]
        return " ".join(part for part in says if part)


@dataclass
class Project:
    """Actions, the roles that were hired, and how the team was run."""

    actions: dict[str, Action] = field(default_factory=dict[str, Action])
    roles: list[Role] = field(default_factory=list[Role])
    rounds: int | None = None
    money: float | None = None
    begins_with: str | None = None
    """The only role that the idea was sent to."""
    gaps: list[Gap] = field(default_factory=list[Gap])
