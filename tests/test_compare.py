"""When an answer is right, what one contestant has over another, and corners of the test part."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import slot
from hetero_agents.bindings.config import SlotConfig
from hetero_agents.contract import Contract, Sha256, SlotId, sha256_of
from hetero_agents.distill.compare import Comparator, comparator
from hetero_agents.distill.evaluate import Prediction, append_lines, grounded, prediction_line, read_predictions, score
from hetero_agents.distill.intervals import mean_score, paired, wilson
from hetero_agents.distill.slices import slices, topics
from hetero_agents.errors import ConfigError, DistillError, SlotDefinitionError


class Order(BaseModel):
    """An order."""

    item: str
    price: float
    tags: list[str] = []


class Person(BaseModel):
    """With a set, whose order means nothing."""

    names: set[str]


async def order(message: str) -> Order:
    """Read the order."""
    ...


async def person(message: str) -> Person:
    """Who is it?"""
    ...


async def summary(message: str) -> str:
    """Summarise."""
    ...


def predicted(output: Any, target: Any, *, message: str = "m", valid: bool = True) -> Prediction:
    values = {"message": message}
    key = Sha256(sha256_of([message]))
    return Prediction("specialist", key, values, output, valid, target, "small", None, None, None)


def value_of(compare: Comparator, output: Any, target: Any) -> float | None:
    (made,) = asyncio.run(compare.values([predicted(output, target)]))
    return made.value


def compare_of(function: Any, folder: Path, own: Any = None, judge: Any = None, **entry: Any) -> Comparator:
    contract = Contract(function, function.__name__, None)
    return comparator(contract, SlotConfig(**entry), own, judge, folder)


TRUE = {"item": "pen", "price": 2.0, "tags": ["a", "b"]}


@pytest.mark.parametrize(
    ("entry", "output", "value"),
    [
        ({}, {"tags": ["a", "b"], "price": 2, "item": "pen"}, 1.0),
        ({}, {**TRUE, "price": 2.001}, 0.0),
        ({"tolerance": 0.01}, {**TRUE, "price": 2.001}, 1.0),
        ({"tolerance": 0.01}, {**TRUE, "price": 2.1}, 0.0),
        ({}, {**TRUE, "tags": ["b", "a"]}, 0.0),
        ({}, {**TRUE, "price": 2.0000000001}, 0.0),
        ({"compare": "unordered"}, {**TRUE, "tags": ["b", "a"]}, 1.0),
        ({"compare": "unordered"}, {**TRUE, "tags": ["b", "b"]}, 0.0),
        ({"compare": "fields"}, {**TRUE, "tags": ["b", "a"]}, 1.0),
        ({"compare": "fields"}, {**TRUE, "price": 3.0}, 0.75),
        ({"compare": "fields"}, {**TRUE, "tags": []}, pytest.approx(2 * 2 / (2 + 4))),  # pyright: ignore[reportUnknownMemberType]
    ],
)
def test_answers_are_compared_as_hetero_toml_says(
    tmp_path: Path, entry: dict[str, Any], output: Any, value: float
) -> None:
    assert value_of(compare_of(order, tmp_path, **entry), output, TRUE) == value


def test_a_number_is_no_bool() -> None:
    async def flag(message: str) -> bool | int:
        """Yes or a count."""
        ...

    assert value_of(compare_of(flag, Path()), True, 1) == 0.0


def test_sets_have_no_order(tmp_path: Path) -> None:
    assert value_of(compare_of(person, tmp_path), {"names": ["b", "a"]}, {"names": ["a", "b"]}) == 1.0


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ({"tags": ["b", "a"], "by": {}}, {"tags": ["a", "b"], "by": {}}),
        ({"tags": None, "by": {"x": ["b", "a"]}}, {"tags": None, "by": {"x": ["a", "b"]}}),
    ],
)
def test_sets_inside_of_unions_and_mappings_have_no_order(tmp_path: Path, output: Any, target: Any) -> None:
    class Tagged(BaseModel):
        tags: set[str] | None
        by: dict[str, set[str]]

    async def tagged(message: str) -> Tagged:
        """Tag it."""
        ...

    assert value_of(compare_of(tagged, tmp_path), output, target) == 1.0


def test_a_line_that_was_cut_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for text in ('{"a": 1}\n{"b"', '{"c": 3}\n', '{"d": 4}\n'):
        with append_lines(path) as file:
            file.write(text)
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b"', '{"c": 3}', '{"d": 4}']


@pytest.mark.parametrize("entry", [{"judge": "big"}, {"compare": "fields", "tolerance": 0.1}])
def test_settings_of_another_comparison_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="goes with compare"):
        SlotConfig(**entry)


def test_what_did_not_meet_the_contract_is_wrong(tmp_path: Path) -> None:
    (made,) = asyncio.run(compare_of(order, tmp_path).values([predicted(None, None, valid=False)]))
    assert made.value == 0.0


def test_a_function_of_the_user_sees_typed_values(tmp_path: Path) -> None:
    def cheap(answer: Order, truth: Order) -> float:
        return 0.5 if answer.price < truth.price else float(answer.item == truth.item)

    compare = compare_of(order, tmp_path, own=cheap)
    assert value_of(compare, {**TRUE, "price": 1.0}, TRUE) == 0.5
    assert value_of(compare, TRUE, TRUE) == 1.0
    assert compare.name.startswith("own function cheap ")


@pytest.mark.parametrize("gives", [2, "yes", None])
def test_a_function_that_gives_no_share_is_named(tmp_path: Path, gives: Any) -> None:
    compare = compare_of(order, tmp_path, own=lambda answer, truth: gives)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(DistillError, match="could not be compared"):
        value_of(compare, TRUE, TRUE)


def test_compare_is_declared_on_the_slot_and_takes_two_values() -> None:
    @slot(name="compared.slot")
    async def compared(message: str) -> str: ...

    with pytest.raises(SlotDefinitionError, match="takes the answer and the truth"):
        compared.compare(lambda answer: 1.0)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownLambdaType]


def test_judge_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a judge"):
        compare_of(summary, tmp_path, compare="judge")


def judge_of(asked: list[str], verdict: Callable[[str], object]) -> FunctionModel:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        text = str(messages)
        asked.append(text)
        said = {"reason": "because", "pass": bool(verdict(text)), "score": 1.0}
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, said)])

    return FunctionModel(answer, model_name="judging")


def test_a_judge_is_asked_once_and_spared_where_answers_are_equal(tmp_path: Path) -> None:
    asked: list[str] = []
    judge = judge_of(asked, lambda text: "like it" in text)
    for _ in range(2):
        compare = compare_of(summary, tmp_path, judge=judge, compare="judge")
        assert value_of(compare, "like it", "he likes it") == 1.0
        assert value_of(compare, "no", "he likes it") == 0.0
        assert value_of(compare, "same", "same") == 1.0
    assert len(asked) == 2


def test_a_judges_agreement_is_measured_on_known_pairs(tmp_path: Path) -> None:
    teacher = [predicted(f"text {n}", f"text {n}", message=f"m {n}") for n in range(30)]
    lenient = compare_of(summary, tmp_path, judge=judge_of([], str.__len__), compare="judge")
    assert asyncio.run(lenient.agreement(teacher)) == wilson(20, 40)
    assert asyncio.run(compare_of(summary, tmp_path).agreement(teacher)) is None


def test_a_judge_that_answers_nonsense_is_one_sentence(tmp_path: Path) -> None:
    def nonsense(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, {"what": "?"})])

    compare = compare_of(summary, tmp_path, judge=FunctionModel(nonsense, model_name="mad"), compare="judge")
    with pytest.raises(DistillError, match=r"could not be compared \(judge mad\)"):
        value_of(compare, "a", "b")


def test_mcnemar_is_exact() -> None:
    first, second = [1.0] * 8 + [0.0] * 2 + [1.0] * 10, [0.0] * 8 + [1.0] * 2 + [1.0] * 10
    found = paired(first, second)
    # 2 * P(X <= 2), X binomial with 10 trials: 2 * (1 + 10 + 45) / 1024
    assert found.p == pytest.approx(112 / 1024)  # pyright: ignore[reportUnknownMemberType]
    assert found.difference == pytest.approx(0.3)  # pyright: ignore[reportUnknownMemberType]
    assert paired(first, first).p == 1.0


def test_large_numbers_are_not_rounded() -> None:
    async def account(message: str) -> int:
        """Which account?"""
        ...

    assert value_of(compare_of(account, Path()), 12345678901234567, 12345678901234568) == 0.0
    assert value_of(compare_of(account, Path(), compare="fields"), 12345678901234567, 12345678901234568) == 0.0


def test_one_item_says_nothing() -> None:
    assert (mean_score([0.5]).low, mean_score([0.5]).high) == (0.0, 1.0)
    assert paired([0.5], [0.4]).p == 1.0
    assert mean_score([0.5] * 4).score == 0.5
    assert paired([0.5] * 4, [0.5] * 4).difference == 0.0
    with pytest.raises(ValueError, match="same items"):
        paired([1.0], [0.5, 0.6])


def test_shares_are_resampled() -> None:
    dice = random.Random(0)
    better = [min(1.0, 0.6 + dice.random() * 0.4) for _ in range(80)]
    worse = [value - 0.3 - 0.1 * dice.random() for value in better]
    found = paired(better, worse)
    assert found.low < 0.35 < found.high
    assert found.p < 0.01
    mean = mean_score(worse)
    assert mean.low < mean.score < mean.high
    assert mean.n == 80


def test_a_weak_corner_is_found() -> None:
    made: list[Prediction] = []
    for n in range(120):
        parcel = n % 4 == 0
        text = f"parcel lost delivery {n}" if parcel else f"invoice payment money {n}"
        p = predicted("a", "b" if parcel else "a", message=text)
        made.append(replace(p, value=0.0 if parcel else 1.0))
    found = slices(made, [p.input["message"] for p in made])
    weak = [s for s in found if s.weak]
    assert {s.kind for s in weak} >= {"answer", "topic"}
    assert any("parcel" in s.name and s.score.score == 0 for s in weak)
    assert score(made).score == 0.75


def test_what_is_copied_from_the_input_is_counted_where_the_truth_copies() -> None:
    contract = Contract(order, SlotId("order"), None)
    true = {"item": "pen", "price": 2.0, "tags": ["new", "gift"]}
    made = [
        predicted({**true, "item": "pencil"}, true, message="A pen, please."),  # invented
        predicted({**true, "item": "A pen"}, true, message="A pen, please. "),  # another cut, but copied
        predicted(
            {**true, "item": "box"}, {**true, "item": "case"}, message="A pen, please!"
        ),  # the truth copies nothing
        predicted(None, true, message="A pen.", valid=False),
    ]
    assert grounded(contract, made) == wilson(1, 2)


def test_texts_without_words_are_one_topic() -> None:
    assert set(topics(["?"] * 60)) == {"all"}
    assert set(topics(["a b"] * 5)) == {"all"}
    assert slices([], []) == []


def test_a_kept_answer_is_read_again_whatever_its_text_holds(tmp_path: Path) -> None:
    kept = tmp_path / "predictions.jsonl"
    given = [predicted(f"one{sign}two", "x", message=sign) for sign in ("\u2028", "\u2029", "\x85", "\x0b", "\r\n")]
    with append_lines(kept) as file:
        for prediction in given:
            file.write(prediction_line(prediction))
    assert list(read_predictions(kept).values()) == given
