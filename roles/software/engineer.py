"""Engineer: plans changes, writes files, rewrites what the reviewer rejects, mends what tests find."""

from __future__ import annotations

import ast
from pathlib import Path

from hetero_agents import ModelRetry, slot

from .messages import (
    Blueprint,
    Bug,
    Change,
    Design,
    Draft,
    Existing,
    Patch,
    Rejected,
    Source,
    Summary,
    Task,
    Written,
)


@slot
async def plan_change(blueprint: Blueprint, files: list[Source]) -> Change:
    """Say what has to change in these files, and which new ones are needed, so that the requirement is met; leave all else as it is."""
    ...


@slot(instructions=Path(__file__).with_name("write_code.md").read_text("utf-8"))
async def write_code(task: Task, design: Design) -> str:
    """Write one file; what the model is told stands in `write_code.md`."""
    ...


@slot
async def rewrite(task: Task, text: str, comments: list[str]) -> str:
    """Write the file anew, whole, so that every comment of the review is met; change nothing else. Answer with the file's text alone."""
    ...


@slot
async def summarise(requirement: str, files: list[Source]) -> Summary:
    """Say what the program does as it is, and what is still to be done in which file so that it meets the requirement."""
    ...


@slot
async def is_pass(summary: Summary) -> bool:
    """Say whether the program can be tested as it is: nothing that is to be done keeps it from working."""
    ...


@slot
async def debug(source: Source, test: Source, output: str) -> str:
    """Mend the file so that the test passes, without what would please this test alone. Answer with the file's whole text."""
    ...


def parses(text: str, file: str) -> None:
    """Refuse a Python file that is none.

    Raises:
        ModelRetry: with the line.
    """
    try:
        ast.parse(text if file.endswith(".py") else "")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelRetry(
            f"{file} is no Python: {error}. Answer with the file's text alone, without a fence."
        ) from error


write_code.check(lambda text, task, design: parses(text, task.file))
rewrite.check(lambda written, task, text, comments: parses(written, task.file))
debug.check(lambda text, source, test, output: parses(text, source.file))


async def engineer(work: Existing | Written | Task | Rejected | Bug, blueprint: Blueprint) -> Change | Draft | Patch:
    """Do what the message asks for."""
    match work:
        case Existing():
            return await plan_change(blueprint, work.files)
        case Written():
            summary = await summarise(blueprint.requirement, work.files)
            return Change(steps=[] if await is_pass(summary) else summary.todos)
        case Task():
            return Draft(task=work, text=await write_code(work, blueprint.design))
        case Rejected(draft=draft):
            text = await rewrite(draft.task, draft.text, work.comments)
            return Draft(task=draft.task, text=text, rewrites=draft.rewrites + 1)
        case Bug(source=source):
            return Patch(file=source.file, text=await debug(source, work.test, work.output))
