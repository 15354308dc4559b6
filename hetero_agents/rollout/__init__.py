"""Step S6: what becomes of a specialist, by what is seen of it: candidate, shadow, canary, active, and back."""

from .ladder import Verdict, step, verdict
from .movable import Movable, SlotReport, Workflow, slot_report, whole, workflows

__all__ = ["Movable", "SlotReport", "Verdict", "Workflow", "slot_report", "step", "verdict", "whole", "workflows"]
