"""When two JSON values are the same answer."""

from __future__ import annotations

import math
from typing import Any, cast


def agrees(a: Any, b: Any, *, tolerance: float = 0.0, unordered: bool = False) -> bool:
    """Return whether two JSON values are equal: keys in any order, numbers by value.

    Args:
        a: one value.
        b: the other.
        tolerance: by how much numbers may differ, as a share and absolutely.
        unordered: lists are equal in any order.
    """

    def same(x: Any, y: Any) -> bool:
        return agrees(x, y, tolerance=tolerance, unordered=unordered)

    if isinstance(a, dict) and isinstance(b, dict):
        one, other = cast(dict[str, Any], a), cast(dict[str, Any], b)
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(a, list) and isinstance(b, list):
        items, left = cast(list[Any], a), list(cast(list[Any], b))
        if len(items) != len(left):
            return False
        if not unordered:
            return all(map(same, items, left))
        for item in items:
            place = next((place for place, other in enumerate(left) if same(item, other)), None)
            if place is None:
                return False
            del left[place]
        return True
    if _is_number(a) and _is_number(b):
        first, second = cast(float, a), cast(float, b)
        near = tolerance and math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)
        return first == second or bool(near)
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
