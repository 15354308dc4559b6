# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A rival of every specialist whose calls have few, known answers: logistic regression on embeddings of the input.

It writes no text and trains in seconds. It is no plain code either: its embeddings come from a model (all-MiniLM-L6-v2, 23 M parameters).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..contract import Contract, compact_json
from ..engines import EMBEDDER
from ..routing import Embed, look
from .curate import Example
from .evaluate import Prediction

EMBEDDING_CLASSIFIER = "embedding_classifier"
"""The contestant's name."""

_STRENGTH = 10.0
"""scikit-learn's C, the same for all slots: vectors of length 1 need a weak regularisation."""


async def classified(
    embed: Embed, contract: Contract, train: Sequence[Example], test: Sequence[Example]
) -> list[Prediction]:
    """Return for each call the likeliest of its options, by examples of the train part; nothing where answers are not few and known.

    What `OneOf` names is not looked at: it says what may be answered, and an answer that no example has is never given before one that some has.

    Args:
        embed: gives embeddings.
        contract: the slot's.
        train: examples to learn from.
        test: held-out examples.

    Raises:
        EngineError, IntegrityError, MissingExtraError: no embeddings can be had.
    """
    answers = [compact_json(example.output) for example in train]
    if contract.options(contract.load(test[0].input)) is None or len(set(answers)) < 2:
        return []

    async def seen(examples: Sequence[Example]) -> list[list[float]]:
        return await embed([look(contract, contract.asked(e.input)) for e in examples])

    learnt, asked = await seen(train), await seen(test)
    chances = await asyncio.to_thread(_chances, learnt, answers, asked)
    found: list[Prediction] = []
    for example, chance in zip(test, chances, strict=True):
        options = contract.options(contract.load(example.input)) or []
        answer = max(options, key=lambda option: chance.get(compact_json(option), 0.0))
        given = Prediction(
            EMBEDDING_CLASSIFIER, example.key, example.input, answer, True, example.output, EMBEDDER, None, None, None
        )
        found.append(given)
    return found


def _chances(
    learnt: Sequence[Sequence[float]], answers: Sequence[str], asked: Sequence[Sequence[float]]
) -> list[dict[str, float]]:
    """How likely each answer is, for each of the vectors that are asked for."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Threads of so small products wait for each other: two on a busy machine took 28 times as long.
    with threadpool_limits(1):
        fitted = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(learnt, answers)
        chances = fitted.predict_proba(asked)
    names = [str(name) for name in fitted.classes_]
    return [dict(zip(names, map(float, row), strict=True)) for row in chances]
