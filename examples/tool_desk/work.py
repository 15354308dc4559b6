"""The desk's work: `live_multiple` of the Berkeley Function-Calling Leaderboard, items 0 to 799.

Real users' requests with the tools on offer and the accepted calls (BFCL, Patil et al. 2025;
package bfcl-eval, Apache-2.0). The tools recur, the requests do not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jsonschema

from hetero_agents.contract import Sha256
from hetero_agents.engines.catalog import Progress, fetch

SOURCE = "pypi:bfcl-eval==2026.3.23"
QUESTIONS = (
    "data/BFCL_v4_live_multiple.json",
    Sha256("fd8ccfad4d911420d0e3341dbe2fff77d1d341da934248b9bb2bda24ab3a10c8"),
)
ANSWERS = (
    "possible_answer/BFCL_v4_live_multiple.json",
    Sha256("97e90d59c5bd76c55a2920ce93e5566e9046307d3f558578f085f9d3a56c3084"),
)
ITEMS = 800
"""The items after these are not used: they are left for checks that no training, threshold or figure here has seen."""

UNSEEN_SHARE = 0.14
"""Share of the tools whose items never reach the LLM, so that no specialist is trained on them."""


@dataclass(frozen=True)
class Item:
    """One request and what BFCL accepts as its call."""

    id: str
    request: str
    tools: dict[str, dict[str, Any]]
    """The tools on offer: name to JSON Schema of the parameters."""
    tool: str
    accepted: dict[str, list[Any]]
    """For each argument the accepted values; `""` among them lets it be left out."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The answer key's answer: of each argument the first accepted value that its schema allows, left out only where there is none.

        An optional argument that was not asked for has its default written out where BFCL accepts that.
        """
        properties: dict[str, Any] = self.tools[self.tool].get("properties", {})
        given: dict[str, Any] = {}
        for name, values in self.accepted.items():
            fitting = (_first([value]) for value in values if value != "")
            allowed = [v for v in fitting if "" not in values or _fits(v, properties.get(name))]
            if allowed:
                given[name] = allowed[0]
        return given

    @property
    def prompt(self) -> str:
        """The request and the tools as the root agent's prompt."""
        return f"request: {self.request}\ntools: {json.dumps(self.tools, ensure_ascii=False)}"

    @property
    def unseen(self) -> bool:
        """Whether the tool is one of those that are held out."""
        return hashlib.sha256(f"unseen {self.tool}".encode()).digest()[0] / 256 < UNSEEN_SHARE

    def accepts(self, arguments: Any) -> bool:
        """Return whether BFCL accepts these arguments: each among its values, letter case and punctuation aside."""
        if not isinstance(arguments, dict):
            return False
        return _accepts_object(cast(dict[str, Any], arguments), self.accepted)


def load_items(progress: Progress | None = None) -> list[Item]:
    """Return the items whose accepted call is one of the tools on offer, fetched once."""
    questions = fetch(SOURCE, *QUESTIONS, progress)
    answers = fetch(SOURCE, *ANSWERS, progress)
    accepted = {entry["id"]: entry["ground_truth"][0] for entry in _lines(answers)}
    items: list[Item] = []
    for entry in _lines(questions):
        if int(entry["id"].split("_")[2].split("-")[0]) >= ITEMS:
            continue
        ((tool, arguments),) = accepted[entry["id"]].items()
        request = "\n".join(message["content"].strip() for message in entry["question"][0])
        tools = {function["name"]: json_schema(function["parameters"]) for function in entry["function"]}
        items.append(Item(entry["id"], request, tools, tool, arguments))
    return items


def json_schema(node: dict[str, Any]) -> dict[str, Any]:
    """Return BFCL's parameter description as JSON Schema ("dict" is object, "float" is number)."""
    types = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "type":
            out[key] = types.get(value, value)
        elif key == "properties":
            out[key] = {name: json_schema(part) for name, part in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = json_schema(cast(dict[str, Any], value))
        elif key in ("required", "enum", "description", "default"):
            out[key] = value
    return out


def answer_lines(items: list[Item]) -> Iterator[dict[str, Any]]:
    """Give the answer key of these items, for the slots and for the root agent.

    The root's rule: with no tool result it calls `choose`; after the right choice it calls `fill`;
    after any result of `fill` it gives the call with those arguments. A wrong choice is a state that
    the key does not know: the workflow failed.
    """
    for item in items:
        names = list(item.tools)
        choose, fill = (
            {"request": item.request, "tools": names},
            {"request": item.request, "parameters": item.tools[item.tool]},
        )
        yield {"slot": "desk.choose", "input": choose, "output": item.tool}
        yield {"slot": "desk.fill", "input": fill, "output": item.arguments}
        step = {"slot": "desk_root", "prompt": item.prompt}
        yield {**step, "after": None, "call": {"tool": "choose", "arguments": choose}}
        yield {**step, "after": {"tool": "choose", "result": item.tool}, "call": {"tool": "fill", "arguments": fill}}
        yield {**step, "after": {"tool": "fill"}, "output": {"tool": item.tool, "arguments": "$result"}}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text("utf-8").splitlines():
        yield json.loads(line)


def _fits(value: Any, schema: Any) -> bool:
    return schema is not None and cast(Any, jsonschema.Draft202012Validator)(schema).is_valid(value)


def _first(values: Any) -> Any:
    """The first accepted value, with what may be left out left out inside it too."""
    if isinstance(values, dict):
        entries = cast(dict[str, Any], values)
        return {k: _first(v) for k, v in entries.items() if not (isinstance(v, list) and "" in v)}
    candidates = cast(list[Any], values) if isinstance(values, list) else []
    if not candidates:
        return cast(Any, values)
    value = candidates[0]
    if isinstance(value, dict):
        return _first(value)
    if isinstance(value, list):
        return [_first(part) if isinstance(part, dict) else part for part in cast(list[Any], value)]
    return value


def _accepts_object(arguments: dict[str, Any], accepted: dict[str, Any]) -> bool:
    if not arguments.keys() <= accepted.keys():
        return False
    return all(
        _accepts(arguments[name], values) if name in arguments else isinstance(values, list) and "" in values
        for name, values in accepted.items()
    )


def _accepts(value: Any, values: Any) -> bool:
    candidates = cast(list[Any], values) if isinstance(values, list) else [values]
    return any(_equal(value, candidate) for candidate in candidates)


def _equal(value: Any, candidate: Any) -> bool:
    if isinstance(candidate, dict):
        return isinstance(value, dict) and _accepts_object(cast(dict[str, Any], value), cast(dict[str, Any], candidate))
    if isinstance(candidate, list):
        if not isinstance(value, list):
            return False
        left, right = cast(list[Any], value), cast(list[Any], candidate)
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(candidate, str) and isinstance(value, str):
        return _plain(value) == _plain(candidate)
    if isinstance(candidate, bool) or isinstance(value, bool):
        return value is candidate
    return value == candidate


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^()]", "", text).lower().replace("'", '"')
