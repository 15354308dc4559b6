"""Which model answers: the chain of a slot, tried in order, and what is remembered of failures."""

from .agree import agrees
from .aside import Aside
from .attempts import Attempt, BadAnswer, Check, CheckBroke, attempt, hold, vote
from .cache import AnswerCache, Kept
from .chain import Answer, Link, Route, alone, ask, recall
from .confidence import Signals, calibrated, scaled, signals_of
from .evidence import ALPHA, wealth_against_bad, wealth_against_good
from .meaning import REMEMBERED, Nearest, Question, packed, question_of
from .router import Embed, chance, lets, look
from .state import Seen, State, Watched

__all__ = [
    "ALPHA",
    "REMEMBERED",
    "Answer",
    "AnswerCache",
    "Aside",
    "Attempt",
    "BadAnswer",
    "Check",
    "CheckBroke",
    "Embed",
    "Kept",
    "Link",
    "Nearest",
    "Question",
    "Route",
    "Seen",
    "Signals",
    "State",
    "Watched",
    "agrees",
    "alone",
    "ask",
    "attempt",
    "calibrated",
    "chance",
    "hold",
    "lets",
    "look",
    "packed",
    "question_of",
    "recall",
    "scaled",
    "signals_of",
    "vote",
    "wealth_against_bad",
    "wealth_against_good",
]
