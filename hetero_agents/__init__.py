"""Agents that use several language models, each where it fits.

Declare model calls as slots, run them on a large model, distil your own traffic into small specialists,
and slot those back in. The commands are under `hetero --help`.
"""

from pydantic_ai.exceptions import ModelRetry

from .contract import Fits, NotSent, OneOf
from .errors import (
    AnswerError,
    ConfigError,
    DistillError,
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
from .slots import CodeAgent, Slot, SlotResult, Slots, code_agent, registry, slot, subject, workflow_outcome

__all__ = [
    "AnswerError",
    "CodeAgent",
    "ConfigError",
    "DistillError",
    "EngineError",
    "Fits",
    "HeteroError",
    "IntegrityError",
    "KeyAccessError",
    "MissingExtraError",
    "ModelRetry",
    "NotSent",
    "OneOf",
    "ReplayMissError",
    "Slot",
    "SlotDefinitionError",
    "SlotResult",
    "Slots",
    "UnknownNameError",
    "UserError",
    "code_agent",
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
