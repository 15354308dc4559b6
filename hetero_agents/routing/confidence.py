"""How sure a specialist is of an answer: what its engine says of the tokens at no extra call, and what a calibrator makes of it."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from pydantic_ai.messages import ModelResponse

from ..bindings import Calibrator

Signals = dict[str, float]
"""Of one answer, by name.

- `product`: sum of the tokens' log-probabilities, from before the grammar: what was forced on the model counts, as a sign that
  the call is none that it knows.
- `text`: the same without tokens that write nothing. A grammar that ends an answer with another token than the model would makes the
  product some twenty lower, by chance more or less.
- `least`: the log-probability of the least sure token that writes something.
- `margin`: that of the same token against its best rival alone; absent where the engine gives no rivals.
- `weakest_field`: of an answer that is an object, the sum over that of its top-level fields for which it is least, key and value.
- `choice`: the sum over the tokens that decide between the answers that a call can have (OneOf, enums, bool), each against those
  that the grammar allowed there; absent where a call's answers are not few and known.
- `agreement`: share of samples that gave the same answer, where there are some; the least of its fields' shares where each was voted on apart.
- `likeness`: of an answer that the cache gives by meaning, that of the two questions, at most 1.
"""


_NEVER = -700.0
"""Log-probability of what is less likely than a float can say."""


def signals_of(response: ModelResponse, options: Sequence[str] | None = None) -> Signals | None:
    """Return what an engine says of its answer; None where it gives no log-probabilities.

    Args:
        response: with `logprobs`, and for `choice` and `margin` their `top_logprobs`, in its `provider_details`.
        options: the texts that the answer could have had, where they are few and known.
    """
    tokens: list[dict[str, Any]] = (response.provider_details or {}).get("logprobs") or []
    if not tokens or any(token["logprob"] is None for token in tokens):
        return None
    found: Signals = {"product": sum(min(0.0, token["logprob"]) for token in tokens)}
    tokens = [token for token in tokens if token["token"] or token.get("bytes")]
    each = [min(0.0, token["logprob"]) for token in tokens]
    if not tokens:
        return found
    found |= {"text": sum(each), "least": min(each)}
    unsure = tokens[each.index(min(each))]
    rivals = [other["logprob"] for other in unsure.get("top_logprobs") or () if other["token"] != unsure["token"]]
    if rivals:
        found["margin"] = math.log(logistic(max(_NEVER, min(each) - max(rivals))))
    elif options is not None and len(options) == 1:
        found["margin"] = 0.0  # nothing could rival it
    if fields := [sum(each[start:end]) for start, end in _fields(tokens)]:
        found["weakest_field"] = min(fields)
    if options is not None and all(token.get("top_logprobs") for token in tokens):
        found["choice"] = _choice(tokens, options)
    return found


def _fields(tokens: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """The tokens, from one to before another, that each top-level field of an answer touches, of an empty one all; none of what is no JSON object."""
    # Bytes, where the engine gives them: a letter may be divided between two tokens.
    pieces = [bytes(token.get("bytes") or token["token"].encode()) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    spans: list[tuple[int, int]] = []
    try:
        text = b"".join(pieces).decode()
        value, at = json.JSONDecoder().raw_decode, _after(r"\s*\{\s*", text, 0)
        if at and text[at : at + 1] == "}":
            return [(0, len(tokens))]
        while at and text[at : at + 1] == '"':
            _, key_end = value(text, at)
            _, end = value(text, _after(r"\s*:\s*", text, key_end))
            first, last = (len(text[:place].encode()) for place in (at, end - 1))
            spans.append((bisect_right(ends, first), bisect_right(ends, last) + 1))
            at = _after(r"\s*,?\s*", text, end)
    except ValueError:
        return []
    return spans


def _after(pattern: str, text: str, start: int) -> int:
    """Where what matches ends; the start where nothing does."""
    found = re.compile(pattern).match(text, start)
    return found.end() if found else start


def _choice(tokens: Sequence[Mapping[str, Any]], options: Sequence[str]) -> float:
    if len(tokens) == 1 and {other["token"] for other in tokens[0]["top_logprobs"]} == set(options):
        return min(0.0, tokens[0]["logprob"])  # a matcher's: whole answers, of which one may begin like another
    total, before, left = 0.0, "", list(options)
    for token in tokens:
        after = [option for option in left if option.startswith(before + token["token"])]
        if not after or len(left) == 1:  # the end, or no choice any more
            break
        # Of the tokens that the grammar allowed, those that lead to no other answers count for this one.
        mine = other = 0.0
        for each in {t["token"]: t for t in (*token["top_logprobs"], token)}.values():
            leads_to = [option for option in left if option.startswith(before + each["token"])] if each["token"] else []
            if leads_to and (set(leads_to) <= set(after) or set(after) <= set(leads_to)):
                mine += math.exp(each["logprob"])
            elif leads_to:
                other += math.exp(each["logprob"])
        total += math.log(mine / (mine + other)) if mine else _NEVER
        before, left = before + token["token"], after
    return total


def product_of(signals: Signals | None) -> float | None:
    """Return the product of the probabilities of an answer's tokens that write something, 0 to 1, not calibrated; None where it is not known."""
    return math.exp(signals["text"]) if signals and "text" in signals else None


def scaled(name: str, signal: float) -> float:
    """Return a signal as calibrators weigh it: log-probabilities so that those far below do not count without end."""
    return signal if name in ("agreement", "likeness") else -math.log1p(-signal)


def calibrated(calibrator: Calibrator, signals: Signals | None) -> float | None:
    """Return the probability that an answer is right; None where a signal that the calibrator needs is missing."""
    if signals is None or not calibrator.weights.keys() <= signals.keys():
        return None
    return logistic(
        calibrator.bias + sum(weight * scaled(name, signals[name]) for name, weight in calibrator.weights.items())
    )


def logistic(z: float) -> float:
    """Return the probability whose log-odds are `z`."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
