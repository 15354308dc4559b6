"""When an answer is right: comparators of an answer with the truth, as evaluators of pydantic-evals.

Which one a slot has follows from its output type and from `compare` in `hetero.toml`; a function of the
user's (`@slot.compare`) comes before both. Each gives a share from 0, wrong, to 1, right.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY  # pyright: ignore[reportPrivateUsage]
from pydantic_ai.models import Model
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext, LLMJudge

from ..bindings import Score
from ..bindings.config import SlotConfig
from ..contract import Contract, compact_json, sha256_of
from ..errors import ConfigError, DistillError
from ..routing import agrees
from ..slots.slot import source_of
from .curate import VERDICTS
from .evaluate import Prediction, append_lines, leaves, read_lines
from .intervals import wilson

JUDGED_PAIRS = 20
"""Pairs of each kind, of known truth, on which a judge is tried."""

JUDGED_AT_ONCE = 8
"""Questions to a judge that are open at a time."""


@dataclass(repr=False)
class Agrees(Evaluator[Any, Any, Any]):
    """The same JSON value: keys in any order, numbers by value within a tolerance, lists in any order where asked."""

    tolerance: float = 0.0
    unordered: bool = False

    def evaluate(self, ctx: EvaluatorContext[Any, Any, Any]) -> float:
        """Return 1.0 or 0.0."""
        return float(agrees(ctx.output, ctx.expected_output, tolerance=self.tolerance, unordered=self.unordered))


@dataclass(repr=False)
class FieldF1(Evaluator[Any, Any, Any]):
    """F1 of the fields: each leaf with its path counts, an item of a list wherever it stands in the list."""

    def evaluate(self, ctx: EvaluatorContext[Any, Any, Any]) -> float:
        """Return 2 * common / (fields of the answer + fields of the truth); 1.0 where neither has any."""
        given, true = Counter(_fields(ctx.output)), Counter(_fields(ctx.expected_output))
        count = given.total() + true.total()
        return 2 * (given & true).total() / count if count else 1.0


@dataclass(repr=False)
class OwnFunction(Evaluator[Any, Any, Any]):
    """A user's function of the typed answer and the typed truth."""

    function: Callable[[Any, Any], Any]
    contract: Contract

    async def evaluate(self, ctx: EvaluatorContext[Any, Any, Any]) -> float:
        """Return what the function says, as a share.

        Raises:
            ValueError: it says something else than a bool or a number from 0 to 1.
        """
        arguments = self.contract.load(ctx.inputs)
        said = self.function(*(self.contract.validate(value, arguments) for value in (ctx.output, ctx.expected_output)))
        said = await said if inspect.isawaitable(said) else said
        if not isinstance(said, bool | int | float) or not 0 <= said <= 1:
            raise ValueError(f"it gave {said!r}, and not a bool or a number from 0 to 1")
        return float(said)


@dataclass(repr=False)
class Judge(LLMJudge):
    """pydantic-evals' judge; equal answers are right without it, and no verdict is paid for twice."""

    remembered: Path | None = None
    _found: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        """Read what was said before."""
        if self.remembered is not None:
            self._found |= dict(read_lines(self.remembered))

    async def evaluate(self, ctx: EvaluatorContext[Any, Any, Any]) -> float:
        """Return 1.0 where the judge lets the answer pass, else 0.0."""
        if ctx.output == ctx.expected_output:
            return 1.0
        name = self.model.model_id if isinstance(self.model, Model) else self.model
        key = sha256_of([name, self.rubric, ctx.inputs, ctx.output, ctx.expected_output])
        if key not in self._found:
            said = cast(dict[str, EvaluationReason], await super().evaluate(ctx))
            self._found[key] = float(next(iter(said.values())).value)
            if self.remembered is not None:
                with append_lines(self.remembered) as file:
                    file.write(json.dumps([key, self._found[key]]) + "\n")
        return self._found[key]


@dataclass(frozen=True)
class Comparator:
    """How a slot's answers are compared with the truth."""

    name: str
    """As reports and the lock say it."""
    contract: Contract
    evaluator: Evaluator[Any, Any, Any]

    async def values(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Return predictions with how right each is; an answer that did not meet the contract is wrong.

        Args:
            predictions: of any contestants, each input once a contestant.

        Raises:
            DistillError: a judge that cannot be asked or answers nonsense, or a user's function that fails.
        """
        found: dict[tuple[str, str], float] = {}
        for phase in dict.fromkeys(p.phase for p in predictions):
            valid = [p for p in predictions if p.phase == phase and p.valid]
            for key, value in (await self._evaluate(valid)).items():
                found[phase, key] = value
        return [replace(p, value=found[p.phase, p.key] if p.valid else 0.0) for p in predictions]

    async def _evaluate(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        if not predictions:
            return {}
        answers: dict[str, Any] = {}
        cases: list[Case[Any, Any, Any]] = []
        for p in predictions:
            answers[compact_json(p.input)] = self._canonical(p.output, p.input)
            cases.append(Case(name=p.key, inputs=p.input, expected_output=self._canonical(p.target, p.input)))
        dataset = Dataset[Any, Any, Any](name=self.contract.slot, cases=cases, evaluators=[self.evaluator])

        def answer(inputs: dict[str, Any]) -> Any:
            return answers[compact_json(inputs)]

        # pydantic-evals and a judge write spans with all content to a logfire that the user's program may have configured.
        silent = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            report = await dataset.evaluate(answer, max_concurrency=JUDGED_AT_ONCE, progress=False)
        finally:
            context.detach(silent)
        for case in report.cases:
            for failure in case.evaluator_failures:
                raise DistillError(
                    f"Answers of slot {self.contract.slot!r} could not be compared ({self.name}): {failure.error_message}"
                )
        return {case.name: float(next(iter(case.scores.values())).value) for case in report.cases}

    def _canonical(self, value: Any, values: dict[str, Any]) -> Any:
        return self.contract.canonical(value, self.contract.load(values))

    async def agreement(self, predictions: Sequence[Prediction]) -> Score | None:
        """Return how often a judge is right where the truth is known; None where nobody judges.

        It is shown true answers with other spacing and order of keys, which are right, and the true answers of
        other calls, which are wrong.

        Args:
            predictions: the teacher's, of which the first `JUDGED_PAIRS` of each kind are used.
        """
        if not isinstance(self.evaluator, Judge):
            return None
        some = [p for p in predictions if p.valid]
        others = [replace(p, output=q.output) for p, q in pairwise(some) if p.output != q.output]
        right = [p.value == 0.0 for p in await self.values(others[:JUDGED_PAIRS])]
        right += [p.value == 1.0 for p in await self.values([_restated(p) for p in some[:JUDGED_PAIRS]])]
        return wilson(sum(right), len(right))


def comparator(
    contract: Contract, entry: SlotConfig, own: Callable[[Any, Any], Any] | None, judge: Model | None, folder: Path
) -> Comparator:
    """Return a slot's comparator.

    Args:
        contract: the slot's contract.
        entry: the slot's entry in `hetero.toml`.
        own: the function that `@slot.compare` was given.
        judge: the model that `judge` names.
        folder: where a judge's verdicts are kept.

    Raises:
        ConfigError: `compare = "judge"` without a judge.
    """
    if own is not None:
        # Another text is another measure: scores of the old one do not stand beside it.
        name = f"own function {getattr(own, '__name__', '?')} {sha256_of(source_of(own))[:8]}"
        return Comparator(name, contract, OwnFunction(own, contract))
    within = f", numbers within {entry.tolerance:g}" if entry.tolerance else ""
    if entry.compare == "fields":
        return Comparator("F1 of the fields", contract, FieldF1())
    if entry.compare == "unordered":
        agrees = Agrees(entry.tolerance, unordered=True)
        return Comparator(f"exact, lists in any order{within}", contract, agrees)
    if entry.compare == "exact":
        return Comparator(f"exact{within}", contract, Agrees(entry.tolerance))
    if judge is None:
        raise ConfigError(
            f'[slots."{contract.slot}"] compare = "judge" needs a judge beside it: judge = "NAME", a name in [models].'
        )
    rubric = (
        f"The task was: {contract.instructions}\nThe output passes if it answers the input as the expected output does: "
        "wording may differ, facts, values and decisions may not be missing, added or changed."
    )
    asked = Judge(rubric, judge, include_input=True, include_expected_output=True, remembered=folder / VERDICTS)
    return Comparator(f"judge {judge.model_name}", contract, asked)


def _restated(p: Prediction) -> Prediction:
    """The same answer in a form that a reader takes for the same, and that no comparison of values spares."""
    return replace(p, output=json.dumps(p.output, indent=1, sort_keys=True, ensure_ascii=False))


def _fields(value: Any) -> list[tuple[str, str]]:
    """Each leaf as its path and its value as JSON; 1 and 1.0 are one value."""
    return [(path, compact_json(_whole(leaf))) for path, leaf in leaves(value)]


def _whole(leaf: Any) -> Any:
    return int(leaf) if isinstance(leaf, float) and leaf.is_integer() else leaf
