# pyright: basic, reportMissingImports=false
"""The bare OpenAI client with `response_format`, validated by pydantic, and `asyncio.gather`: what crews are compared with."""

import asyncio

from crew_pattern import DELIVER, DRAFT, PLAN, REVIEW, TASKS, requirement, task
from measure import BASE_URL, measure
from openai import AsyncOpenAI
from pydantic import BaseModel


class Text(BaseModel):
    label: str


client = AsyncOpenAI(base_url=BASE_URL, api_key="x")
schema = {**Text.model_json_schema(), "additionalProperties": False}


async def ask(instruction: str, text: str) -> str:
    completion = await client.chat.completions.create(
        model="m",
        messages=[{"role": "system", "content": instruction}, {"role": "user", "content": text}],
        response_format={"type": "json_schema", "json_schema": {"name": "Text", "schema": schema, "strict": True}},
    )
    return Text.model_validate_json(completion.choices[0].message.content or "").label


async def run() -> str:
    plan = await ask(PLAN, requirement())
    drafts = await asyncio.gather(*(ask(DRAFT, task(number, plan)) for number in range(TASKS)))
    reviews = await asyncio.gather(*(ask(REVIEW, draft) for draft in drafts))
    return await ask(DELIVER, "\n".join(reviews))


measure("crew_openai", "openai", run)
