# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The layers below the lowest adapter: training never changes them, so what they give for an example is computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class LowerLayers:
    """The lowest layers, taken out of a model, and what they gave for each example so far."""

    def __init__(self, model: Any, count: int) -> None:
        """Take the layers out.

        Args:
            model: a causal language model of transformers whose decoder has `layers` and a last `norm`. The other
                layers keep their numbers, and so their adapters' names; its forward pass needs `give` before it.
            count: layers to take, from the bottom.
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
        self._states: dict[tuple[int, ...], torch.Tensor] = {}
        self._given = torch.empty(0)

    def give(self, rows: Sequence[Sequence[int]], length: int) -> None:
        """Hand the hidden states of a batch to the model's next forward pass, [len(rows), length, hidden], padded on the left."""
        import torch

        states = [self._of(tuple(row)) for row in rows]
        self._given = torch.stack([torch.nn.functional.pad(s, (0, 0, length - len(s), 0)) for s in states])

    def _of(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """The states of one example, computed alone, so that they do not depend on the batch it comes in."""
        import torch

        if tokens not in self._states:
            ids = torch.tensor([tokens], device=self._stem.device)
            with torch.no_grad():
                self._states[tokens] = self._stem(input_ids=ids, use_cache=False).last_hidden_state[0]
        return self._states[tokens]
