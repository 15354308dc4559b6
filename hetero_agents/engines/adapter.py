# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What training gave as GGUF, the form in which llama.cpp takes it: PEFT adapters, and whole models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, MissingExtraError
from .served import rewrite

CHANGED = "changed.safetensors"
"""File with the matrices of a whole model that are others than its base's, under their names in transformers."""

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def adapter_to_gguf(adapter: Path, base_gguf: Path, target: Path) -> None:
    """Write a PEFT LoRA adapter as GGUF.

    Args:
        adapter: folder with `adapter_model.safetensors` and `adapter_config.json`.
        base_gguf: the base that the adapter stands on.
        target: the file to write; written whole or not at all.

    Raises:
        EngineError: the adapter is of another kind or for another architecture.
    """
    try:
        import gguf
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingExtraError("Converting an adapter", "distill") from error
    config = json.loads((adapter / "adapter_config.json").read_text())
    if config.get("use_dora"):
        raise EngineError("llama.cpp takes no DoRA adapters; `hetero distill` merges them into a whole model.")
    base = _BaseFile(base_gguf)

    temporary = target.with_name(f".{target.name}.part")
    writer = gguf.GGUFWriter(temporary, base.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha / r; rsLoRA scales by alpha / sqrt(r).
    rank, alpha = config["r"], float(config["lora_alpha"])
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha * rank**0.5 if config.get("use_rslora") else alpha)
    for key, array in sorted(load_file(adapter / "adapter_model.safetensors").items()):
        module, _, part = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        name = base.names.get_name(module)
        if name is None or f"{name}.weight" not in base.shapes:
            raise EngineError(
                f"The adapter has weights for {module!r}, which {base_gguf.name} does not have: it is for another base."
            )
        outputs, inputs = base.shapes[f"{name}.weight"]
        if (part == "A" and array.shape[1] != inputs) or (part == "B" and array.shape[0] != outputs):
            raise EngineError(
                f"The adapter's {module!r} has shape {array.shape}, which does not fit {base_gguf.name}: it is for another base."
            )
        if part == "B":
            array = base.in_its_order(module, array)
        writer.add_tensor(f"{name}.weight.lora_{part.lower()}", array.astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, target)


def whole_to_gguf(changed: Path, served: Path, target: Path) -> None:
    """Write a whole model as GGUF: its base's file with other values, each in the quantisation that it has there.

    Args:
        changed: the file `CHANGED`.
        served: the base as it is served (`fetch_served`).
        target: the file to write; written whole or not at all.

    Raises:
        EngineError: the matrices are of another base.
    """
    try:
        import gguf
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingExtraError("Converting a model", "distill") from error
    base = _BaseFile(served)
    replaced: dict[str, Array] = {}
    for key, array in load_file(changed).items():
        module = key.removesuffix(".weight").removesuffix(".bias")
        name = f"{base.names.get_name(module)}.{key.rpartition('.')[2]}"
        if base.shapes.get(name) != array.shape:
            raise EngineError(f"The matrix {key!r} does not fit {served.name}: it is for another base.")
        replaced[name] = base.in_its_order(module, array).astype("float32")
    rewrite(base.reader, target, lambda tensor: gguf.GGMLQuantizationType(tensor.tensor_type), replaced)


class _BaseFile:
    """A base's GGUF file: how it names what transformers names, and in which order its rows stand.

    Attributes:
        reader: of the file.
        architecture: as GGUF calls it.
        names: gives a tensor's name there for a module of transformers.
        shapes: of its tensors, rows first, as in transformers.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self.reader = gguf.GGUFReader(path)
        self.architecture: str = self._field("general.architecture")
        known = {name: index for index, name in gguf.MODEL_ARCH_NAMES.items()}
        blocks = self._field(f"{self.architecture}.block_count")
        self.names = gguf.get_tensor_name_map(known[self.architecture], blocks)
        self.shapes = {tensor.name: tuple(int(n) for n in tensor.shape[::-1]) for tensor in self.reader.tensors}

    def in_its_order(self, module: str, rows: Array) -> Array:
        """Return a module's rows as the file has them: Llama's q and k are in another rotary layout there."""
        if self.architecture != "llama" or not module.endswith(("q_proj", "k_proj")):
            return rows
        heads = self._field(f"llama.attention.head_count{'_kv' if module.endswith('k_proj') else ''}")
        return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    def _field(self, name: str) -> Any:
        return self.reader.fields[name].contents()
