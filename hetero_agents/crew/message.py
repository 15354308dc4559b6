"""What roles say to each other, and what of it a role may ask for."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from opentelemetry.trace import SpanContext

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Message(Generic[T_co]):
    """A published value, and where it came from."""

    id: int
    """0, 1, 2, ... in the order of publication, the same in every run of the same answers."""
    content: T_co
    role: str | None
    """Who published it; None for what the run was started with."""
    round: int
    """In which round, from 1; 0 for what the run was started with."""
    caused_by: tuple[int, ...]
    """Ids of the messages that its role had taken."""
    to: tuple[str, ...] = ()
    """Roles that it is addressed to; all that take its type where empty."""
    span: SpanContext | None = field(default=None, repr=False, compare=False)
    """The span that published it."""

    @property
    def kind(self) -> type[Any]:
        """The content's class."""
        return type(self.content)

    @property
    def label(self) -> str:
        """Its type and id, for example `Design#3`: what spans and sentences call it."""
        return f"{self.kind.__name__}#{self.id}"


@dataclass(frozen=True, init=False)
class To(Generic[T_co]):
    """A message for some roles only: `return To(fix, engineer)` where the return type says `To[Fix]`."""

    content: T_co
    roles: tuple[str | Callable[..., Awaitable[Any]], ...]
    """Names of roles, or their functions."""

    def __init__(self, content: T_co, *roles: str | Callable[..., Awaitable[Any]]) -> None:
        """Address a message.

        Args:
            content: what is said.
            roles: to whom, by name or by the role's function.
        """
        object.__setattr__(self, "content", content)
        object.__setattr__(self, "roles", roles)


@dataclass(frozen=True)
class RoleFailed:
    """A role with `on_error="go_on"` failed; the crew publishes it, and a role that takes it may see to it."""

    role: str
    error: str
    """One sentence."""
    took: tuple[int, ...]
    """Ids of the messages that it had taken."""


class Said:
    """The messages of a board by type and by role: each is looked at once for each type that somebody asks for."""

    def __init__(self, messages: Sequence[Message[Any]]) -> None:
        """Begin to read a board.

        Args:
            messages: of the board; more may come.
        """
        self.messages = messages
        self._of: defaultdict[type, list[Message[Any]]] = defaultdict(list)
        self._by: defaultdict[str | None, list[Message[Any]]] = defaultdict(list)
        self._read: defaultdict[type | None, int] = defaultdict(int)
        """How many messages were looked at for a type; for roles at None."""
        self._lock = threading.Lock()  # a role may ask in a thread

    def of(self, kind: type[Any]) -> list[Message[Any]]:
        """Return the messages of a type, oldest first."""
        with self._lock:
            found = self._of[kind]
            found += [message for message in self._unread(kind) if isinstance(message.content, kind)]
        return found

    def by(self, role: str) -> list[Message[Any]]:
        """Return what a role published, oldest first."""
        with self._lock:
            for message in self._unread(None):
                self._by[message.role].append(message)
            return self._by[role]

    def _unread(self, what: type | None) -> Sequence[Message[Any]]:
        read, self._read[what] = self._read[what], len(self.messages)
        return self.messages[read:]


@dataclass(frozen=True)
class Memory:
    """The messages of a run up to the round before: a role asks for it by a parameter of this type."""

    role: str
    taken: tuple[Message[Any], ...]
    """The messages of this call, with who published them and why."""
    _said: Said = field(repr=False)
    _known: int = field(repr=False)

    def all(self) -> list[Message[Any]]:
        """Return every message, oldest first."""
        return list(islice(self._said.messages, self._known))

    def of(self, kind: type[T]) -> list[T]:
        """Return the contents of a type, oldest first."""
        return [message.content for message in self._until_then(self._said.of(kind))]

    def latest(self, kind: type[T]) -> T | None:
        """Return the newest content of a type; None where there is none."""
        found = self._said.of(kind)
        known = self._count(found)
        return found[known - 1].content if known else None

    def mine(self) -> list[Message[Any]]:
        """Return what this role published, oldest first."""
        return self._until_then(self._said.by(self.role))

    def _until_then(self, found: list[Message[Any]]) -> list[Message[Any]]:
        return found[: self._count(found)]

    def _count(self, found: list[Message[Any]]) -> int:
        return bisect_left(found, self._known, key=lambda message: message.id)
