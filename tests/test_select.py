"""Which models may be a base, what is published of them, and the commands that show it."""

import re
from pathlib import Path
from typing import Any

import pytest

from hetero_agents.bindings import Score, Workspace
from hetero_agents.bindings.config import SelectionConfig
from hetero_agents.distill import select
from hetero_agents.distill.select import Round, allowed
from hetero_agents.engines.catalog import catalog
from hetero_agents.engines.families import known_models
from hetero_agents.engines.probe import Probe
from hetero_agents.errors import ConfigError
from hetero_agents.report import write_bake_off
from hetero_agents.slots import App
from tests.support import write_workspace

TOML = """
[models]
big = "openai:gpt-5.2"
small = "local:smollm2-135m-instruct"
own = "local:own.gguf"
{rules}
"""


def app_of(root: Path, rules: str = "") -> App:
    (root / "own.gguf").write_bytes(b"GGUF")
    return App.of(Workspace(write_workspace(root, TOML.format(rules=rules))))


PROBE = Probe("m", 4096, 1.0, 0.6, 0.1, 80.0, 500.0, 8000.0, 2, "x", "2026-01-01T00:00:00+00:00")


def test_without_rules_every_model_that_can_be_trained_is_a_candidate(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    assert allowed(app) == (["small", "own"], {})
    app.close()


def test_a_candidate_that_cannot_be_trained_is_an_error_where_it_was_named(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    with pytest.raises(ConfigError, match="cannot be trained"):
        allowed(app, ["big"])
    app.close()


def test_what_a_rule_asks_for_and_nobody_knows_counts_against_a_model(tmp_path: Path) -> None:
    app = app_of(tmp_path, '[selection]\nlicences = ["Apache-2.0"]\nlanguages = ["en"]')
    names, refused = allowed(app)
    assert names == ["small"]
    assert refused == {"own": "its licence is not known, and [selection] licences names Apache-2.0"}
    app.close()


@pytest.mark.parametrize(
    ("rules", "measured", "reason"),
    [
        ({"languages": ["fr"]}, None, "not known to speak fr"),
        ({"memory_mb": 100}, None, "hetero models probe smollm2-135m-instruct"),
        ({"memory_mb": 100}, PROBE, "takes 500 MB"),
        ({"first_token_seconds": 0.5}, PROBE, "first token takes 0.60 s"),
        ({"tokens_a_second": 100}, PROBE, "writes 80 tokens/s"),
        ({"memory_mb": 600, "tokens_a_second": 50, "first_token_seconds": 1}, PROBE, None),
    ],
)
def test_rules_are_held_against_what_was_measured_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, Any], measured: Probe | None, reason: str | None
) -> None:
    def probed(name: str) -> Probe | None:
        return measured

    monkeypatch.setattr(select, "probed", probed)
    app = app_of(tmp_path)
    config = app.workspace.config.model_copy(update={"selection": SelectionConfig(**rules)})
    monkeypatch.setattr(type(app.workspace), "config", property(lambda self: config))
    names, refused = allowed(app, ["small"])
    app.close()
    if reason is None:
        assert names == ["small"]
    else:
        assert names == []
        assert reason in refused["small"]


def test_the_catalog_has_a_source_for_every_figure() -> None:
    models = known_models()
    writing = {name for name, weights in catalog().items() if not weights.embeds}
    assert writing <= set(models), "what can be fetched is described"
    for name, model in models.items():
        assert model.figures.startswith("https://"), name
        assert model.parameters > 10**7, name
        assert model.context >= 512, name
        assert (
            not model.weights_gb or model.weights_source == "computed" or model.weights_source.startswith("https://")
        ), name
        assert all(s.source.startswith("https://") and 0 < s.score <= 100 for s in model.scores), name
        assert model.source.startswith("hf:") or model.not_served, name
        assert model.llama_cpp or model.lora or model.not_served, name
        for precision, gigabytes in model.weights_gb.items():
            bits = gigabytes * 8e9 / model.parameters
            assert 3 < bits < 20, (name, precision, "a size that cannot be")


def test_families_of_the_paper_are_there() -> None:
    families = {model.family for model in known_models().values()}
    wanted = [
        "Phi",
        "Nemotron-H",
        "SmolLM2",
        "Hymba",
        "DeepSeek-R1-Distill",
        "RETRO",
        "xLAM",
        "Qwen",
        "Llama",
        "Gemma",
        "Granite",
    ]
    assert [name for name in wanted if not any(name in family for family in families)] == []


def test_models_are_listed_and_shown_with_their_sources(hetero: Any) -> None:
    published = hetero("models", "list", "--json").json["published"]
    shown = hetero("models", "show", "local:smollm2-135m-instruct", "--json").json
    assert {key: shown[key] for key in ("parameters", "licence")} == {
        key: published["smollm2-135m-instruct"][key] for key in ("parameters", "licence")
    }
    assert "https://" in hetero("models", "show", "smollm2-135m-instruct").out
    wrong = hetero("models", "show", "smollm2-135m")
    assert wrong.code == 2
    assert "did you mean" in wrong.err


def test_a_bake_off_is_drawn(tmp_path: Path) -> None:
    def entry(name: str, share: float, seconds: float, trained: float = 0.0) -> dict[str, Any]:
        score = Score(score=share, low=share - 0.1, high=share + 0.05, n=40)
        return Round(name, "0.4 epochs" if trained else "five examples", score, seconds, 0.2, trained, True).to_json()

    rounds = [entry("small", 0.4, 0.4), entry("<b>large", 0.5, 0.9), entry("small", 0.8, 0.1, 30.0)]
    path = tmp_path / "bake-off.html"
    write_bake_off(path, "desk.choose", rounds, "small was right for 0.8.")
    page = path.read_text()
    assert page.count("<svg") == 1
    assert "small was right for 0.8." in page
    assert "<b>large" not in page, "a name is text"
    assert not re.search(r"https?://(?!www\.w3\.org)", page), "it names no address outside"
