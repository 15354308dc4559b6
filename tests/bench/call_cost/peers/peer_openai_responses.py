# pyright: basic, reportMissingImports=false
"""The bare OpenAI client on the Responses API, which a model id `openai:...` stands for."""

from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from openai import AsyncOpenAI
from pydantic import BaseModel


class Intent(BaseModel):
    label: str


client = AsyncOpenAI(base_url=BASE_URL, api_key="x")
schema = {**Intent.model_json_schema(), "additionalProperties": False}


async def intent() -> str:
    response = await client.responses.create(
        model="m",
        instructions=INSTRUCTION,
        input=[{"role": "user", "content": MESSAGE}],
        text={"format": {"type": "json_schema", "name": "Intent", "schema": schema, "strict": True}},
    )
    return Intent.model_validate_json(response.output_text).label


measure("openai_responses", "openai", intent)
