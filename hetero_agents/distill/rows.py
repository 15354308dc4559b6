# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Sequence packing: examples whose prompts begin alike share that beginning, which is computed once.

Prompts of one slot often begin with the same tools or the same schema. Such examples stand in one *row*:
the shared beginning, then the rest of each, which sees the beginning and itself and none of its
neighbours. Activations and gradients are those of the examples alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LEAST_SHARED = 0.25
"""Share of an example's tokens that it must have in common with others to stand in a row with them."""

MUCH_LESS = 0.75
"""An example that shares less than this part of what a group shares begins another group."""

GROUPS_A_BATCH = 2
"""Examples of how many groups stand in a batch; of one alone they would pull the weights to and fro."""

PAD_TO_MULTIPLE_OF = 16
"""Lengths are rounded up: oneDNN compiles a kernel for each new shape of a product."""

ROW_TOKENS = 768
"""Tokens of a row at most, one long example aside: attention's cost grows with their square."""

NEIGHBOUR = 12
"""Examples of no group come in batches of like length, give or take so many tokens."""


@dataclass(frozen=True)
class Sample:
    """The tokens of a prompt and of its answer."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Group:
    """Samples whose prompts begin alike, or one alone."""

    shared: int
    """Tokens in common; fewer than any prompt has, so that each answer's first token has its own predecessor."""
    members: list[int]
    """Positions in the samples."""


@dataclass(frozen=True)
class Row:
    """Samples of one group: the shared beginning once, then the rest of each."""

    shared: int
    members: list[int]
    samples: list[Sample]

    def __len__(self) -> int:
        return self.shared + sum(len(sample) - self.shared for sample in self.samples)

    @property
    def tokens(self) -> list[int]:
        """All tokens, in the row's order."""
        rests = (token for sample in self.samples for token in sample.tokens[self.shared :])
        return [*self.samples[0].tokens[: self.shared], *rests]

    @property
    def positions(self) -> list[int]:
        """Each token's place in its own example."""
        return [*range(self.shared), *(p for sample in self.samples for p in range(self.shared, len(sample)))]

    @property
    def segments(self) -> list[int]:
        """Which example each token is of: 0 for the shared beginning, then 1, 2, ..."""
        rests = (n for n, sample in enumerate(self.samples, 1) for _ in range(self.shared, len(sample)))
        return [*[0] * self.shared, *rests]

    @property
    def labels(self) -> list[int]:
        """For each token the one that is to be predicted after it; -100 where none is."""
        labels = [-100] * self.shared
        for sample in self.samples:
            before = len(sample.prompt) - self.shared - 1
            labels += [*[-100] * before, *sample.answer, -100]
        return labels


class Examples:
    """The samples of a training, in groups that begin alike.

    Attributes:
        samples: all of them.
        groups: every sample in one group.
    """

    def __init__(self, samples: Sequence[Sample], *, share: bool) -> None:
        """Find the groups.

        Args:
            samples: all of a training.
            share: whether samples may stand in one row (`attends_only`); else each is alone.
        """
        self.samples = samples
        self.groups = _groups(samples, share)
        self._group_of = {member: number for number, group in enumerate(self.groups) for member in group.members}

    def batches(self, size: int, epochs: float, seed: int, forms: int = 1) -> list[list[int]]:
        """Return batches of samples, in a random order that the seed fixes; a part of an epoch is a random part.

        A batch holds samples of `GROUPS_A_BATCH` groups, or what is left of all groups in like lengths.
        Where the samples are so many forms of each example, all in the first and then all in the next, an epoch has one form of each.
        """
        each = len(self.samples) // forms
        whole, made = ceil(each / size), list[list[int]]()
        left, epoch = max(1, round(whole * epochs)), 0
        together = min(size, max(2, size // GROUPS_A_BATCH))
        while left > 0:
            dice = random.Random(f"{seed} {epoch}")
            alike, rest = list[list[int]](), list[int]()
            for group in self.groups:
                now = [member for member in group.members if member // each == epoch % forms]
                members = dice.sample(now, len(now))
                full = len(members) // together * together
                alike += _chunks(members[:full], together)
                rest += members[full:]
            dice.shuffle(alike)
            order = [i for chunk in alike for i in chunk]
            uneven = len(order) % size
            rest += order[len(order) - uneven :]
            batches = _chunks(order[: len(order) - uneven], size)
            batches += _chunks(sorted(rest, key=lambda i: len(self.samples[i]) + dice.random() * NEIGHBOUR), size)
            dice.shuffle(batches)
            made += batches[:left]
            left -= whole
            epoch += 1
        return made

    def rows(self, batch: Iterable[int]) -> list[Row]:
        """Return samples as rows, those of a group in one row while they fit."""
        rows, last = list[Row](), -1
        for i in sorted(batch, key=lambda i: (self._group_of[i], i)):
            number, sample = self._group_of[i], self.samples[i]
            shared = self.groups[number].shared
            if number == last and len(rows[-1]) + len(sample) - shared <= ROW_TOKENS:
                rows[-1].members.append(i)
                rows[-1].samples.append(sample)
            else:
                rows.append(Row(shared, [i], [sample]))
            last = number
        return rows


def micro_batches(rows: Iterable[Row], at_once: int) -> Iterator[list[Row]]:
    """Rows in parts of at most so many tokens, padding counted: memory stays bounded, gradients are the same."""
    part: list[Row] = []
    for row in sorted(rows, key=len):
        if part and padded_length([row]) * (len(part) + 1) > at_once:
            yield part
            part = []
        part.append(row)
    yield part


def padded_length(rows: Sequence[Row]) -> int:
    """Return the tokens to which rows are padded."""
    return ceil(max(map(len, rows)) / PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


def model_inputs(rows: Sequence[Row], pad: int, device: str) -> dict[str, Any]:
    """Return token ids and positions, [rows, length], padded on the left, and the attention mask.

    It is [rows, length] where every row is one example, as every model takes it; else who sees whom, [rows, 1, length, length].
    """
    import torch

    length = padded_length(rows)

    def padded(values: Sequence[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*[fill] * (length - len(v)), *v] for v in values], device=device)

    segments = padded([row.segments for row in rows], -1)
    if all(len(row.samples) == 1 for row in rows):
        mask = (segments >= 0).long()
    else:
        asked, seen = segments[:, :, None], segments[:, None, :]
        place = torch.arange(length, device=device)
        sees = ((seen == 0) | (seen == asked)) & (place[None, :] <= place[:, None])
        mask = torch.zeros(sees.shape, device=device).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
    return {
        "input_ids": padded([row.tokens for row in rows], pad),
        "position_ids": padded([row.positions for row in rows], 0),
        "attention_mask": mask,
    }


def attends_only(model: Any) -> bool:
    """Return whether a model's layers mix tokens by attention alone, which can be told what to see; state spaces and convolutions cannot."""
    import torch

    layers = model.get_decoder().layers
    return all(hasattr(layer, "self_attn") for layer in layers) and not any(
        isinstance(module, torch.nn.Conv1d) for module in layers.modules()
    )


def _groups(samples: Sequence[Sample], share: bool) -> list[Group]:
    groups: list[Group] = []
    longest = 0
    for number in sorted(range(len(samples)), key=lambda i: samples[i].prompt):
        sample, last = samples[number], groups[-1] if groups else None
        longest = max(longest, len(sample))
        if last and share:
            shared = _common(samples[last.members[-1]].prompt[:-1], sample.prompt[:-1])
            if len(last.members) > 1:
                # Where much less is shared another group begins: an instruction before all does not join what tools keep apart.
                shared = min(shared, last.shared) if shared > MUCH_LESS * last.shared else 0
            if shared >= LEAST_SHARED * longest:
                groups[-1] = Group(shared, [*last.members, number])
                continue
        groups.append(Group(0, [number]))
        longest = len(sample)
    return groups


def _chunks(members: Sequence[int], size: int) -> list[list[int]]:
    return [list(members[start : start + size]) for start in range(0, len(members), size)]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
