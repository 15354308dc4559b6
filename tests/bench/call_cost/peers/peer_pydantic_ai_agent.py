# pyright: basic, reportMissingImports=false
"""A pydantic-ai `Agent` with an output type, instrumented."""

from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from spans import provider, settings


class Intent(BaseModel):
    label: str


Agent.instrument_all(settings)
agent = Agent(
    OpenAIChatModel("m", provider=OpenAIProvider(base_url=BASE_URL, api_key="x")),
    output_type=Intent,
    instructions=INSTRUCTION,
)


async def intent() -> str:
    return (await agent.run(MESSAGE)).output.label


measure("pydantic_ai_agent", "pydantic-ai-slim", intent, provider.force_flush)
