# pyright: basic, reportMissingImports=false
"""A CrewAI crew of agents and ten typed tasks, which read each other through `context`.

The drafts are asynchronous, as its documentation has it for tasks that do not wait for each other, and each has an agent,
because an agent does one task at a time. The reviews are not: an asynchronous task may not have another one just before it
in its context. `kickoff` blocks, as its documentation calls it.
"""

import os

# CrewAI reports over OpenTelemetry, so both are switched off before the import.
os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}

from crew_pattern import DELIVER, DRAFT, PLAN, REVIEW, TASKS, requirement, task
from crewai import LLM, Agent, Crew, Task
from measure import BASE_URL, measure_sync
from pydantic import BaseModel


class Text(BaseModel):
    label: str


llm = LLM(model="openai/m", base_url=BASE_URL, api_key="x")


def agent(role: str, goal: str) -> Agent:
    return Agent(role=role, goal=goal, backstory="Careful.", llm=llm, verbose=False)


planner, reviewer, lead = agent("Planner", PLAN), agent("Reviewer", REVIEW), agent("Lead", DELIVER)
writers = [agent(f"Writer {number}", DRAFT) for number in range(TASKS)]
plan = Task(description=f"{PLAN} {{text}}", expected_output="a plan", agent=planner, output_pydantic=Text)
drafts = [
    Task(
        description=f"{DRAFT} {task(number, 'the plan')}",
        expected_output="a draft",
        agent=writer,
        output_pydantic=Text,
        context=[plan],
        async_execution=True,
    )
    for number, writer in enumerate(writers)
]
reviews = [
    Task(description=REVIEW, expected_output="a review", agent=reviewer, output_pydantic=Text, context=[draft])
    for draft in drafts
]
delivery = Task(
    description=DELIVER, expected_output="a delivery", agent=lead, output_pydantic=Text, context=list(reviews)
)
crew = Crew(agents=[planner, *writers, reviewer, lead], tasks=[plan, *drafts, *reviews, delivery], verbose=False)


def run() -> str:
    return crew.kickoff(inputs={"text": requirement()}).pydantic.label


measure_sync("crew_crewai", "crewai", run)
