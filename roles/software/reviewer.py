"""Reviewer: lets a file in, or says what has to be changed."""

from __future__ import annotations

from hetero_agents import slot

from .messages import Draft, Patch, Rejected, Review, Task

REWRITES = 2
"""After so many a file goes in, and what is still said against it is said in the delivery."""


@slot
async def review(task: Task, text: str) -> Review:
    """Review the file: does it do all that its task says, is it correct, also at the edges, does it use the other files as they are?"""
    ...


@review.compare
def same_verdict(found: Review, truth: Review) -> bool:
    """Comments can be worded in many ways."""
    return found.verdict == truth.verdict


async def reviewer(draft: Draft) -> Patch | Rejected:
    """Review a draft; no more than `REWRITES` rewrites are asked for."""
    said = await review(draft.task, draft.text)
    if said.verdict == "LBTM" and draft.rewrites < REWRITES:
        return Rejected(draft=draft, comments=said.comments)
    return Patch(file=draft.task.file, text=draft.text, open=said.comments if said.verdict == "LBTM" else [])
