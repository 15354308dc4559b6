"""Which model answers: the chain of a slot, tried in order, and what is remembered of failures."""

from .agree import agrees
from .aside import Aside
from .attempts import Attempt, BadAnswer, Check, CheckBroke, attempt, hold, vote
from .cache import AnswerCache, Kept
from .chain import Answer, Link, Route, alone, ask, recall
from .confidence import Signals, calibrated, scaled, signals_of
from .evidence import ALPHA, wealth_against_bad, wealth_against_good
from .ledger import Budget, Ledger, Spent, Terms, ledger_now, spending
from .state import Seen, State, Watched

__all__ = [
    "ALPHA",
    "Answer",
    "AnswerCache",
    "Aside",
    "Attempt",
    "BadAnswer",
    "Budget",
    "Check",
    "CheckBroke",
    "Kept",
    "Ledger",
    "Link",
    "Route",
    "Seen",
    "Signals",
    "Spent",
    "State",
    "Terms",
    "Watched",
    "agrees",
    "alone",
    "ask",
    "attempt",
    "calibrated",
    "hold",
    "ledger_now",
    "recall",
    "scaled",
    "signals_of",
    "spending",
    "vote",
    "wealth_against_bad",
    "wealth_against_good",
]
