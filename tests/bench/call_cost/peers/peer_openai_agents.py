# pyright: basic, reportMissingImports=false
"""An OpenAI Agents SDK agent with an output type, its tracing off."""

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from openai import AsyncOpenAI
from pydantic import BaseModel


class Intent(BaseModel):
    label: str


set_tracing_disabled(True)
model = OpenAIChatCompletionsModel("m", AsyncOpenAI(base_url=BASE_URL, api_key="x"))
agent = Agent(name="clerk", instructions=INSTRUCTION, output_type=Intent, model=model)


async def intent() -> str:
    return (await Runner.run(agent, MESSAGE)).final_output.label


measure("openai_agents", "openai-agents", intent)
