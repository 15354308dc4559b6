# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""Step S5: LoRA on a base, on a CPU or a GPU, with checkpoints.

The loss is on the answer alone. Inputs are what the engine will be sent, through the base's own chat
template or, baked, without one, and answers have the exact form that the grammar lets through. A fixed seed repeats on the
same machine; an interrupted run goes on from its last checkpoint to the same result.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import ModelMessage, ModelRequest, TextPart, UserPromptPart

from ..contract import Contract
from ..engines.catalog import Weights, verified_sha256
from ..engines.served import fetch_served
from ..errors import DistillError, MissingExtraError
from .lower import LowerLayers
from .recipe import Recipe
from .rows import Examples, Row, Sample, attends_only, micro_batches, model_inputs, padded_length

if TYPE_CHECKING:
    import torch

TOKENS_AT_ONCE = {"cpu": 768, "cuda": 16384}
"""Tokens in one forward pass; on a processor more are no faster."""

Progress = Callable[[int, int], None]
"""Called with the batches done and all batches."""

KEPT_BYTES = 2**31
"""Memory for what the lower layers gave; work that would need more asks them again in each epoch."""

Text = tuple[list[dict[str, str]] | str, str]
"""A call as a chat (`chat_of`), or as the whole prompt where the specialist is baked, and the answer's text."""


@dataclass(frozen=True)
class Job:
    """What a training is given.

    Attributes:
        weights: the base.
        texts: calls and answers.
        recipe: how.
        folder: where the checkpoint and the adapter go; a checkpoint found there is continued.
        checkpoint_seconds: time between checkpoints.
    """

    weights: Weights
    texts: Sequence[Text]
    recipe: Recipe
    folder: Path
    checkpoint_seconds: float = 30.0


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


def train_lora(job: Job, progress: Progress) -> Trained:
    """Train an adapter and write it to `adapter` in the job's folder (PEFT's form).

    Args:
        job: what to train on what.
        progress: called after each batch; what it raises stops the training, which then goes on from there.

    Raises:
        DistillError: no example fits `max_length`, the base has no chat template and one is needed, or the loss is not
            a number any more.
        MissingExtraError: torch, transformers or peft are not installed.
    """
    try:
        import torch
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise MissingExtraError("Training", "distill") from error
    recipe, folder = job.recipe, job.folder
    model, tokenizer = load_base(job.weights)
    samples = [_sample(tokenizer, job.weights, call, answer) for call, answer in job.texts]
    fitting = [sample for sample in samples if len(sample) <= recipe.max_length]
    if not fitting:
        raise DistillError(
            f"No example fits into {recipe.max_length} tokens; the shortest has {min(map(len, samples))}."
        )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    at_once = TOKENS_AT_ONCE[device]
    if device == "cpu" and max(map(len, fitting)) <= at_once:
        model.set_attn_implementation("eager")  # a tenth faster than sdpa there, while the matrices are small

    torch.manual_seed(recipe.seed)
    layers: int = model.config.num_hidden_layers
    lowest = layers - max(1, round(layers * recipe.top_layers))
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        use_rslora=recipe.use_rslora,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(lowest, layers)),
        task_type="CAUSAL_LM",
    )
    mixed = _computes_bf16(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in a way that ends with version 6
        tuned: Any = get_peft_model(model.to(device), config).train()
    if mixed:
        _keep_in_bf16(tuned)
    states_bytes = sum(map(len, fitting)) * model.config.hidden_size * 4
    examples = Examples(fitting, share=attends_only(model))
    lower = None
    if lowest and recipe.epochs > 1 and states_bytes <= KEPT_BYTES:
        lower = LowerLayers(model, lowest, examples.rows(range(len(fitting))))
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    batches = examples.batches(recipe.batch_size, recipe.epochs, recipe.seed)
    # One divisor for all batches, so that every token weighs the same: by its own tokens, a batch of short answers
    # would outweigh one of long answers, and the choice between the two, an empty list or names, would be skewed.
    divisor = recipe.batch_size * sum(len(sample.answer) for sample in fitting) / len(fitting)
    done, spent, losses, recent = 0, 0.0, list[tuple[int, float]](), list[tuple[float, int]]()
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        set_peft_model_state_dict(tuned, state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent = state["done"], state["seconds"]
        recent = [(float(total), int(count)) for total, count in state["recent"]]
        losses = [(int(n), float(x)) for n, x in state["losses"]]

    started = saved = time.monotonic()

    def save(done: int) -> None:
        state = {"optimizer": optimizer.state_dict(), "done": done, "losses": losses, "recent": recent}
        state |= {"adapter": get_peft_model_state_dict(tuned), "seconds": spent + time.monotonic() - started}
        _save_whole(state, checkpoint)

    for number, batch in enumerate(batches[done:], done):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (number + 1) / 8) * max(0.02, 1 - number / len(batches))
        answer_tokens, loss = sum(len(fitting[i].answer) for i in batch), torch.zeros((), device=device)
        for part in micro_batches(examples.rows(batch), at_once):
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                share = _loss_sum(tuned, lower, part, tokenizer.pad_token_id, device)
            (share / divisor).backward()
            loss += share.detach()
        if not loss.isfinite():
            checkpoint.unlink(missing_ok=True)  # its weights are on the way there
            raise _not_a_number(number + 1, len(batches), recipe)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append((loss.item(), answer_tokens))
        if len(recent) == 5 or number == len(batches) - 1:
            sums, counts = zip(*recent, strict=True)
            losses.append((sum(map(len, batches[: number + 1])), sum(sums) / sum(counts)))
            recent.clear()
        if time.monotonic() - saved > job.checkpoint_seconds:
            save(number + 1)
            saved = time.monotonic()
        try:
            progress(number + 1, len(batches))
        except BaseException:  # the caller stops the training here: nothing of it is lost
            save(number + 1)
            raise
    if not all(parameter.isfinite().all() for parameter in parameters):
        checkpoint.unlink(missing_ok=True)
        raise _not_a_number(len(batches), len(batches), recipe)
    tuned.save_pretrained(folder / "adapter")
    return Trained(
        examples=len({i for batch in batches for i in batch}),
        seconds=spent + time.monotonic() - started,
        losses=losses,
        longest_answer=max(len(sample.answer) for sample in fitting),
        left_out=len(samples) - len(fitting),
    )


def _not_a_number(done: int, total: int, recipe: Recipe) -> DistillError:
    return DistillError(
        f"The loss is not a number after {done} of {total} batches; lower learning_rate, which is {recipe.learning_rate:g}."
    )


def load_base(weights: Weights) -> tuple[Any, Any]:
    """Return (model in fp32, tokenizer) of a base in transformers, read once from the GGUF that is served, kept as safetensors beside it.

    fp32: what is trained beside it is small, and products are taken in bf16 where that is faster.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

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
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model, load_tokenizer(folder)


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


def call_text(contract: Contract, arguments: Mapping[str, Any], baked: bool) -> list[dict[str, str]] | str:
    """Return what a specialist is sent for a call: a chat, or the whole prompt where it is baked."""
    return contract.baked_text(arguments) if baked else chat_of(contract.messages(arguments))


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


def prompt_tokens(tokenizer: Any, call: list[dict[str, str]] | str) -> list[int]:
    """Return the tokens of a call as the engine makes them: a chat through the base's template, a baked prompt as it is.

    Raises:
        DistillError: a chat, and the base has no chat template.
    """
    if isinstance(call, str):
        return tokenizer(call).input_ids
    if tokenizer.chat_template is None:
        raise DistillError(
            "The base has no chat template, so nobody can say how it is spoken to; take an instruct model."
        )
    prompt = tokenizer.apply_chat_template(call, tokenize=False, add_generation_prompt=True)
    return tokenizer(prompt, add_special_tokens=False).input_ids


def _sample(tokenizer: Any, weights: Weights, call: list[dict[str, str]] | str, answer: str) -> Sample:
    end = weights.end_of_turn or tokenizer.eos_token
    return Sample(prompt_tokens(tokenizer, call), tokenizer(answer + end, add_special_tokens=False).input_ids)


def _loss_sum(model: Any, lower: LowerLayers | None, rows: Sequence[Row], pad: int, device: str) -> torch.Tensor:
    """Summed cross-entropy of the answers' tokens; only their logits are computed."""
    import torch

    length = padded_length(rows)
    labels = torch.tensor([[*[-100] * (length - len(row)), *row.labels] for row in rows], device=device)
    # The same places are kept of all rows: single examples end with their answers, so these are few.
    kept = (labels != -100).any(0).nonzero()[:, 0]
    labels = labels[:, kept]
    if lower:
        lower.give(rows)
    logits = model(**model_inputs(rows, pad, device), logits_to_keep=kept, use_cache=False).logits
    asked = labels != -100
    return torch.nn.functional.cross_entropy(logits[asked].float(), labels[asked], reduction="sum")


def _computes_bf16(device: str) -> bool:
    """Whether the processor multiplies bf16 itself: mixed precision is then 1.5 times as fast, and elsewhere slower."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not say
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _keep_in_bf16(model: Any) -> None:
    """Keep frozen matrices as autocast would cast them at each pass; the embeddings stay, the residual stream's type follows them."""
    import torch

    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.ndim == 2 and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    # Where the output matrix is the embeddings too, it gets a copy.
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().to(torch.bfloat16), requires_grad=False)


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
