# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The layers below the lowest adapter: training never changes them, so what they give for an example is computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .rows import Row, micro_batches, model_inputs, padded_length

if TYPE_CHECKING:
    import torch


class LowerLayers:
    """The lowest layers, taken out of a model, and what they gave for each example so far."""

    def __init__(self, model: Any, count: int, rows: Sequence[Row], at_once: int) -> None:
        """Take the layers out.

        Args:
            model: a causal language model of transformers whose decoder has `layers` and a last `norm`. The other
                layers keep their numbers, and so their adapters' names; its forward pass needs `give` before it.
            count: layers to take, from the bottom.
            rows: every example in one row.
            at_once: tokens in one forward pass. Rows of like length are computed together, always the same ones, whatever
                batch asks for one of them, so that states do not depend on where a training was interrupted.
        """
        import torch

        lower = self

        class Given(torch.nn.Module):
            def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                return lower._given

        decoder = model.get_decoder()
        self._stem = copy.copy(decoder)
        self._stem._modules = dict(decoder._modules)
        self._stem.layers, self._stem.norm = decoder.layers[:count], torch.nn.Identity()
        for number in range(count):
            decoder.layers[number] = Given()
        self._part_of = {i: part for part in micro_batches(rows, at_once) for row in part for i in row.members}
        self._states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._given = torch.empty(0)

    def give(self, rows: Sequence[Row]) -> None:
        """Hand the hidden states of a part to the model's next forward pass, [rows, length, hidden], padded on the left."""
        import torch

        length = padded_length(rows)
        states = [
            torch.cat([self._of(row.members[0])[0], *(self._of(member)[1] for member in row.members)]) for row in rows
        ]
        self._given = torch.stack([torch.nn.functional.pad(s, (0, 0, length - len(s), 0)) for s in states])

    def _of(self, member: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The states of an example: of its group's shared beginning, and of its rest."""
        import torch

        if member not in self._states:
            part = self._part_of[member]
            inputs = model_inputs(part, 0, self._stem.device)
            with torch.no_grad():
                given = self._stem(**inputs, use_cache=False).last_hidden_state
            for row, states in zip(part, given, strict=True):
                own = states[-len(row) :].clone()  # a view would keep the padding of all
                shared, *rests = own.split([row.shared, *(len(s) - row.shared for s in row.samples)])
                self._states |= {i: (shared, rest) for i, rest in zip(row.members, rests, strict=True)}
        return self._states[member]
