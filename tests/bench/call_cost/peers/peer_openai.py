# pyright: basic, reportMissingImports=false
"""The bare OpenAI client with `response_format`, validated by pydantic: what the others are compared with."""

from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from openai import AsyncOpenAI
from pydantic import BaseModel


class Intent(BaseModel):
    label: str


client = AsyncOpenAI(base_url=BASE_URL, api_key="x")
schema = {**Intent.model_json_schema(), "additionalProperties": False}


async def intent() -> str:
    completion = await client.chat.completions.create(
        model="m",
        messages=[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": MESSAGE}],
        response_format={"type": "json_schema", "json_schema": {"name": "Intent", "schema": schema, "strict": True}},
    )
    return Intent.model_validate_json(completion.choices[0].message.content or "").label


measure("openai", "openai", intent)
