# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Step S5 for a base that gives embeddings: a matcher is fitted to a slot whose calls have few, known answers.

It weighs two things against each other: how near an answer's words are to the call's, which holds for answers that nobody gave yet, and what a
linear classifiers learnt of those that were given. It trains in seconds, and stands as a rival beside every specialist that writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ..contract import Contract
from ..engines.matcher import Choice, Matcher, spoken
from ..routing import Embed, choice_text
from .curate import Example

MATCHER: Final = "matcher"
"""The contestant's name."""

HOW: Final[dict[str, Any]] = {"method": "matcher", "C": 10.0, "folds": 5, "l2": 0.01}
"""How it is fitted, the same for all slots, as the lock keeps it: `C` is scikit-learn's of the classifier, weak as vectors have length 1; on `folds` parts of
the calls, cut between near-duplicates, is found what its word is worth; `l2` holds the three weights."""


async def fit_matcher(embed: Embed, contract: Contract, train: Sequence[Example]) -> Matcher:
    """Return a matcher that is fitted to a slot.

    Args:
        embed: gives embeddings.
        contract: the slot's, which chooses (`Contract.chooses`).
        train: examples to learn from.

    Raises:
        EngineError, IntegrityError, MissingExtraError: no embeddings can be had.
    """
    choices = [_choice(contract, example) for example in train]
    words = [[spoken(answer, said) for answer, said in choice.answers.items()] for choice in choices]
    texts = list(dict.fromkeys([*(choice.asked for choice in choices), *(text for each in words for text in each)]))
    vectors = dict(zip(texts, await embed(texts), strict=True))
    # The answer that was given may stand no more among those that can be given: nothing is learnt from such a call.
    taught = [
        (vectors[choice.asked], dict(zip(choice.answers, map(vectors.__getitem__, said), strict=True)), answer, group)
        for choice, said, example in zip(choices, words, train, strict=True)
        for answer, group in [
            (contract.answer_text(example.output, contract.load(example.input)), example.cluster or example.key)
        ]
        if answer in choice.answers
    ]
    return await asyncio.to_thread(_fitted, taught)


def _choice(contract: Contract, example: Example) -> Choice:
    text = choice_text(contract, contract.load(example.input))
    assert text is not None, "the contract chooses"
    return Choice.model_validate_json(text)


def _fitted(taught: Sequence[tuple[Sequence[float], dict[str, list[float]], str, str]]) -> Matcher:
    import numpy as np
    from scipy.optimize import minimize
    from sklearn.model_selection import GroupKFold
    from threadpoolctl import threadpool_limits

    asked, answers, groups = [t[0] for t in taught], [t[2] for t in taught], [t[3] for t in taught]
    # Threads of so small products wait for each other: two on a busy machine took 28 times as long.
    with threadpool_limits(1):
        nearness, sums, places = Matcher(likeness=1.0), list[Any](), list[int]()
        parts = min(HOW["folds"], len(set(groups)))
        # The classifier's word counts as much as it is worth on calls that it was not taught.
        for apart, held in GroupKFold(parts).split(asked, groups=groups) if parts > 1 else ():
            classifier = _classifier([asked[i] for i in apart], [answers[i] for i in apart])
            learnt = Matcher(likeness=0.0, learnt=1.0, classifier=classifier)
            for i in held:
                near, says = (m.scores(asked[i], taught[i][1]) for m in (nearness, learnt))
                sums.append(np.array([[near[a], says[a], float(a in classifier)] for a in near]))
                places.append(list(near).index(answers[i]))

        def loss(weights: Any) -> tuple[float, Any]:
            total, slope = HOW["l2"] / 2 * weights @ weights, HOW["l2"] * weights
            for rows, right in zip(sums, places, strict=True):
                scores = rows @ weights
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                total -= np.log(max(shares[right], 1e-12))
                slope = slope - rows[right] + shares @ rows
            return float(total), slope

        found = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B").x if sums else [Matcher().likeness, 0.0, 0.0]
        weights = [round(float(weight), 6) for weight in found]
        return Matcher(likeness=weights[0], learnt=weights[1], given=weights[2], classifier=_classifier(asked, answers))


def _classifier(vectors: Sequence[Sequence[float]], answers: Sequence[str]) -> dict[str, list[float]]:
    """Logistic regressions on embeddings, for each answer one against all others: its intercept and weights; nothing of fewer than two answers.

    Each says by itself how far a call is one of its answer's. Shares of one regression over all answers would always find a likely one, also
    for calls whose answer nobody gave yet.
    """
    from sklearn.linear_model import LogisticRegression

    if len(set(answers)) < 2:
        return {}
    found: dict[str, list[float]] = {}
    for answer in sorted(set(answers)):
        fitted = LogisticRegression(C=HOW["C"], max_iter=1000).fit(vectors, [given == answer for given in answers])
        found[answer] = [round(float(number), 6) for number in (*fitted.intercept_, *fitted.coef_[0])]
    return found
