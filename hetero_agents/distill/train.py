# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateImportUsage=false
"""Step S5: a base is trained for one slot, by LoRA, QLoRA, DoRA or whole, on a CPU or a GPU, with checkpoints.

The loss is on the answer alone. Inputs are what the engine will be sent, through the base's own chat
template or, baked, without one, and answers have the exact form that the grammar lets through. A fixed seed repeats on the
same machine; an interrupted run goes on from its last checkpoint to the same result.
"""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.adapter import CHANGED
from ..engines.catalog import Weights
from ..errors import DistillError, MissingExtraError
from .base import Chat, Text, computes_bf16, load_base, sample_of, torch_device
from .lower import LowerLayers
from .recipe import Recipe
from .rows import Examples, Row, attends_only, micro_batches, model_inputs, padded_length
from .teacher import TEACHER, Teacher, ask_teacher

if TYPE_CHECKING:
    import torch

    from ..engines.vllm import VllmServer

TOKENS_AT_ONCE = {"cpu": 768, "cuda": 16384}
"""Tokens in one forward pass; on a processor more are no faster."""

Progress = Callable[[int, int], None]
"""Called with the batches done and all batches."""

KEPT_BYTES = 2**31
"""Memory for what the lower layers gave; work that would need more asks them again in each batch."""

WORTH_KEEPING = 0.9
"""Share of the tokens that all batches would take through the lower layers below which what these give is kept."""

LOOKS_AN_EPOCH = 2
"""How often the select part is looked at."""

FEWEST_LOOKED_AT = 8
"""Examples of the select part below which its loss decides nothing."""

WARM_UP = 8
"""Batches until the learning rate is whole."""


@dataclass(frozen=True)
class Job:
    """What a training is given.

    Attributes:
        weights: the base.
        texts: calls and answers.
        recipe: how.
        folder: where the checkpoint and the adapter go; a checkpoint found there is continued.
        select: calls and answers that say when it is enough; they are not trained on.
        teacher: whose token probabilities are learnt too.
        chats: the calls of `texts` as the teacher reads them.
        forms: how many forms of each example `texts` holds, all in the first form and then all in the next; an epoch learns one form of each.
        checkpoint_seconds: time between checkpoints.
    """

    weights: Weights
    texts: Sequence[Text]
    recipe: Recipe
    folder: Path
    select: Sequence[Text] = ()
    teacher: Weights | VllmServer | None = None
    chats: Sequence[Chat] = ()
    forms: int = 1
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
    looks: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """(examples so far, mean loss a token of the select part) of each look; the result is that of the lowest."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trained:
        """Return what `asdict` gave, after a trip through JSON."""
        curves = {key: [(int(n), float(loss)) for n, loss in values.get(key, ())] for key in ("losses", "looks")}
        fields: dict[str, Any] = {**values, **curves}
        return cls(**fields)


def train(job: Job, progress: Progress) -> Trained:
    """Train and write the result to `adapter` in the job's folder: PEFT's form, or the changed matrices (`CHANGED`).

    Args:
        job: what to train on what.
        progress: called after each batch; what it raises stops the training, which then goes on from there.

    Raises:
        DistillError: no example fits `max_length`, the base has no chat template and one is needed, or the loss is not
            a number any more.
        MissingExtraError: torch, transformers or peft are not installed, or bitsandbytes where the recipe asks for 4 bits.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft")):
        raise MissingExtraError("Training", "distill")
    return _Training(job).run(progress)


class _Training:
    """One training: the model, its examples, and how far it is."""

    def __init__(self, job: Job) -> None:
        import torch

        self.started = time.monotonic()
        recipe, folder = job.recipe, job.folder
        self.recipe, self.folder, self.checkpoint_seconds = recipe, folder, job.checkpoint_seconds
        self.base = job.weights.name
        self.device = torch_device()
        model, tokenizer = load_base(job.weights, load_in_4bit=recipe.load_in_4bit)
        self.pad: int = tokenizer.pad_token_id
        samples, held = (
            [sample_of(tokenizer, job.weights, call, answer) for call, answer in texts]
            for texts in (job.texts, job.select)
        )
        each = len(samples) // job.forms
        fits = [all(len(form) <= recipe.max_length for form in samples[i::each]) for i in range(each)] * job.forms
        self.fitting = list(compress(samples, fits))
        self.fitting_each = len(self.fitting) // job.forms
        taught = {tuple(sample.tokens) for sample in self.fitting[: self.fitting_each]}
        self.left_out = len({tuple(sample.tokens) for sample in samples[:each]}) - len(taught)
        if not self.fitting:
            raise DistillError(
                f"No example fits into {recipe.max_length} tokens; the shortest has {min(map(len, samples))}."
            )
        self.teacher = None
        if job.teacher:
            chats = list(compress(job.chats, fits))
            self.teacher = ask_teacher(job.teacher, chats, self.fitting, tokenizer, self.device, folder / TEACHER)
        self.at_once = TOKENS_AT_ONCE[self.device]
        if self.device == "cpu" and max(map(len, self.fitting)) <= self.at_once:
            model.set_attn_implementation("eager")  # a tenth faster than sdpa there, while the matrices are small
        torch.manual_seed(recipe.seed)
        layers: int = model.config.num_hidden_layers
        lowest = layers - max(1, round(layers * recipe.top_layers))
        self.mixed = computes_bf16(self.device)
        self.rate = recipe.rate(model.num_parameters())
        self.tuned = _tunable(model.to(self.device), recipe, range(lowest, layers))
        if self.mixed and not recipe.use_dora:  # DoRA's norms and the merged matrices are of the base as it is
            _keep_in_bf16(self.tuned)
        share = attends_only(model)
        self.examples = Examples(self.fitting, share=share)
        held = [sample for sample in held if len(sample) <= recipe.max_length]
        self.held: list[Row] = []
        if recipe.patience and len(held) >= FEWEST_LOOKED_AT:
            rows = Examples(held, share=share).rows(range(len(held)))
            # Their numbers go on after those that are trained on.
            self.held = [replace(row, members=[i + len(self.fitting) for i in row.members]) for row in rows]
        self.batches = self.examples.batches(recipe.batch_size, recipe.epochs, recipe.seed, job.forms)
        self.lower = None
        rows = self.examples.rows(range(len(self.fitting)))
        each_batch = sum(len(row) for batch in self.batches for row in self.examples.rows(batch))
        states_bytes = sum(map(len, [*rows, *self.held])) * model.config.hidden_size * 4
        if lowest and sum(map(len, rows)) < WORTH_KEEPING * each_batch and states_bytes <= KEPT_BYTES:
            self.lower = LowerLayers(model, lowest, [*rows, *self.held], self.at_once)
        self.parameters = {name: p for name, p in self.tuned.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=self.rate, weight_decay=0.0)
        # One divisor for all batches, so that every token weighs the same: by its own tokens, a batch of short answers
        # would outweigh one of long answers, and the choice between the two, an empty list or names, would be skewed.
        self.divisor = recipe.batch_size * sum(len(sample.answer) for sample in self.fitting) / len(self.fitting)
        self.done, self.spent = 0, 0.0
        self.losses, self.looks = list[tuple[int, float]](), list[tuple[int, float]]()
        self.recent = list[tuple[float, int]]()
        self.best: dict[str, torch.Tensor] | None = None
        self.checkpoint = folder / "checkpoint.pt"
        if self.checkpoint.exists():
            self._continue()

    def run(self, progress: Progress) -> Trained:
        """Train to the end, or until the select part says that it is enough."""
        total, saved = len(self.batches), time.monotonic()
        every = max(1, round(total / self.recipe.epochs / LOOKS_AN_EPOCH))
        while self.done < total and not self._enough():
            self._step(self.batches[self.done])
            self.done += 1
            if self.held and (self.done % every == 0 or self.done == total):
                self._look()
            if time.monotonic() - saved > self.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
            try:
                progress(self.done, total)
            except BaseException:  # the caller stops the training here: nothing of it is lost
                self._save()
                raise
        if not all(p.isfinite().all() for p in self.parameters.values()):
            raise self._not_a_number()
        if self.best is not None:
            self._load(self.best)
        self._write()
        return Trained(
            examples=len(
                {
                    tuple(self.fitting[i % self.fitting_each].tokens)
                    for batch in self.batches[: self.done]
                    for i in batch
                }
            ),
            seconds=self.spent + time.monotonic() - self.started,
            losses=self.losses,
            longest_answer=max(len(sample.answer) for sample in self.fitting),
            left_out=self.left_out,
            looks=self.looks,
        )

    def _step(self, batch: list[int]) -> None:
        """One batch: forward, backward, and the optimizer's step."""
        import torch

        number, total = self.done, len(self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (number + 1) / WARM_UP) * max(0.02, 1 - number / total)
        loss = torch.zeros((), device=self.device)
        for part in micro_batches(self.examples.rows(batch), self.at_once):
            share = self._loss(part, self.teacher)
            (share / self.divisor).backward()
            loss += share.detach()
        if not loss.isfinite():
            raise self._not_a_number()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.recent.append((loss.item(), sum(len(self.fitting[i].answer) for i in batch)))
        if len(self.recent) == 5 or number == total - 1:
            sums, counts = zip(*self.recent, strict=True)
            self.losses.append((self._seen(number + 1), sum(sums) / sum(counts)))
            self.recent.clear()

    def _look(self) -> None:
        """Measure the select part's loss, and keep the best weights so far."""
        import torch

        with torch.no_grad():
            loss = sum(self._loss(part).item() for part in micro_batches(self.held, self.at_once))
        tokens = sum(len(sample.answer) for row in self.held for sample in row.samples)
        if all(loss / tokens < before for _, before in self.looks):
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.looks.append((self._seen(self.done), loss / tokens))

    def _enough(self) -> bool:
        """Whether the last looks, as many as `patience`, brought nothing lower than one before."""
        values = [loss for _, loss in self.looks]
        return len(values) > self.recipe.patience and min(values[-self.recipe.patience :]) >= min(
            values[: -self.recipe.patience]
        )

    def _loss(self, part: Sequence[Row], teacher: Teacher | None = None) -> torch.Tensor:
        import torch

        with torch.autocast(self.device, torch.bfloat16, enabled=self.mixed):
            logits, labels = answer_logits(self.tuned, self.lower, part, self.pad, self.device)
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            share = self.recipe.teacher_share
            return loss if teacher is None else (1 - share) * loss + share * teacher.loss(part, logits)

    def _seen(self, batches: int) -> int:
        return sum(map(len, self.batches[:batches]))

    def _save(self) -> None:
        import torch

        state = {
            "optimizer": self.optimizer.state_dict(),
            "weights": self.parameters,
            "best": self.best,
            "done": self.done,
            "losses": self.losses,
            "looks": self.looks,
            "recent": self.recent,
            "seconds": self.spent + time.monotonic() - self.started,
        }
        part = self.checkpoint.with_name(f".{self.checkpoint.name}.part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def _continue(self) -> None:
        import torch

        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self._load(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.done, self.spent = state["best"], state["done"], state["seconds"]
        self.recent = [(float(total), int(count)) for total, count in state["recent"]]
        self.losses, self.looks = ([(int(n), float(x)) for n, x in state[key]] for key in ("losses", "looks"))

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _write(self) -> None:
        """Write the adapter, or the matrices that are others than the base's, in 16 bits."""
        import torch
        from safetensors.torch import save_file

        target = self.folder / "adapter"
        if not self.recipe.whole:
            # It goes with the project: PEFT would say where this machine keeps the base, in a model card of blanks too,
            # and ask a hub whether the embeddings, which nobody trained, are to be saved.
            self.tuned.peft_config["default"].base_model_name_or_path = self.base
            self.tuned.save_pretrained(target, save_embedding_layers=False)
            (target / "README.md").unlink(missing_ok=True)
            return
        if self.recipe.use_dora:
            changed = {name.rpartition(".lora_")[0] for name in self.parameters if ".lora_" in name}
            names = {name.removeprefix("base_model.model.") + ".weight" for name in changed}
            model = self.tuned.merge_and_unload()
        else:
            names, model = set(self.parameters), self.tuned
        target.mkdir(exist_ok=True)
        half = {n: p.detach().to(torch.float16).contiguous() for n, p in model.named_parameters() if n in names}
        save_file(half, target / CHANGED)

    def _not_a_number(self) -> DistillError:
        self.checkpoint.unlink(missing_ok=True)  # its weights are on the way there
        return DistillError(
            f"The loss is not a number after {min(self.done + 1, len(self.batches))} of {len(self.batches)} batches; "
            f"lower learning_rate, which is {self.rate:g}."
        )


def _tunable(model: Any, recipe: Recipe, layers: range) -> Any:
    """The model with what is trained of it: an adapter on some layers, or these layers themselves."""
    if recipe.method == "full":
        decoder = model.get_decoder()
        model.requires_grad_(False)
        for number in layers:
            for parameter in decoder.layers[number].parameters():
                # Norms stay: some architectures keep them in GGUF in another form.
                parameter.requires_grad_(parameter.ndim == 2)
        return model.train()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(layers),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in a way that ends with version 6
        return get_peft_model(model, config).train()


def answer_logits(
    model: Any, lower: LowerLayers | None, rows: Sequence[Row], pad: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the answers' tokens, [tokens, vocabulary], row by row, and which tokens they are; no others are computed."""
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
    return logits[asked].float(), labels[asked]


def _keep_in_bf16(model: Any) -> None:
    """Keep frozen matrices as autocast would cast them at each pass; the embeddings stay, the residual stream's type follows them."""
    import torch

    for name, parameter in model.named_parameters():
        # Matrices in 4 bits are no floats.
        if ".layers." in name and parameter.ndim == 2 and parameter.is_floating_point() and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    # Where the output matrix is the embeddings too, it gets a copy.
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().to(torch.bfloat16), requires_grad=False)
