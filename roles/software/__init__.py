"""A software company: from a requirement to a tested program in a git repository, by MetaGPT's fixed procedure."""

from .company import company
from .messages import Delivery, Requirement

__all__ = ["Delivery", "Requirement", "company"]
