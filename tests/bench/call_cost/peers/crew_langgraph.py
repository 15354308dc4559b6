# pyright: basic, reportMissingImports=false
"""A LangGraph graph as its guide to workflows draws orchestrator and workers: `Send` for each task, a reducer for what comes back."""

import operator
from typing import Annotated, Literal, TypedDict

from crew_pattern import DELIVER, DRAFT, PLAN, REVIEW, TASKS, requirement, task
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from measure import BASE_URL, measure
from pydantic import BaseModel


class Text(BaseModel):
    label: str


class State(TypedDict):
    requirement: str
    plan: str
    reviews: Annotated[list[str], operator.add]
    delivery: str


class Work(TypedDict):
    text: str


model = ChatOpenAI(model="m", base_url=BASE_URL, api_key="x").with_structured_output(Text, method="function_calling")


async def ask(instruction: str, text: str) -> str:
    return (await model.ainvoke([("system", instruction), ("user", text)])).label


async def planner(state: State) -> dict[str, str]:
    return {"plan": await ask(PLAN, state["requirement"])}


def assign(state: State) -> list[Send]:
    return [Send("writer", {"text": task(number, state["plan"])}) for number in range(TASKS)]


async def writer(work: Work) -> Command[Literal["reviewer"]]:
    return Command(goto=Send("reviewer", {"text": await ask(DRAFT, work["text"])}))


async def reviewer(work: Work) -> dict[str, list[str]]:
    return {"reviews": [await ask(REVIEW, work["text"])]}


async def lead(state: State) -> dict[str, str]:
    return {"delivery": await ask(DELIVER, "\n".join(state["reviews"]))}


graph = StateGraph(State)
for node in (planner, writer, reviewer, lead):
    graph.add_node(node.__name__, node)
graph.add_edge(START, "planner")
graph.add_conditional_edges("planner", assign, ["writer"])
graph.add_edge("reviewer", "lead")
graph.add_edge("lead", END)
app = graph.compile()


async def run() -> str:
    return (await app.ainvoke({"requirement": requirement()}))["delivery"]


measure("crew_langgraph", "langgraph", run)
