"""Project manager: says in which order the files are written, and what each needs."""

from __future__ import annotations

from hetero_agents import ModelRetry, slot

from .messages import PRD, Blueprint, Design, Request, Tasks


@slot
async def write_tasks(design: Design) -> Tasks:
    """Break the design down into tasks: one step for each of its files, in the order in which they are to be written."""
    ...


@write_tasks.check
def each_file_once(tasks: Tasks, design: Design) -> None:
    """Hold the steps against the design."""
    named = [step.file for step in tasks.steps]
    if sorted(named) != sorted(set(design.files)):
        raise ModelRetry(f"The design has the files {sorted(set(design.files))}: give one step for each of them.")


async def project_manager(design: Design, prd: PRD, request: Request) -> Blueprint:
    """Plan the work."""
    return Blueprint(requirement=request.text, prd=prd, design=design, tasks=await write_tasks(design))
