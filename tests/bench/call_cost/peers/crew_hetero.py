# pyright: basic, reportMissingImports=false
"""A crew of hetero_agents whose roles each call a slot, with spans and vault on, in a workspace of its own.

A third argument says what is stored of the messages (`[privacy] content`): `raw`, the default here, or `redacted`, which
is what a workspace has that says nothing. `OTEL_SDK_DISABLED=true` in the environment leaves the spans out.
"""

import os
import sys
import tempfile
from pathlib import Path

from crew_pattern import TASKS, requirement, task
from measure import BASE_URL, measure
from pydantic import BaseModel

from hetero_agents import Crew, flush, slot

CONTENT = sys.argv[3] if len(sys.argv) > 3 else "raw"


class Text(BaseModel):
    label: str


class Requirement(BaseModel):
    text: str


class Task(BaseModel):
    text: str


class Draft(BaseModel):
    text: str


class Review(BaseModel):
    text: str


class Delivery(BaseModel):
    text: str


@slot
async def plan(text: str) -> Text:
    """Plan the work."""
    ...


@slot
async def draft(text: str) -> Text:
    """Write the draft."""
    ...


@slot
async def review(text: str) -> Text:
    """Review the draft."""
    ...


@slot
async def deliver(text: str) -> Text:
    """Write the delivery."""
    ...


crew = Crew("desk", gives=Delivery)


@crew.role
async def planner(requirement: Requirement) -> list[Task]:
    planned = await plan(requirement.text)
    return [Task(text=task(number, planned.label)) for number in range(TASKS)]


@crew.role
async def writer(task: Task) -> Draft:
    return Draft(text=(await draft(task.text)).label)


@crew.role
async def reviewer(draft: Draft) -> Review:
    return Review(text=(await review(draft.text)).label)


@crew.role
async def lead(reviews: list[Review]) -> Delivery:
    return Delivery(text=(await deliver("\n".join(review.text for review in reviews))).label)


async def run() -> str:
    return (await crew.run(Requirement(text=requirement()), until=Delivery)).output.text


with tempfile.TemporaryDirectory() as folder:
    Path(folder, "hetero.toml").write_text(
        f'[models]\nbig = "openai-chat:m"\n\n[tiers]\nllm = {{model = "big"}}\n\n[privacy]\ncontent = "{CONTENT}"\n'
    )
    os.chdir(folder)
    os.environ |= {"OPENAI_BASE_URL": BASE_URL, "OPENAI_API_KEY": "x"}
    try:
        measure("crew_hetero", "hetero_agents", run, flush)
    finally:
        os.chdir("/")
