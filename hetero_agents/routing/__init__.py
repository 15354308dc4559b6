"""Which model answers: the chain of a slot, tried in order, and what is remembered of failures."""

from .agree import agrees
from .aside import Aside
from .attempts import Attempt, BadAnswer, Check, CheckBroke, attempt, elected, hold, responding, vote
from .cache import AnswerCache, Kept
from .chain import Answer, Link, Route, alone, ask, recall
from .confidence import Signals, calibrated, scaled, signals_of
from .evidence import ALPHA, Promise, Seen, findings, wealth_against_bad, wealth_against_good
from .ledger import Budget, Ledger, Spent, Terms, ledger_now, price_of, spending
from .meaning import REMEMBERED, Nearest, Question, packed, question_of
from .router import Embed, chance, choice_text, lets, look
from .state import State, Watched
from .steps import Steps, effect, paid_step, steps_now

__all__ = [
    "ALPHA",
    "REMEMBERED",
    "Answer",
    "AnswerCache",
    "Aside",
    "Attempt",
    "BadAnswer",
    "Budget",
    "Check",
    "CheckBroke",
    "Embed",
    "Kept",
    "Ledger",
    "Link",
    "Nearest",
    "Promise",
    "Question",
    "Route",
    "Seen",
    "Signals",
    "Spent",
    "State",
    "Steps",
    "Terms",
    "Watched",
    "agrees",
    "alone",
    "ask",
    "attempt",
    "calibrated",
    "chance",
    "choice_text",
    "effect",
    "elected",
    "findings",
    "hold",
    "ledger_now",
    "lets",
    "look",
    "packed",
    "paid_step",
    "price_of",
    "question_of",
    "recall",
    "responding",
    "scaled",
    "signals_of",
    "spending",
    "steps_now",
    "vote",
    "wealth_against_bad",
    "wealth_against_good",
]
