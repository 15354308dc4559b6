"""Measuring a specialist on the engine that will serve it, beside fair baselines.

The base model gets the same prompt and the same grammar, with no and with five examples; plain code
is word overlap and the most frequent answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, cast

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

from ..bindings import Score
from ..contract import Contract, OneOf, Sha256, compact_json
from ..engines import Endpoint
from ..routing import Attempt, BadAnswer, Signals, elected, vote
from .curate import Example
from .intervals import mean_score, wilson

FIVE = 5

PLAIN_CODE = ("word_overlap", "most_frequent")
"""Contestants without any model (`plain_code`)."""

TIMED = 30
"""Calls of the specialist that are made one at a time, for the time that a call takes; the rest goes several at once."""


@dataclass(frozen=True)
class Prediction:
    """One answer of one contestant to one held-out example."""

    phase: str
    """`teacher`, `base_grammar`, `base_five_shot`, `base_untaught`, `specialist`, `word_overlap`, `most_frequent`, `matcher`."""
    key: Sha256
    input: dict[str, Any]
    output: Any
    """The answer as JSON; None where it did not meet the contract."""
    valid: bool
    target: Any
    model: str
    prompt_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    value: float | None = None
    """How right it is, 0 to 1; None before it was compared."""
    signals: Signals | None = None
    """What the engine said of the answer."""
    drawn: list[tuple[Any, Signals | None] | None] = field(default_factory=list[Any])
    """What it was voted from, the likeliest first: each answer and what the engine said of it; None for one that did not hold."""


def same(output: Any, target: Any) -> bool:
    """Return whether two JSON values are equal, order of keys aside."""
    return json.dumps(output, sort_keys=True) == json.dumps(target, sort_keys=True)


def score(predictions: Sequence[Prediction]) -> Score:
    """Return the mean of how right compared answers are, with its 95 % interval."""
    return mean_score([p.value or 0.0 for p in predictions])


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return a JSON value's leaves with their paths; an item of a list has the list's path and `[]`."""
    if isinstance(value, dict):
        return [leaf for key, item in cast(dict[str, Any], value).items() for leaf in leaves(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [leaf for item in cast(list[Any], value) for leaf in leaves(item, f"{path}[]")]
    return [(path, value)]


def grounded(contract: Contract, predictions: Sequence[Prediction]) -> Score:
    """Return the share of texts in answers that stand in the input, where the truth's stand there too: copied, not invented.

    Counted are the texts of valid answers at places (paths) at which all texts of the truth are copied from the input. What
    `OneOf` or `Fits` names is no input here.
    """
    copied = counted = 0
    for p in predictions:
        if not p.valid:
            continue
        asked = "\n".join(leaf for _, leaf in leaves(contract.asked(p.input)) if isinstance(leaf, str))
        truths: dict[str, list[str]] = {}
        for path, leaf in leaves(p.target):
            if isinstance(leaf, str) and leaf:
                truths.setdefault(path, []).append(leaf)
        for path, leaf in leaves(p.output):
            if isinstance(leaf, str) and path in truths and all(true in asked for true in truths[path]):
                counted += 1
                copied += bool(leaf) and leaf in asked
    return wilson(copied, counted)


async def predict(
    phase: str,
    endpoint: Endpoint,
    contract: Contract,
    examples: Sequence[Example],
    *,
    shots: Sequence[Example] = (),
    at_once: int = 1,
    samples: int = 1,
) -> AsyncGenerator[Prediction]:
    """Give a model's answers.

    Args:
        phase: the contestant's name.
        endpoint: the model on its serving engine.
        contract: the slot's contract.
        examples: held-out examples.
        shots: examples of the train part that stand before each call.
        at_once: calls in flight; with more than one, `seconds` is not measured, and answers come as they are ready.
        samples: answers that each call's is voted from.
    """
    before = few_shot(contract, shots)

    async def one(example: Example) -> Prediction:
        model, target = endpoint.model.model_name, example.output
        arguments = contract.load(example.input)
        try:
            made = await vote(endpoint, contract, arguments, samples=samples, examples=before, retries=0)
        except (BadAnswer, ModelHTTPError) as error:
            # A call that the engine refuses for what it holds, longer than the context say, has no right answer.
            if isinstance(error, ModelHTTPError) and error.status_code not in (400, 413, 422):
                raise
            return Prediction(phase, example.key, example.input, None, False, target, model, None, None, None)
        output, usage = contract.dump_output(made.output), made.usage
        seconds = made.seconds if at_once == 1 else None
        return Prediction(
            phase,
            example.key,
            example.input,
            output,
            True,
            target,
            model,
            usage.input_tokens,
            usage.output_tokens,
            seconds,
            signals=made.signals,
            drawn=[each and (contract.dump_output(each.output), each.signals) for each in made.drawn],
        )

    asked, answered = set[asyncio.Task[Prediction]](), set[asyncio.Task[Prediction]]()
    waiting = list(reversed(examples))
    try:
        while asked or waiting:
            while waiting and len(asked) < at_once:
                asked.add(asyncio.create_task(one(waiting.pop())))
            answered, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for task in answered:
                yield task.result()
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, *answered, return_exceptions=True)


def voted_again(
    contract: Contract, prediction: Prediction, *, by_field: bool, without: Collection[int] = ()
) -> Prediction:
    """Return the answer that another vote on the same samples gives; an answer that was not voted stays as it is.

    Args:
        contract: the slot's contract.
        prediction: what was voted before.
        by_field: as `elected` takes it.
        without: places of samples that have no vote; where no other held, there is no answer.
    """
    if not prediction.drawn:
        return prediction
    arguments = contract.load(prediction.input)
    drawn = [
        Attempt(contract.validate(each[0], arguments), prediction.model, RequestUsage(), None, 0.0, each[1])
        if each and number not in without
        else None
        for number, each in enumerate(prediction.drawn)
    ]
    if not any(drawn):
        return replace(prediction, output=None, valid=False, signals=None)
    made = elected(contract, arguments, drawn, by_field=by_field)
    return replace(prediction, output=contract.dump_output(made.output), signals=made.signals)


def in_order(predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
    """Return predictions contestant by contestant, each in the examples' order, so that they can be paired by position."""
    place = {example.key: number for number, example in enumerate(examples)}
    phases = {phase: number for number, phase in enumerate(dict.fromkeys(p.phase for p in predictions))}
    return sorted(predictions, key=lambda p: (phases[p.phase], place[p.key]))


def few_shot(contract: Contract, shots: Sequence[Example]) -> list[ModelMessage]:
    """Return examples as turns of a conversation."""
    messages: list[ModelMessage] = []
    for shot in shots:
        arguments = contract.load(shot.input)
        answer = TextPart(content=contract.answer_text(shot.output, arguments))
        messages += [*contract.messages(arguments), ModelResponse(parts=[answer])]
    return messages


def plain_code(contract: Contract, train: Sequence[Example], test: Sequence[Example]) -> list[Prediction]:
    """Return the answers of plain code: what a slot must beat to need a model at all.

    Where a call's answers are known beforehand (OneOf, enums, bool): `word_overlap` takes the option
    that shares most words with the input, those of its description counted, `most_frequent` the option that was right most often in the
    train part. Elsewhere `most_frequent` is the train part's most frequent answer.
    """
    counts = Counter(compact_json(example.output) for example in train)
    contestants: dict[str, Callable[[Example, list[Any] | None], Any]] = {}
    if contract.options(contract.load(test[0].input)) is not None:
        contestants["word_overlap"] = lambda example, options: _word_overlap(contract, example, options or [])
        contestants["most_frequent"] = lambda example, options: max(
            options or [], key=lambda o: counts[compact_json(o)]
        )
    elif counts and counts.most_common(1)[0][1] > 1:
        constant = json.loads(counts.most_common(1)[0][0])
        contestants["most_frequent"] = lambda example, options: constant
    return [
        Prediction(name, e.key, e.input, answer, True, e.output, "plain code", None, None, None)
        for name, answers in contestants.items()
        for e in test
        for answer in [answers(e, contract.options(contract.load(e.input)))]
    ]


def _word_overlap(contract: Contract, example: Example, options: list[Any]) -> Any:
    asked = _words(" ".join(map(str, contract.asked(example.input).values())))
    said: dict[str, str] = {}
    if isinstance(contract.constraint, OneOf):  # what Fits names describes no option
        given = example.input[contract.constraint.parameter]
        said = cast(dict[str, str], given) if isinstance(given, dict) else {}
    return max(options, key=lambda o: len(asked & _words(f"{o} {said.get(o, '')}" if said else str(o))))


def _words(text: str) -> set[str]:
    """Lower-case word stems; CamelCase and snake_case are split, scripts without spaces into their signs."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_A-Za-z]+", text)
    return {part.lower().removesuffix("s") for part in parts}


def read_predictions(path: Path) -> dict[tuple[str, Sha256], Prediction]:
    """Return the predictions of a JSON-lines file by (phase, key)."""
    found: dict[tuple[str, Sha256], Prediction] = {}
    for line in read_lines(path):
        try:
            prediction = Prediction(**line)
        except TypeError:  # of another form
            continue
        found[prediction.phase, prediction.key] = prediction
    return found


def read_lines(path: Path) -> Iterator[Any]:
    """Give the values of a JSON-lines file, if it is there; a line cut short by a kill is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:  # not `splitlines`: a text may hold what that takes for a line's end
            try:
                yield json.loads(line)
            except ValueError:
                continue


def append_lines(path: Path) -> TextIO:
    """Open a file of JSON lines to write more; a last line that a kill cut short is ended first, so that it spoils no other."""
    file = path.open("a+", encoding="utf-8")
    if end := file.tell():
        with path.open("rb") as written:
            written.seek(end - 1)
            if written.read(1) != b"\n":
                file.write("\n")
    return file


def prediction_line(prediction: Prediction) -> str:
    """Return a prediction as a line of JSON."""
    return json.dumps(asdict(prediction), ensure_ascii=False) + "\n"
