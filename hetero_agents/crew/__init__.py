"""Roles that cooperate: a typed blackboard on which parameter types subscribe and return types publish."""

from .crew import Crew
from .human import terminal
from .message import Memory, Message, RoleFailed, To
from .run import CrewRun

__all__ = ["Crew", "CrewRun", "Memory", "Message", "RoleFailed", "To", "terminal"]
