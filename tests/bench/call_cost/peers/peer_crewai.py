# pyright: basic, reportMissingImports=false
"""A CrewAI crew of one agent with one typed task. It is called synchronously, as its documentation does."""

import os

# CrewAI reports over OpenTelemetry, so both are switched off before the import.
os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}

from crewai import LLM, Agent, Crew, Task
from measure import BASE_URL, INSTRUCTION, MESSAGE, measure_sync
from pydantic import BaseModel


class Intent(BaseModel):
    label: str


clerk = Agent(
    role="Clerk",
    goal=INSTRUCTION,
    backstory="Careful.",
    llm=LLM(model="openai/m", base_url=BASE_URL, api_key="x"),
    verbose=False,
)
task = Task(description=f"{INSTRUCTION} {{message}}", expected_output="an intent", agent=clerk, output_pydantic=Intent)
crew = Crew(agents=[clerk], tasks=[task], verbose=False)


def intent() -> str:
    return crew.kickoff(inputs={"message": MESSAGE}).pydantic.label


measure_sync("crewai", "crewai", intent)
