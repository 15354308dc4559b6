"""Which model answers: the chain of a slot, tried in order, and what is remembered of failures."""

from .chain import Answer, Attempt, BadAnswer, Check, Link, Route, ask, attempt
from .state import State

__all__ = ["Answer", "Attempt", "BadAnswer", "Check", "Link", "Route", "State", "ask", "attempt"]
