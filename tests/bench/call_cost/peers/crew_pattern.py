# pyright: basic, reportMissingImports=false
"""What each crew does: a requirement, a plan, four drafts, a review of each, one delivery. Ten steps, each one model call."""

from itertools import count

TASKS = 4
PLAN = "Plan the work."
DRAFT = "Write the draft."
REVIEW = "Review the draft."
DELIVER = "Write the delivery."

_numbers = count(1)


def requirement() -> str:
    """Return a requirement that no run had before."""
    return f"Order {next(_numbers)} came broken, and the customer asks for a refund."


def task(number: int, plan: str) -> str:
    """Return what the plan asks of a writer."""
    return f"Part {number} of {plan}"
