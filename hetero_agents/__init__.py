"""Agents that use several language models, each where it fits.

Declare model calls as slots, run them on a large model, distil your own traffic into small specialists,
and slot those back in. The commands are under `hetero --help`.
"""

from pydantic_ai.exceptions import ModelRetry

from .contract import Fits, NotSent, OneOf
from .crew import Crew, CrewRun, Memory, Message, RoleFailed, To
from .errors import (
    AnswerError,
    BudgetError,
    ConfigError,
    CrewDefinitionError,
    CrewError,
    DistillError,
    EffectError,
    EngineError,
    HeteroError,
    IntegrityError,
    KeyAccessError,
    MissingExtraError,
    ReplayMissError,
    SlotDefinitionError,
    UnknownNameError,
    UserError,
)
from .routing import Budget, Ledger, Spent, effect
from .slots import CodeAgent, Slot, SlotResult, Slots, code_agent, registry, slot, subject, workflow_outcome

__all__ = [
    "AnswerError",
    "Budget",
    "BudgetError",
    "CodeAgent",
    "ConfigError",
    "Crew",
    "CrewDefinitionError",
    "CrewError",
    "CrewRun",
    "DistillError",
    "EffectError",
    "EngineError",
    "Fits",
    "HeteroError",
    "IntegrityError",
    "KeyAccessError",
    "Ledger",
    "Memory",
    "Message",
    "MissingExtraError",
    "ModelRetry",
    "NotSent",
    "OneOf",
    "ReplayMissError",
    "RoleFailed",
    "Slot",
    "SlotDefinitionError",
    "SlotResult",
    "Slots",
    "Spent",
    "To",
    "UnknownNameError",
    "UserError",
    "code_agent",
    "effect",
    "flush",
    "slot",
    "subject",
    "workflow_outcome",
]


def flush(timeout: float = 30.0) -> bool:
    """Wait until every span of this process is stored, and handed to OTLP where that is on.

    Args:
        timeout: seconds to wait at most.

    Returns:
        False if that took longer, or if spans were lost since the last flush (the log says why).
    """
    return registry.opened is None or registry.opened.tracing.flush(timeout)
