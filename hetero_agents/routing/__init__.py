"""Which model answers: the chain of a slot, tried in order, and what is remembered of failures."""

from .cache import AnswerCache, Kept
from .chain import Answer, Attempt, BadAnswer, Check, Link, Route, ask, attempt, recall
from .state import State

__all__ = [
    "Answer",
    "AnswerCache",
    "Attempt",
    "BadAnswer",
    "Check",
    "Kept",
    "Link",
    "Route",
    "State",
    "ask",
    "attempt",
    "recall",
]
