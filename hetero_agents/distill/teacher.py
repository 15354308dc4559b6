# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A local teacher's token probabilities, taken once before the training (knowledge distillation, Hinton et al. 2015).

The teacher reads the whole prompt, whatever the student is sent: a baked student learns what the prompt made of the teacher.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines.catalog import Weights
from ..errors import DistillError
from .base import Chat, load_base, prompt_tokens
from .rows import Row, Sample

if TYPE_CHECKING:
    import torch

TEACHER = "teacher.pt"
"""File in the training's folder with what the teacher said, until the training is done."""

KEPT = 32
"""Likeliest tokens that are kept of each place; what the others have together is left out."""


@dataclass(frozen=True)
class Teacher:
    """What a teacher would say at each token of each answer.

    Attributes:
        tokens: for each sample the likeliest tokens, [answer, KEPT].
        chances: their probabilities, adding up to 1, [answer, KEPT].
    """

    tokens: list[torch.Tensor]
    chances: list[torch.Tensor]

    def loss(self, rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy of the student with the teacher.

        Args:
            rows: as they were computed.
            logits: the student's, of all answers' tokens, row by row, sample by sample, [tokens, vocabulary].
        """
        import torch

        members = [member for row in rows for member in row.members]
        tokens, chances = (torch.cat([some[m] for m in members]) for some in (self.tokens, self.chances))
        said = logits.log_softmax(-1).gather(1, tokens.to(logits.device))
        return -(chances.to(logits.device) * said).sum()


def ask_teacher(
    weights: Weights, chats: Sequence[Chat], samples: Sequence[Sample], tokenizer: Any, device: str, kept: Path
) -> Teacher:
    """Ask a teacher about each answer, once: an interrupted training finds what it said.

    Args:
        weights: the teacher's.
        chats: each call as the teacher reads it.
        samples: the student's, whose answers are asked about.
        tokenizer: the student's.
        device: where it computes.
        kept: file for what it said.

    Raises:
        DistillError: the teacher has another tokenizer, so that its probabilities are of other tokens.
    """
    import torch

    if kept.exists():
        return Teacher(**torch.load(kept, weights_only=True))
    model, own = load_base(weights)
    if own.get_vocab() != tokenizer.get_vocab():
        raise DistillError(
            f"The teacher {weights.name} has another tokenizer than the base, so its probabilities are of other tokens; "
            "leave teacher_model out and let its answers be learnt: that needs no common tokenizer."
        )
    if own.chat_template is None:
        raise DistillError(f"The teacher {weights.name} has no chat template; take an instruct model.")
    model.to(device).eval()
    tokens, chances = list[torch.Tensor](), list[torch.Tensor]()
    for chat, sample in zip(chats, samples, strict=True):
        asked = torch.tensor([prompt_tokens(own, chat) + sample.answer[:-1]], device=device)
        with torch.no_grad():
            logits = model(input_ids=asked, logits_to_keep=len(sample.answer), use_cache=False).logits[0]
        best = logits.cpu().float().softmax(-1).topk(KEPT)
        tokens.append(best.indices)
        chances.append(best.values / best.values.sum(-1, keepdim=True))
    part = kept.with_name(f".{kept.name}.part")
    torch.save({"tokens": tokens, "chances": chances}, part)
    os.replace(part, kept)
    return Teacher(tokens, chances)
