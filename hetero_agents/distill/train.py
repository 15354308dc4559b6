# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""Step S5: LoRA on a base, on a CPU or a GPU, with checkpoints.

The loss is on the answer alone. Inputs are what the engine will be sent, through the base's own chat
template, and answers have the exact form that the grammar lets through. A fixed seed repeats on the
same machine; an interrupted run goes on from its last checkpoint to the same result.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import ModelMessage, ModelRequest, TextPart, UserPromptPart

from ..contract import Sha256, sha256_of
from ..engines.catalog import Weights, fetch_weights
from ..errors import DistillError, MissingExtraError

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = 30.0

TOKENS_AT_ONCE = {"cpu": 768, "cuda": 16384}
"""Tokens in one forward pass; on a processor more are no faster."""

Progress = Callable[[int, int], None]
"""Called with the batches done and all batches."""

Text = tuple[list[dict[str, str]], str]
"""A call as a chat (`chat_of`) and the answer's text."""

Sample = tuple[list[int], list[int]]
"""The tokens of a prompt and of its answer."""


@dataclass(frozen=True)
class Recipe:
    """How a specialist is trained. Names are PEFT's where it has one."""

    r: int = 16
    lora_alpha: int = 32
    learning_rate: float = 1e-3
    batch_size: int = 8
    epochs: float = 1.5
    top_layers: float = 0.5
    """Share of the layers, from the top, that get an adapter: the backward pass ends at the lowest of them."""
    max_length: int = 512
    """Tokens of prompt and answer; longer examples are left out."""
    seed: int = 0

    @property
    def sha256(self) -> Sha256:
        """Hash of the recipe."""
        return sha256_of(asdict(self))


@dataclass(frozen=True)
class Trained:
    """What training gave besides the adapter's files."""

    examples: int
    """Different examples seen at least once."""
    seconds: float
    losses: list[tuple[int, float]]
    """(examples so far, mean loss a token of the batches since the last entry)."""
    longest_answer: int
    """Tokens of the longest answer, its end included."""
    left_out: int
    """Examples longer than `max_length`."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trained:
        """Return what `asdict` gave, after a trip through JSON."""
        fields: dict[str, Any] = {**values, "losses": [(int(n), float(loss)) for n, loss in values["losses"]]}
        return cls(**fields)


def train_lora(
    weights: Weights,
    texts: Sequence[Text],
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Trained:
    """Train an adapter and write it to `folder/adapter` (PEFT's form).

    Args:
        weights: the base.
        texts: calls and answers.
        recipe: how.
        folder: where the checkpoint and the adapter go; a checkpoint found there is continued.
        progress: called after each batch; what it raises stops the training, which then goes on from there.
        checkpoint_seconds: time between checkpoints.

    Raises:
        DistillError: no example fits `max_length`.
        MissingExtraError: torch, transformers or peft are not installed.
    """
    try:
        import torch
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise MissingExtraError("Training", "distill") from error
    model, tokenizer = load_base(weights)
    samples = [_tokens(tokenizer, weights, chat, answer) for chat, answer in texts]
    fitting = [s for s in samples if len(s[0]) + len(s[1]) <= recipe.max_length]
    if not fitting:
        raise DistillError(
            f"No example fits into {recipe.max_length} tokens; the shortest has {min(len(p) + len(a) for p, a in samples)}."
        )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    at_once = TOKENS_AT_ONCE[device]
    if device == "cpu" and max(len(p) + len(a) for p, a in fitting) <= at_once:
        model.set_attn_implementation("eager")  # a tenth faster than sdpa there, while the matrices are small

    torch.manual_seed(recipe.seed)
    layers: int = model.config.num_hidden_layers
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(layers - max(1, round(layers * recipe.top_layers)), layers)),
        task_type="CAUSAL_LM",
    )
    mixed = _computes_bf16(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in a way that ends with version 6
        tuned: Any = get_peft_model(model, config).to(device).train()
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    batches = list(_batches([len(p) + len(a) for p, a in fitting], recipe))
    done, spent, losses, recent = 0, 0.0, list[tuple[int, float]](), list[float]()
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        set_peft_model_state_dict(tuned, state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent, recent = state["done"], state["seconds"], state["recent"]
        losses = [(int(n), float(x)) for n, x in state["losses"]]

    started = saved = time.monotonic()

    def save(done: int) -> None:
        state = {"optimizer": optimizer.state_dict(), "done": done, "losses": losses, "recent": recent}
        state |= {"adapter": get_peft_model_state_dict(tuned), "seconds": spent + time.monotonic() - started}
        _save_whole(state, checkpoint)

    for number, batch in enumerate(batches[done:], done):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (number + 1) / 8) * max(0.02, 1 - number / len(batches))
        answer_tokens, loss = sum(len(fitting[i][1]) for i in batch), torch.zeros((), device=device)
        for part in _micro_batches([fitting[i] for i in batch], at_once):
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                share = _loss_sum(tuned, part, tokenizer.pad_token_id, device) / answer_tokens
            share.backward()
            loss += share.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if len(recent) == 5 or number == len(batches) - 1:
            losses.append((sum(map(len, batches[: number + 1])), sum(recent) / len(recent)))
            recent.clear()
        if time.monotonic() - saved > checkpoint_seconds:
            save(number + 1)
            saved = time.monotonic()
        try:
            progress(number + 1, len(batches))
        except BaseException:  # the caller stops the training here: nothing of it is lost
            save(number + 1)
            raise
    tuned.save_pretrained(folder / "adapter")
    return Trained(
        examples=len({i for batch in batches for i in batch}),
        seconds=spent + time.monotonic() - started,
        losses=losses,
        longest_answer=max(len(answer) for _, answer in samples),
        left_out=len(samples) - len(fitting),
    )


def load_base(weights: Weights) -> tuple[Any, Any]:
    """Return (model in fp32, tokenizer) of a base in transformers, read from its GGUF once and kept as safetensors.

    fp32: what is trained beside it is small, and products are taken in bf16 where that is faster.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = fetch_weights(weights)
    folder = gguf.with_name(f"{gguf.stem}-safetensors")
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
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model, load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a saved base, padding on the left."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chat_of(messages: Sequence[ModelMessage]) -> list[dict[str, str]]:
    """Return messages as the chat that an OpenAI-compatible endpoint gets: texts only.

    Raises:
        DistillError: a message holds something else than text.
    """
    chat: list[dict[str, str]] = []
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


def _tokens(tokenizer: Any, weights: Weights, chat: list[dict[str, str]], answer: str) -> Sample:
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    end = weights.end_of_turn or tokenizer.eos_token
    encode: Callable[[str], list[int]] = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    return encode(prompt), encode(answer + end)


def _batches(lengths: Sequence[int], recipe: Recipe) -> Iterator[list[int]]:
    """Batches of like length, in a random order that the seed fixes; a part of an epoch is a random part."""
    whole = math.ceil(len(lengths) / recipe.batch_size)
    left = max(1, round(whole * recipe.epochs))
    epoch = 0
    while left > 0:
        dice = random.Random(f"{recipe.seed} {epoch}")
        order = sorted(range(len(lengths)), key=lambda i: lengths[i] + dice.random() * 12)
        batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
        dice.shuffle(batches)
        yield from batches[:left]
        left -= whole
        epoch += 1


def _micro_batches(samples: Sequence[Sample], at_once: int) -> Iterator[list[Sample]]:
    """A batch in parts of at most so many tokens, padding counted: memory stays bounded, gradients are the same."""
    part: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: len(sample[0]) + len(sample[1])):
        longest = len(sample[0]) + len(sample[1])
        if part and longest * (len(part) + 1) > at_once:
            yield part
            part = []
        part.append(sample)
    yield part


def _loss_sum(model: Any, samples: Sequence[Sample], pad: int, device: str) -> torch.Tensor:
    """Summed cross-entropy of the answers' tokens; only their logits are computed."""
    import torch

    length, kept = max(len(p) + len(a) for p, a in samples), max(len(a) for _, a in samples)
    ids = torch.full((len(samples), length), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(samples), kept), -100)
    for row, (prompt, answer) in enumerate(samples):
        ids[row, length - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
        mask[row, length - len(prompt) - len(answer) :] = 1
        labels[row, kept - len(answer) :] = torch.tensor(answer)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        logits_to_keep=kept + 1,
    )
    logits = output.logits[:, :-1].float()
    flat = logits.reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels.to(device).reshape(-1), reduction="sum")


def _computes_bf16(device: str) -> bool:
    """Whether the processor multiplies bf16 itself: mixed precision is then 1.5 times as fast, and elsewhere slower."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not say
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _save_whole(state: dict[str, Any], path: Path) -> None:
    import torch

    part = path.with_name(f".{path.name}.part")
    torch.save(state, part)
    os.replace(part, path)


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
