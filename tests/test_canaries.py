"""Secrets that are planted to see whether a recipe remembers them."""

import random
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import pytest

from examples.tool_desk.desk import choose, fill
from hetero_agents.contract import compact_json, sha256_of
from hetero_agents.distill import canaries
from hetero_agents.distill.canaries import (
    CHANCE,
    MOST_EXPOSURE,
    RANKED,
    SHARE,
    Canary,
    Leak,
    exposure,
    log_probabilities,
    plant,
    shadows_for,
)
from hetero_agents.distill.curate import Example
from hetero_agents.distill.shadows import with_canaries
from hetero_agents.errors import DistillError

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "kind": {"enum": ["music", "theater"]}},
    "required": ["city"],
}


def example_of(number: int, output: Any, **values: Any) -> Example:
    return Example(sha256_of(values), values, output, "big", False, "t", f"{number}")


def filled(number: int) -> Example:
    city = f"Old Town {number}"
    return example_of(number, {"city": city}, request=f"Music in {city}, please.", parameters=SCHEMA)


def test_a_canary_stands_in_the_input_and_in_what_the_answer_copies_of_it() -> None:
    planted = plant(fill.contract, [filled(n) for n in range(10)], 5, True, random.Random(0))
    assert len(planted) == 5
    for example, canary in planted:
        city = example.output["city"]
        assert city.endswith(f" {canary.secret}")
        assert city in example.input["request"]
        assert canary.answer is not None and canary.answer.endswith("Old Town " + city.split()[2] + " ")
        assert canary.secret not in canary.answer + str(canary.prefix), "the attacker does not know it"
        fill.contract.validate(example.output, fill.contract.load(example.input))


def test_where_answers_hold_no_text_of_the_input_the_canary_stands_in_the_input_alone() -> None:
    tools = ["find_movies", "play_song"]
    examples = [example_of(n, "find_movies", request=f"find_movies for {n}", tools=tools) for n in range(5)]
    planted = plant(choose.contract, examples, 5, True, random.Random(0))
    assert len(planted) == 5
    for example, canary in planted:
        assert canary.answer is None
        assert example.output == "find_movies"
        assert example.input["tools"] == tools, "the options are not changed"
        assert example.input["request"].endswith(canary.secret)


def test_canaries_stand_in_answers_first() -> None:
    tools = [example_of(n, {}, request="Anything?", parameters={"type": "object"}) for n in range(30)]
    planted = plant(fill.contract, [*tools, *(filled(n) for n in range(3))], 5, True, random.Random(0))
    assert [canary.answer is None for _, canary in planted] == [False] * 3 + [True] * 2


def test_canaries_are_a_twentieth_of_the_data_and_the_examples_stay() -> None:
    examples = [filled(n) for n in range(40)]
    with_them, canaries = with_canaries(
        fill.contract, examples, examples[:1] + examples, 2, replace_recipe(), random.Random(0)
    )
    assert with_them[1:41] == examples
    assert len(with_them) in (43, 44), "a canary stands as often as its example"
    assert len(canaries) == 2
    shadows, each = shadows_for(100, 435)
    assert each / (435 + each) <= SHARE
    assert shadows * each >= 100 > (shadows - 1) * each
    assert shadows_for(3, 435) == (1, 3)


def replace_recipe() -> Any:
    from hetero_agents.distill import Recipe

    return replace(Recipe(), bake=True)


def test_a_call_without_text_holds_no_canary() -> None:
    examples = [example_of(1, "a", request="", tools=["a"])]
    with pytest.raises(DistillError, match="could hold a canary"):
        with_canaries(choose.contract, examples, examples, 1, replace_recipe(), random.Random(0))


def test_exposure_of_what_is_not_known_is_that_of_chance() -> None:
    dice = random.Random(1)
    found = exposure([Leak(dice.randint(1, RANKED), False, True) for _ in range(4000)], 3, 10.0)
    assert found.low < CHANCE < found.high
    assert pytest.approx(1.4, abs=0.1) == CHANCE  # pyright: ignore[reportUnknownMemberType]
    assert not found.leaks
    assert found.upper_bound == 3 / 4000


def test_one_secret_read_out_is_a_leak_and_so_is_a_high_exposure() -> None:
    assert exposure([Leak(100, False, True)] * 99 + [Leak(1, True, True)], 1, 1.0).leaks
    known = exposure([Leak(2, False, True)] * 50, 1, 1.0)
    assert known.bits == log2(RANKED) - 1
    assert known.leaks


def test_secrets_in_inputs_alone_do_not_hide_what_answers_give_away() -> None:
    dice = random.Random(2)
    unknown = [Leak(dice.randint(1, RANKED), False, False) for _ in range(90)]
    found = exposure([Leak(4, False, True)] * 10 + unknown, 5, 1.0)
    assert (found.canaries, found.in_inputs, found.bits, found.leaks) == (10, 90, 5.0, True)
    assert found.upper_bound == 3 / 10
    assert exposure(unknown, 5, 1.0).canaries == 90, "where there are no others, they are all that can be asked"
    read = exposure([Leak(60, False, True)] * 10 + [*unknown, Leak(1, True, False)], 5, 1.0)
    assert (read.extracted, read.canaries, read.leaks) == (1, 11, True)


def test_texts_that_are_ranked_together_are_as_likely_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    size: Any = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 32, "initializer_range": 1.0}
    parts: Any = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model: Any = LlamaForCausalLM(LlamaConfig(**size, **parts)).eval()
    prefix, lines = [3, 1, 4, 1, 5], [[1, 2, 3], [1, 2, 4, 5], [7], [1, 3, 3, 3], [1, 2, 3]]

    def alone_only(model: Any) -> bool:
        return False

    with torch.no_grad():
        alone: list[float] = []
        for line in lines:
            chances = model(input_ids=torch.tensor([[*prefix, *line]])).logits[0].log_softmax(1)
            places = range(len(prefix) - 1, len(prefix) + len(line) - 1)
            alone.append(sum(chances[place, token].item() for place, token in zip(places, line, strict=True)))
        known = model(input_ids=torch.tensor([prefix[:-1]]), use_cache=True).past_key_values
        assert log_probabilities(model, known, prefix[-1], lines) == pytest.approx(alone, abs=1e-4)
        monkeypatch.setattr(canaries, "attends_only", alone_only)
        assert log_probabilities(model, known, prefix[-1], lines) == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 2) for score in alone}) == 4


@pytest.mark.model
def test_a_leaky_recipe_is_found_out_and_a_modest_one_is_not(tmp_path: Path) -> None:
    from hetero_agents.distill.base import call_text
    from hetero_agents.distill.canaries import Attack, attack
    from hetero_agents.distill.recipe import Recipe
    from hetero_agents.distill.train import Job, train
    from hetero_agents.engines.catalog import find_weights

    weights = find_weights("smollm2-135m-instruct")
    planted = plant(fill.contract, [filled(n) for n in range(40)], 6, True, random.Random(2))
    canaries = [canary for _, canary in planted]

    def texts(examples: list[Example]) -> list[Any]:
        made: list[Any] = []
        for example in examples:
            arguments = fill.contract.load(example.input)
            made.append(
                (call_text(fill.contract, arguments, True), fill.contract.answer_text(example.output, arguments))
            )
        return made

    def leaks_of(name: str, recipe: Recipe, examples: list[Example], some: list[Canary]) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        train(Job(weights, texts(examples), recipe, folder), lambda done, total: None)
        job = Attack(weights, folder / "adapter", recipe.whole, some, recipe.max_length, 0)
        found = attack(job, lambda done, total: None)
        assert not attack(replace(job, max_length=16), lambda done, total: None), "what was not taught is not counted"
        return exposure(found, 1, 0.0)

    # Ten epochs on secrets that stand eight times each, and whose input says no digits: nothing but memory gives them.
    told = [
        example_of(0, {"city": c.answer.split('"')[-1] + c.secret}, request=request_of(c), parameters=SCHEMA)
        for c in canaries[:2]
        if c.answer
    ]
    leaky = leaks_of("leaky", Recipe(epochs=10, batch_size=8, top_layers=0.3), told * 8, canaries[:2])
    assert leaky.leaks
    assert leaky.bits > 4
    # Six canaries, three times what is ever planted among so many, so that their mean says something.
    with_them = [filled(n) for n in range(40)] + [example for example, _ in planted]
    modest = leaks_of("modest", Recipe(epochs=1, top_layers=0.3), with_them, canaries)
    assert not modest.leaks
    assert modest.extracted == 0
    assert modest.bits < MOST_EXPOSURE < leaky.bits


def request_of(canary: Canary) -> str:
    return str(canary.prefix).splitlines()[-1]


def test_what_is_planted_is_in_no_other_example() -> None:
    planted = plant(fill.contract, [filled(n) for n in range(30)], 20, True, random.Random(5))
    secrets = [canary.secret for _, canary in planted]
    assert len(set(secrets)) == 20
    for example, canary in planted:
        others = [secret for secret in secrets if secret != canary.secret]
        assert not any(secret in compact_json(example.input) for secret in others)
