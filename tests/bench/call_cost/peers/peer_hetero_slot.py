# pyright: basic, reportMissingImports=false
"""A slot of hetero_agents with its spans and its vault on, in a workspace of its own.

A third argument names the prefix of the model id: `openai-chat` (chat completions, the default) or `openai` (the
Responses API).
"""

import os
import sys
import tempfile
from pathlib import Path

from measure import BASE_URL, measure
from pydantic import BaseModel

from hetero_agents import flush, slot

PREFIX = sys.argv[3] if len(sys.argv) > 3 else "openai-chat"


class Intent(BaseModel):
    label: str


@slot
async def intent(message: str) -> Intent:
    """Name the intent."""
    ...


async def call() -> str:
    return (await intent("refund A1")).label


with tempfile.TemporaryDirectory() as folder:
    Path(folder, "hetero.toml").write_text(
        f'[models]\nbig = "{PREFIX}:m"\n\n[tiers]\nllm = {{model = "big"}}\n\n[privacy]\ncontent = "raw"\n'
    )
    os.chdir(folder)
    os.environ |= {"OPENAI_BASE_URL": BASE_URL, "OPENAI_API_KEY": "x"}
    try:
        measure("hetero_slot" if PREFIX == "openai-chat" else "hetero_slot_responses", "hetero_agents", call, flush)
    finally:
        os.chdir("/")
