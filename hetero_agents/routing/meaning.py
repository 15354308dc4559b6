# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What of a question is compared by meaning, and which earlier question is nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..contract import Contract
from ..errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

LONGEST = 1000
"""Characters up to which a text is compared by meaning: of a longer one an embedding may not have read the end."""

REMEMBERED = 5000
"""Newest questions of one scope that are compared."""


@dataclass(frozen=True)
class Question:
    """The arguments of a call: what must be equal, and what must mean the same."""

    exact: dict[str, Any]
    texts: tuple[str, ...]


def question_of(contract: Contract, values: Mapping[str, Any]) -> Question | None:
    """Return what of a call's arguments is compared by meaning; None where nothing is, or a text is longer than `LONGEST`.

    Args:
        contract: the slot's.
        values: the arguments, as `Contract.dump` gives them.
    """
    texts = tuple(str(values[name]) for name in contract.free_texts)
    if not texts or max(map(len, texts)) > LONGEST:
        return None
    return Question({name: value for name, value in values.items() if name not in contract.free_texts}, texts)


def packed(vectors: Sequence[Sequence[float]]) -> bytes:
    """Return the vectors of one question's texts as bytes."""
    return _numpy().asarray(vectors, dtype="<f4").tobytes()


class Nearest:
    """The vectors of questions of one scope, by number, oldest first; the newest `REMEMBERED` of them."""

    def __init__(self, texts: int) -> None:
        """Begin with none.

        Args:
            texts: of each question.
        """
        self._texts = texts
        self._numbers: list[int] = []
        self._rows: list[Any] = []
        self._stacked: Vectors | None = None

    @property
    def newest(self) -> int:
        """The highest number, 0 where there is none."""
        return self._numbers[-1] if self._numbers else 0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int, vectors: bytes) -> None:
        """Remember a question; a number that is higher than all before."""
        self._numbers.append(number)
        self._rows.append(_numpy().frombuffer(vectors, dtype="<f4").reshape(self._texts, -1))
        del self._numbers[:-REMEMBERED], self._rows[:-REMEMBERED]
        self._stacked = None

    def nearest(self, vectors: Sequence[Sequence[float]]) -> tuple[float, int] | None:
        """Return the likeness and the number of the nearest question, the newest among equals; None where there is none.

        The likeness of two questions is the least cosine among their texts.

        Args:
            vectors: unit vectors of the question's texts.
        """
        if not self._numbers:
            return None
        np = _numpy()
        if self._stacked is None:
            self._stacked = np.stack(self._rows)
        likeness: Any = np.einsum("nkd,kd->nk", self._stacked, np.asarray(vectors, dtype=np.float32)).min(axis=1)
        place = len(likeness) - 1 - int(likeness[::-1].argmax())
        return min(1.0, float(likeness[place])), self._numbers[place]


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise MissingExtraError("A cache by meaning", "local") from error
    return np
