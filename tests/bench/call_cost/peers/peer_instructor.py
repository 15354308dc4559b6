# pyright: basic, reportMissingImports=false
"""Instructor over the OpenAI client."""

import instructor
from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from openai import AsyncOpenAI
from pydantic import BaseModel


class Intent(BaseModel):
    label: str


client = instructor.from_openai(AsyncOpenAI(base_url=BASE_URL, api_key="x"))


async def intent() -> str:
    answer = await client.chat.completions.create(
        model="m",
        response_model=Intent,
        messages=[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": MESSAGE}],
    )
    return answer.label


measure("instructor", "instructor", intent)
