"""`hetero demo`: the whole loop on this machine, from `examples/tool_desk`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .common import Json


def demo(
    llm: Annotated[
        str | None, typer.Option(help="A real LLM (any pydantic-ai model id) in place of the answer key.")
    ] = None,
    train_on_outputs: Annotated[bool, typer.Option(help="The LLM's terms allow training on its outputs.")] = False,
    fresh: Annotated[bool, typer.Option(help="Begin again; by default what is there is used again.")] = False,
    as_json: Json = False,
) -> None:
    """Run a desk on an LLM, distil its slots, promote them, run it again, and compare."""
    # The examples are not part of the package: they lie beside it in a clone, or in the working directory.
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / "examples" / "tool_desk" / "demo.py").is_file():
            break
    else:
        raise UserError("The demo is in the repository, not in the package: clone it and type `make demo` there.")
    sys.path.insert(0, str(root))
    module = importlib.import_module("examples.tool_desk.demo")
    module.main(llm=llm, train_on_outputs=train_on_outputs, fresh=fresh, as_json=as_json)
