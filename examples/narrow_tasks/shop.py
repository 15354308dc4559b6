"""Two narrow tasks of a shop's back office."""

from hetero_agents import slot


@slot
async def same_product(first: str, second: str) -> bool:
    """Say whether both titles are of the same product."""
    ...


@slot
async def paid(email: str, question: str) -> str:
    """Answer the question from the email with the sum as it stands there; write unknown where the email does not say it."""
    ...
