# pyright: basic, reportMissingImports=false
"""`pydantic_ai.direct`, instrumented: one request without an agent loop."""

from measure import BASE_URL, INSTRUCTION, MESSAGE, measure
from pydantic import BaseModel
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition
from spans import provider, settings


class Intent(BaseModel):
    label: str


model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=BASE_URL, api_key="x"))
tool = ToolDefinition(name="final_result", parameters_json_schema=Intent.model_json_schema(), kind="output")
parameters = ModelRequestParameters(output_mode="tool", allow_text_output=False, output_tools=[tool])


async def intent() -> str:
    response = await model_request(
        model,
        [ModelRequest.user_text_prompt(MESSAGE, instructions=INSTRUCTION)],
        model_request_parameters=parameters,
        instrument=settings,
    )
    return Intent.model_validate(response.tool_calls[0].args_as_dict()).label


measure("pydantic_ai_direct", "pydantic-ai-slim", intent, provider.force_flush)
