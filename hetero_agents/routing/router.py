"""Whether a specialist is asked at all: one look at a call's input, before anything is generated.

A router is part of what was certified: the answers that a specialist gives alone are those to calls for which the router lets it be asked.
So where no embedding can be had the specialist is not asked either, and the call goes down its chain: of what it would keep
then nothing was shown. Routers are fitted by `hetero distill` and are plain numbers here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..bindings import Router
from ..contract import Contract, compact_json
from ..engines import EMBEDDER
from .confidence import logistic

Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]
"""Gives a vector for each text."""


def look(contract: Contract, values: Mapping[str, Any]) -> str:
    """Return what is looked at of a call: its values, in the parameters' order, without history and images.

    Args:
        contract: the slot's contract.
        values: the arguments as JSON values, as `contract.dump` gives them and spans hold them.
    """
    shown = (name for name, parameter in contract.parameters.items() if parameter.kind == "value" and name in values)
    texts = (values[name] for name in shown)
    return "\n".join(text if isinstance(text, str) else compact_json(text) for text in texts)


def choice_text(contract: Contract, arguments: Mapping[str, Any]) -> str | None:
    """Return what a matcher is sent of a call (`engines.matcher.Choice`); None where the slot does not choose.

    Args:
        contract: the slot's contract.
        arguments: the call's arguments.
    """
    texts = contract.option_texts(arguments) if contract.chooses else None
    if texts is None:
        return None
    values = contract.dump(arguments)
    offered: Any = values.get(contract.constraint.parameter) if contract.constraint else None
    described = cast(dict[str, str], offered) if isinstance(offered, dict) else {}
    said = {json.dumps(option, ensure_ascii=False): description for option, description in described.items()}
    answers = {text: said.get(text, "") for text in texts}
    return compact_json({"asked": look(contract, contract.asked(values)), "answers": answers})


def chance(router: Router, vector: Sequence[float]) -> float:
    """Return how likely a specialist is right on an input, by the input's embedding alone."""
    return logistic(router.bias + sum(weight * number for weight, number in zip(router.weights, vector, strict=True)))


def lets(router: Router, vector: Sequence[float]) -> bool:
    """Return whether a router lets its specialist be asked for an input, by the input's embedding."""
    return chance(router, vector) >= router.level


@dataclass(frozen=True)
class Past:
    """A call for which a specialist is not asked."""

    why: str
    looked: bool
    """Its router says so; else the router could not look, and nothing is known of the call."""


async def past(router: Router, embed: Embed, contract: Contract, arguments: Mapping[str, Any]) -> Past | None:
    """Return why a specialist is not asked for a call; None where it is.

    Args:
        router: the specialist's.
        embed: gives embeddings.
        contract: the slot's contract.
        arguments: bound arguments of the call.

    Raises:
        EngineError, MissingExtraError: no embedding can be had.
    """
    if router.embedder != EMBEDDER:
        return Past(f"its router looks with {router.embedder}, which is not the {EMBEDDER} that is here", looked=False)
    (vector,) = await embed([look(contract, contract.dump(arguments))])
    if lets(router, vector):
        return None
    right = chance(router, vector)
    why = f"not asked, since by its router it is right with {right:.3f}, and asking pays from {router.level:.3f}"
    return Past(why, looked=True)
