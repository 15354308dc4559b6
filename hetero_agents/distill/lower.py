# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The layers below the lowest adapter: training never changes them, so what they give for an example is computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .rows import Row, model_inputs, padded_length

if TYPE_CHECKING:
    import torch


class LowerLayers:
    """The lowest layers, taken out of a model, and what they gave for each example so far."""

    def __init__(self, model: Any, count: int, rows: Sequence[Row]) -> None:
        """Take the layers out.

        Args:
            model: a causal language model of transformers whose decoder has `layers` and a last `norm`. The other
                layers keep their numbers, and so their adapters' names; its forward pass needs `give` before it.
            count: layers to take, from the bottom.
            rows: every example in one row. Its states are computed with that row, whatever batch it comes in, so
                that they do not depend on where a training was interrupted.
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
        self._row_of = {member: row for row in rows for member in row.members}
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
            row = self._row_of[member]
            inputs = model_inputs([row], 0, self._stem.device)
            with torch.no_grad():
                states = self._stem(**inputs, use_cache=False).last_hidden_state[0, -len(row) :]
            rests = states[row.shared :].split([len(sample) - row.shared for sample in row.samples])
            self._states |= {i: (states[: row.shared], rest) for i, rest in zip(row.members, rests, strict=True)}
        return self._states[member]
