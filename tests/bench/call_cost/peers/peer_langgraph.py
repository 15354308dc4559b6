# pyright: basic, reportMissingImports=false
"""A LangGraph graph of one node that asks a LangChain model with structured output."""

from typing import TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from pydantic import BaseModel


class Intent(BaseModel):
    label: str


class State(TypedDict):
    message: str
    intent: Intent


model = ChatOpenAI(model="m", base_url=BASE_URL, api_key="x").with_structured_output(Intent, method="function_calling")


async def classify(state: State) -> dict[str, Intent]:
    return {"intent": await model.ainvoke([("system", INSTRUCTION), ("user", state["message"])])}


graph = StateGraph(State)
graph.add_node("classify", classify)
graph.add_edge(START, "classify")
graph.add_edge("classify", END)
app = graph.compile()


async def intent() -> str:
    return (await app.ainvoke({"message": MESSAGE}))["intent"].label


measure("langgraph", "langgraph", intent)
