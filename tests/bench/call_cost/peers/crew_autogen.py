# pyright: basic, reportMissingImports=false
"""An AutoGen AgentChat team: assistants with an output type in a `GraphFlow`, whose guide has the parallel flow with a join."""

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import StructuredMessage
from autogen_agentchat.teams import DiGraphBuilder, GraphFlow
from autogen_ext.models.openai import OpenAIChatCompletionClient
from crew_pattern import DELIVER, DRAFT, PLAN, REVIEW, TASKS, requirement, task
from measure import BASE_URL, measure
from pydantic import BaseModel


class Text(BaseModel):
    label: str


client = OpenAIChatCompletionClient(
    model="m",
    base_url=BASE_URL,
    api_key="x",
    model_info={
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "structured_output": True,
        "family": "unknown",
    },
)


def assistant(name: str, instruction: str) -> AssistantAgent:
    return AssistantAgent(name, model_client=client, system_message=instruction, output_content_type=Text)


planner, lead = assistant("planner", PLAN), assistant("lead", DELIVER)
writers = [assistant(f"writer_{number}", f"{DRAFT} {task(number, 'the plan')}") for number in range(TASKS)]
reviewers = [assistant(f"reviewer_{number}", REVIEW) for number in range(TASKS)]
builder = DiGraphBuilder()
for each in (planner, *writers, *reviewers, lead):
    builder.add_node(each)
for writer, reviewer in zip(writers, reviewers, strict=True):
    builder.add_edge(planner, writer).add_edge(writer, reviewer).add_edge(reviewer, lead)
team = GraphFlow(
    participants=builder.get_participants(), graph=builder.build(), custom_message_types=[StructuredMessage[Text]]
)


async def run() -> str:
    result = await team.run(task=requirement())
    await team.reset()
    texts = [message.content.label for message in result.messages if isinstance(message, StructuredMessage)]
    if len(texts) != 2 * TASKS + 2:
        raise SystemExit(f"the team said {len(texts)} texts")
    return texts[-1]


measure("crew_autogen", "autogen-agentchat", run)
