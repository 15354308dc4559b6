# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""A base in transformers, and calls as the tokens that its engine makes of them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest, TextPart, UserPromptPart

from ..contract import Contract
from ..engines.catalog import Weights, verified_sha256
from ..engines.served import fetch_served
from ..errors import DistillError, MissingExtraError
from .rows import Sample

Chat = list[dict[str, str]]
"""A call as the messages that an OpenAI-compatible endpoint gets."""

Text = tuple[Chat | str, str]
"""A call as a chat (`chat_of`), or as the whole prompt where the specialist is baked, and the answer's text."""


def torch_device() -> str:
    """Return where torch computes: a GPU if it sees one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def computes_bf16(where: str) -> bool:
    """Return whether a device multiplies bf16 itself: mixed precision is then 1.5 times as fast, and elsewhere slower."""
    import torch

    if where == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not say
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def load_base(weights: Weights, *, load_in_4bit: bool = False) -> tuple[Any, Any]:
    """Return (model in fp32, tokenizer) of a base in transformers, read once from the GGUF that is served, kept as safetensors beside it.

    fp32: what is trained beside it is small, and products are taken in bf16 where that is faster.

    Args:
        weights: the base.
        load_in_4bit: its layers' matrices in NF4 with their scales quantised too, on `torch_device()` (QLoRA, Dettmers et al. 2023).

    Raises:
        MissingExtraError: 4 bits, and bitsandbytes is not installed.
        DistillError: 4 bits, and bitsandbytes cannot do that on this machine.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if load_in_4bit:
        _check_4bit(torch_device())
    gguf = fetch_served(weights)
    folder = safetensors_folder(gguf)
    with _quiet_transformers():
        if not (folder / "config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            # transformers refuses to save what it believes to be quantised; these weights are plain fp32 now.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            part = folder.with_name(f".{folder.name}.part")
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            os.replace(part, folder)
            del model  # else it is in memory twice
        how: dict[str, Any] = _in_4bit() if load_in_4bit else {}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **how)
        return model, load_tokenizer(folder)


def _check_4bit(where: str) -> None:
    """Quantise a small matrix: what fails later is the base's or the memory's fault, not that of bitsandbytes.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        DistillError: it has nothing for this machine.
    """
    import torch

    if not importlib.util.find_spec("bitsandbytes"):
        raise MissingExtraError("load_in_4bit", "qlora")
    matrix = torch.zeros(64, 64, device=where)
    try:
        with _quiet_transformers():  # what bitsandbytes misses it also logs
            from bitsandbytes import functional

            functional.quantize_4bit(matrix, quant_type="nf4")
    except Exception as error:  # what a library raises that was built for other machines, nobody says
        lines = (line.strip() for line in str(error).splitlines())
        why = next(filter(None, lines), type(error).__name__)
        raise DistillError(
            f"bitsandbytes cannot hold a base in 4 bits on this machine ({why}); leave load_in_4bit out."
        ) from error


def _in_4bit() -> dict[str, Any]:
    """The arguments of transformers that quantise each matrix as it is read."""
    import torch
    from transformers import BitsAndBytesConfig

    where = torch_device()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if computes_bf16(where) else torch.float32,
    )
    return {"quantization_config": config, "device_map": {"": where}}


def safetensors_folder(gguf: Path) -> Path:
    """Return where `load_base` keeps the base of a GGUF file; another file of that name gets another folder."""
    return gguf.with_name(f"{gguf.stem}-{verified_sha256(gguf)[:8]}-safetensors")


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a saved base, padding on the left."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def call_text(contract: Contract, arguments: Mapping[str, Any], baked: bool) -> Chat | str:
    """Return what a specialist is sent for a call: a chat, or the whole prompt where it is baked."""
    return contract.baked_text(arguments) if baked else chat_of(contract.messages(arguments))


def chat_of(messages: Sequence[ModelMessage]) -> Chat:
    """Return messages as the chat that an OpenAI-compatible endpoint gets: texts only.

    Raises:
        DistillError: a message holds something else than text.
    """
    chat: Chat = []
    last = messages[-1]
    if isinstance(last, ModelRequest) and last.instructions:
        chat.append({"role": "system", "content": last.instructions})
    for message in messages:
        for part in message.parts:
            if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                chat.append({"role": "user", "content": part.content})
            elif isinstance(part, TextPart):
                chat.append({"role": "assistant", "content": part.content})
            else:
                raise DistillError(f"A call holds a {part.part_kind!r} part; specialists are trained on text only.")
    return chat


def prompt_tokens(tokenizer: Any, call: Chat | str) -> list[int]:
    """Return the tokens of a call as the engine makes them: a chat through the base's template, a baked prompt as it is.

    Raises:
        DistillError: a chat, and the base has no chat template.
    """
    return tokenizer(prompt_text(tokenizer, call), add_special_tokens=isinstance(call, str)).input_ids


def prompt_text(tokenizer: Any, call: Chat | str) -> str:
    """Return a call as the text that the engine reads.

    Raises:
        DistillError: a chat, and the base has no chat template.
    """
    if isinstance(call, str):
        return call
    if tokenizer.chat_template is None:
        raise DistillError(
            "The base has no chat template, so nobody can say how it is spoken to; take an instruct model."
        )
    return tokenizer.apply_chat_template(call, tokenize=False, add_generation_prompt=True)


def sample_of(tokenizer: Any, weights: Weights, call: Chat | str, answer: str) -> Sample:
    """Return a call and its answer as tokens, the end of the turn included."""
    end = weights.end_of_turn or tokenizer.eos_token
    return Sample(prompt_tokens(tokenizer, call), tokenizer(answer + end, add_special_tokens=False).input_ids)


@contextmanager
def _quiet_transformers() -> Generator[None]:
    """Without transformers' progress bars, reports and warnings, which break our own bar, and without a look at the hub."""
    import transformers

    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        # The bar of the GGUF reader is tqdm's own and knows no switch.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
