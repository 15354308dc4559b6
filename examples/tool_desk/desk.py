"""A desk that takes a request and the tools on offer, in both agencies of the paper's Fig. 1."""

from typing import Annotated, Any

from pydantic import BaseModel
from pydantic_ai import Agent

from hetero_agents import Fits, OneOf, Slots, code_agent, slot


class ToolCall(BaseModel):
    """What the desk decided to call."""

    tool: str
    arguments: dict[str, Any]


@slot
async def choose(request: str, tools: list[str]) -> Annotated[str, OneOf("tools")]:
    """Choose the tool that serves the request."""
    ...


@slot
async def fill(request: str, parameters: dict[str, Any]) -> Annotated[dict[str, Any], Fits("parameters")]:
    """Write the arguments of the tool call that serves the request."""
    ...


@code_agent
async def desk(request: str, tools: dict[str, dict[str, Any]]) -> ToolCall:
    """Code agency: Python decides. `tools` maps names to the JSON Schemas of their parameters."""
    name = await choose(request, list(tools))
    return ToolCall(tool=name, arguments=await fill(request, tools[name]))


desk_root = Agent(
    "slot:desk_root",
    name="desk_root",
    output_type=ToolCall,
    capabilities=[Slots(choose, fill)],
    instructions="Choose a tool with `choose`, write its arguments with `fill`, then give the call.",
)
"""Language-model agency: a model decides, the same slots are its tools."""
