# pyright: basic, reportMissingImports=false
"""Agents of AutoGen Core that subscribe to topics and publish, as its guide to concurrent agents has it: the layer below AgentChat."""

from dataclasses import dataclass

from autogen_core import (
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    message_handler,
    type_subscription,
)
from autogen_core.models import SystemMessage, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from crew_pattern import DELIVER, DRAFT, PLAN, REVIEW, TASKS, requirement, task
from measure import BASE_URL, measure
from pydantic import BaseModel


class Text(BaseModel):
    label: str


@dataclass
class Said:
    text: str


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
delivered: list[str] = []


async def ask(instruction: str, text: str) -> str:
    result = await client.create(
        [SystemMessage(content=instruction), UserMessage(content=text, source="user")], json_output=Text
    )
    return Text.model_validate_json(result.content).label


@type_subscription("requirement")
class Planner(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("planner")

    @message_handler
    async def plan(self, message: Said, ctx: MessageContext) -> None:
        plan = await ask(PLAN, message.text)
        for number in range(TASKS):
            await self.publish_message(Said(task(number, plan)), TopicId("task", "default"))


@type_subscription("task")
class Writer(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("writer")

    @message_handler
    async def write(self, message: Said, ctx: MessageContext) -> None:
        await self.publish_message(Said(await ask(DRAFT, message.text)), TopicId("draft", "default"))


@type_subscription("draft")
class Reviewer(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("reviewer")

    @message_handler
    async def review(self, message: Said, ctx: MessageContext) -> None:
        await self.publish_message(Said(await ask(REVIEW, message.text)), TopicId("review", "default"))


@type_subscription("review")
class Lead(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("lead")
        self.reviews: list[str] = []

    @message_handler
    async def deliver(self, message: Said, ctx: MessageContext) -> None:
        self.reviews.append(message.text)
        if len(self.reviews) == TASKS:
            delivered.append(await ask(DELIVER, "\n".join(self.reviews)))
            self.reviews.clear()


runtime = SingleThreadedAgentRuntime()
registered: list[str] = []


async def run() -> str:
    if not registered:
        for agent in (Planner, Writer, Reviewer, Lead):
            await agent.register(runtime, agent.__name__, agent)
            registered.append(agent.__name__)
    runtime.start()
    await runtime.publish_message(Said(requirement()), TopicId("requirement", "default"))
    await runtime.stop_when_idle()
    return delivered.pop()


measure("crew_autogen_core", "autogen-core", run)
