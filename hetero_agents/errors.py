"""Every error that hetero_agents raises, in one tree.

    HeteroError
    ├── UserError                  what the user wrote is wrong: exit code 2
    │   ├── SlotDefinitionError    a function that cannot be a slot
    │   ├── CrewDefinitionError    roles that cannot work together as they are declared
    │   ├── ConfigError            hetero.toml or hetero.lock cannot be used
    │   ├── UnknownNameError       no such slot, model, specialist, trace (with "did you mean")
    │   └── MissingExtraError      a feature whose packages are not installed
    ├── EngineError                a model could not be run: weights, server, network
    │   └── ReplayMissError        an answer key has no answer for this state
    ├── IntegrityError             a file's hash is not the one that was recorded
    ├── KeyAccessError             no key, a wrong key, or a role that does not open this
    ├── AnswerError                no model of the chain gave a usable answer
    ├── BudgetError                the next call might cost more than the run may still spend
    ├── CrewError                  a role failed and ended the run of its crew
    ├── EffectError                a side effect may have happened, and nobody can be asked
    └── DistillError               a specialist cannot be made from what is there

Each message is one sentence that says what happened and what to do next. pydantic-ai's
`ModelRetry` is the fourth kind, control flow: a check raises it to ask for another answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class HeteroError(Exception):
    """Base of all errors of hetero_agents."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 2 for the user's mistakes, 1 for failures."""


class UserError(HeteroError):
    """Something the user wrote is wrong."""

    exit_code = 2


class SlotDefinitionError(UserError):
    """A function cannot become a slot as it is declared."""


class CrewDefinitionError(UserError):
    """Roles cannot work together as they are declared."""


class ConfigError(UserError):
    """`hetero.toml` or `hetero.lock` is missing, broken or contradicts itself."""


class UnknownNameError(UserError):
    """A slot, model, specialist or trace of that name does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        """Build the sentence.

        Args:
            kind: what was looked for, for example "slot".
            name: the name that was not found.
            known: the names that exist.
            hint: what to do where nothing is close.
        """
        super().__init__(f"There is no {kind} {name!r}{did_you_mean(name, known)}{f'; {hint}' if hint else ''}.")


class MissingExtraError(UserError):
    """A feature needs packages that are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not here: pip install 'hetero_agents[{extra}]'.")


class EngineError(HeteroError):
    """A model could not be run."""


class ReplayMissError(EngineError):
    """An answer key has no answer for this state: the workflow counts as failed, nothing is broken."""


class IntegrityError(HeteroError):
    """A file is not the one that was recorded: its SHA-256 differs."""


class KeyAccessError(HeteroError):
    """A vault cannot be opened with the key that is here, or not by this reader's role."""


class AnswerError(HeteroError):
    """No model of the slot's chain gave a usable answer."""


class BudgetError(HeteroError):
    """The next model call might cost more than the run may still spend; it was not made."""


class CrewError(HeteroError):
    """A role of a crew failed, and that ended the run."""

    run: Any = None
    """The `CrewRun` up to there: nothing that was made is lost."""


class EffectError(HeteroError):
    """A side effect may have happened before its run stopped, and nobody can be asked."""


class DistillError(HeteroError):
    """A specialist cannot be made from what is there."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"`-style text for the closest known name, or the list of a few.

    Args:
        name: what was written.
        known: what exists.
    """
    names = sorted(set(known))
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f", did you mean {close[0]!r}"
    if names:
        return f" (there is {', '.join(map(repr, names[:8]))}{', ...' if len(names) > 8 else ''})"
    return ""
