"""Architect: says of which files the program consists, and how they work together."""

from __future__ import annotations

from hetero_agents import slot

from .messages import PRD, Design, Request


@slot
async def write_design(prd: PRD, files: list[str]) -> Design:
    """Design the program: the simplest that meets the requirements, in Python, of the standard library where it suffices.

    `files` are there already. Name those that change and those that are new, with their paths from the project's root.
    """
    ...


async def architect(prd: PRD, request: Request) -> Design:
    """Write the design."""
    return await write_design(prd, request.files)
