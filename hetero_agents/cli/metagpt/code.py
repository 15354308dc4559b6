"""Python source from its parts."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

from .project import Value

WIDTH = 120
"""Columns of a line of code."""


def one_line(call: Sequence[str]) -> str:
    """Return a call on one line: what is called, then its arguments."""
    return f"{call[0]}({', '.join(call[1:])})"


def imports(body: str) -> str:
    """Return the imports that a body needs."""
    read = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}

    def used(*names: str) -> list[str]:
        return [name for name in names if name in read]

    typing, pydantic = used("Any", "Literal"), used("BaseModel", "Field")
    ours = used("Budget", "Crew", "Memory", "To", "code_agent", "slot")
    groups = [f"from typing import {', '.join(typing)}\n"] if typing else []
    groups += [f"from pydantic import {', '.join(pydantic)}\n", f"from hetero_agents import {', '.join(ours)}"]
    return "\n".join(groups)


def inside(text: str) -> str:
    """Return a text as it stands between three quotes."""
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text.replace("\r\n", "\n"))
    return re.sub(r'"(?="|\Z)', r"\"", text.replace("\\", "\\\\"))


def quoted(text: str) -> str:
    """Return a text as a string literal."""
    text = text.encode("utf-8", "replace").decode()
    return repr(text) if '"' in text and "'" not in text else json.dumps(text, ensure_ascii=False)


def literal(plain: Value) -> str:
    """Return a value as Python writes it."""
    return quoted(plain) if isinstance(plain, str) else repr(plain)
