"""The recipe file: what it may say, and what is said of a wrong one."""

from pathlib import Path

import pytest

from hetero_agents import ConfigError
from hetero_agents.distill import Recipe

from .support import Hetero


def recipe(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "recipe.toml").write_text(text)
    return Recipe.load(tmp_path / "recipe.toml")


def test_what_a_recipe_does_not_say_is_as_by_default(tmp_path: Path) -> None:
    assert recipe(tmp_path, "") == Recipe()
    assert recipe(tmp_path, "epochs = 2\nuse_rslora = true\nr = 64\n") == Recipe(epochs=2.0, use_rslora=True, r=64)


def test_an_adapter_on_a_larger_base_learns_at_a_lower_rate_where_the_recipe_names_none() -> None:
    rates = [Recipe().rate(parameters) for parameters in (135_000_000, 494_000_000)]
    assert rates == [1e-3, 3e-4]
    assert Recipe(method="full").rate(494_000_000) == 1e-4
    assert Recipe(learning_rate=2e-3).rate(494_000_000) == 2e-3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch = 2", "the key 'epoch' does not exist, did you mean 'epochs'."),
        ("epochs = 0", "is wrong at 'epochs': input should be greater than 0 (it is 0)."),
        ("top_layers = 1.5", "is wrong at 'top_layers': input should be less than or equal to 1 (it is 1.5)."),
        ('bake = "perhaps"', "is wrong at 'bake'"),
        ("epochs == 2", "is not TOML"),
        ("epochs = inf", "is wrong at 'epochs': input should be a finite number"),
        ("r = true", "is wrong at 'r'"),
        ("load_in_4bit = true\nuse_dora = true", "cannot be: load_in_4bit goes with adapters: a whole model"),
        ('load_in_4bit = true\nmethod = "full"', "cannot be: load_in_4bit goes with adapters: a whole model"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_with_the_place(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        recipe(tmp_path, text)
    assert sentence in str(raised.value)


def test_the_command_line_says_it_before_anything_is_read(hetero: Hetero, tmp_path: Path) -> None:
    assert hetero("distill", "desk.choose", "--recipe", "none.toml").sentence.startswith(
        "The recipe none.toml cannot be read: No such file"
    )
    assert hetero("distill", "desk.choose", "--epochs", "inf").sentence.startswith("The recipe is wrong at 'epochs'")
    (tmp_path / "recipe.toml").write_text("rank = 8")
    assert "the key 'rank' does not exist" in hetero("distill", "desk.choose", "--recipe", "recipe.toml").sentence
