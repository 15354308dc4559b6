# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A teacher's token probabilities, taken once before the training (knowledge distillation, Hinton et al. 2015).

The teacher is a model on this machine or on a vLLM server; others do not say how likely they find the tokens of an answer that they are given.
It reads the whole prompt, whatever the student is sent: a baked student learns what the prompt made of the teacher.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import compact_json
from ..engines.catalog import Weights
from ..errors import DistillError
from .base import Chat, load_base, prompt_tokens
from .rows import Row, Sample

if TYPE_CHECKING:
    import torch

    from ..engines.vllm import VllmServer

TEACHER = "teacher.pt"
"""File in the training's folder with what the teacher said, until the training is done."""

KEPT = 32
"""Likeliest tokens that are kept of each place, of a teacher on this machine; what the others have together is left out."""

AT_ONCE = 16
"""Requests that a teacher's server works on at a time."""

TRIED_AT_ONCE = 2000
"""Words of the vocabulary whose text is sent to a server in one piece, to see whether it cuts it the same."""


@dataclass(frozen=True)
class Teacher:
    """What a teacher would say at each token of each answer.

    Attributes:
        tokens: for each sample the likeliest tokens, [answer, kept].
        chances: their probabilities, adding up to 1, [answer, kept].
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
    teacher: Weights | VllmServer,
    chats: Sequence[Chat],
    samples: Sequence[Sample],
    tokenizer: Any,
    device: str,
    kept: Path,
) -> Teacher:
    """Ask a teacher about each answer, once: an interrupted training finds what it said.

    Args:
        teacher: its weights, or where it is served.
        chats: each call as the teacher reads it.
        samples: the student's, whose answers are asked about.
        tokenizer: the student's.
        device: where a teacher on this machine computes.
        kept: file for what it said.

    Raises:
        DistillError: the teacher has another tokenizer, so that its probabilities are of other tokens.
        EngineError: its server does not answer.
    """
    import torch

    if kept.exists():
        return Teacher(**torch.load(kept, weights_only=True))
    # Balance and options in other orders repeat calls.
    asked = [(compact_json(chat), tuple(sample.answer)) for chat, sample in zip(chats, samples, strict=True)]
    once = {key: number for number, key in reversed(list(enumerate(asked)))}
    some, answers = [chats[number] for number in once.values()], [samples[number] for number in once.values()]
    if isinstance(teacher, Weights):
        said = _ask_here(teacher, some, answers, tokenizer, device)
    else:
        said = asyncio.run(_ask_server(teacher, some, answers, tokenizer))
    place = {key: number for number, key in enumerate(once)}
    said = Teacher([said.tokens[place[key]] for key in asked], [said.chances[place[key]] for key in asked])
    part = kept.with_name(f".{kept.name}.part")
    torch.save({"tokens": said.tokens, "chances": said.chances}, part)
    os.replace(part, kept)
    return said


def _ask_here(
    weights: Weights, chats: Sequence[Chat], samples: Sequence[Sample], tokenizer: Any, device: str
) -> Teacher:
    import torch

    model, own = load_base(weights)
    if own.get_vocab() != tokenizer.get_vocab():
        raise _other_tokenizer(weights.name)
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
    return Teacher(tokens, chances)


async def _ask_server(server: VllmServer, chats: Sequence[Chat], samples: Sequence[Sample], tokenizer: Any) -> Teacher:
    import torch

    from ..engines.retries import patient_client

    gate = asyncio.Semaphore(AT_ONCE)
    async with patient_client() as client:
        # Both cut the same texts, in which every word of the vocabulary stands, special ones too.
        ids = sorted(tokenizer.get_vocab().values())
        for start in range(0, len(ids), TRIED_AT_ONCE):
            text = tokenizer.decode(ids[start : start + TRIED_AT_ONCE])
            if await server.tokens(client, text) != tokenizer(text, add_special_tokens=False).input_ids:
                raise _other_tokenizer(server.base)

        async def asked(chat: Chat, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
            async with gate:
                prompt = await server.tokens(client, chat)
                places = await server.log_probabilities(client, [*prompt, *sample.answer], len(sample.answer))
            chances = torch.tensor([list(place.values()) for place in places]).softmax(-1)
            return torch.tensor([list(place) for place in places]), chances

        said = await asyncio.gather(*map(asked, chats, samples))
    return Teacher([tokens for tokens, _ in said], [chances for _, chances in said])


def _other_tokenizer(name: str) -> DistillError:
    return DistillError(
        f"The teacher {name} has another tokenizer than the base, so its probabilities are of other tokens; "
        "leave teacher_model out and let its answers be learnt: that needs no common tokenizer."
    )
