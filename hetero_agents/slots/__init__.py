"""The language: slots, agents that use them, and what a run says of itself."""

from .agency import CodeAgent, code_agent, subject, workflow_outcome
from .app import App
from .capability import Slots
from .registry import registry
from .slot import Slot, SlotResult, slot

__all__ = [
    "App",
    "CodeAgent",
    "Slot",
    "SlotResult",
    "Slots",
    "code_agent",
    "registry",
    "slot",
    "subject",
    "workflow_outcome",
]
