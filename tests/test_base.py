"""How a base comes into transformers; with scripted parts, as the real small model has its own tests."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hetero_agents import DistillError
from hetero_agents.distill.base import load_base
from hetero_agents.engines.catalog import find_weights
from hetero_agents.errors import MissingExtraError

WEIGHTS = find_weights("smollm2-135m-instruct")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a base would be kept that was read before."""

    def fetched(weights: object) -> Path:
        return tmp_path / "base.gguf"

    def kept(gguf: object) -> Path:
        return tmp_path / "kept"

    monkeypatch.setattr("hetero_agents.distill.base.fetch_served", fetched)
    monkeypatch.setattr("hetero_agents.distill.base.safetensors_folder", kept)
    return tmp_path / "kept"


def test_4_bits_without_bitsandbytes_name_the_extra_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"load_in_4bit needs .* 'hetero_agents\[qlora\]'"):
        load_base(WEIGHTS, load_in_4bit=True)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            RuntimeError("None of the available devices are supported.\nMore of it."),
            "None of the available devices are",
        ),
        (RuntimeError("\n  \n  no kernel here"), "no kernel here"),
        (RuntimeError(), "RuntimeError"),
        (OSError("libcudart.so: cannot open"), "libcudart.so: cannot open"),
    ],
)
def test_4_bits_that_this_machine_cannot_do_are_said_in_a_sentence_before_anything_is_read(
    error: Exception, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes import functional  # pyright: ignore[reportMissingTypeStubs]

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(functional, "quantize_4bit", refuse)
    with pytest.raises(DistillError, match=rf"4 bits on this machine \({why}.*\); leave load_in_4bit out\.$"):
        load_base(WEIGHTS, load_in_4bit=True)


def test_a_base_that_cannot_be_read_is_not_blamed_on_bitsandbytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def damaged(*arguments: object, **options: object) -> None:
        raise RuntimeError("damaged")

    folder.mkdir()
    (folder / "config.json").touch()
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", damaged)
    with pytest.raises(RuntimeError, match="damaged"):
        load_base(WEIGHTS, load_in_4bit=True)


class Model:
    """A model as far as it is read and saved."""

    config = SimpleNamespace()

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").touch()


def test_a_base_is_in_memory_once_also_at_its_first_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    read: list[weakref.ref[Model]] = []

    def load(*arguments: object, **options: Any) -> Model:
        assert [one() for one in read if one() is not None] == []
        model = Model()
        read.append(weakref.ref(model))
        return model

    def tokenizer(*arguments: object, **options: object) -> Any:
        return SimpleNamespace(save_pretrained=lambda folder: None, pad_token_id=0)  # pyright: ignore[reportUnknownLambdaType]

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", tokenizer)
    model, _ = load_base(WEIGHTS)
    assert [one() for one in read] == [None, model]
    assert (folder / "config.json").is_file()
