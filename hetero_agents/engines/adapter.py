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
    reader = gguf.GGUFReader(base_gguf)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    architecture = field("general.architecture")
    if config.get("use_dora"):
        raise EngineError("llama.cpp takes no DoRA adapters; `hetero distill` merges them into a whole model.")
    blocks, heads = field(f"{architecture}.block_count"), field(f"{architecture}.attention.head_count")
    kv_heads = field(f"{architecture}.attention.head_count_kv")
    known = {name: index for index, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], blocks)
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape) for tensor in reader.tensors}

    temporary = target.with_name(f".{target.name}.part")
    writer = gguf.GGUFWriter(temporary, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha / r; rsLoRA scales by alpha / sqrt(r).
    rank, alpha = config["r"], float(config["lora_alpha"])
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha * rank**0.5 if config.get("use_rslora") else alpha)
    for key, array in sorted(load_file(adapter / "adapter_model.safetensors").items()):
        module, _, part = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        name = names.get_name(module)
        if name is None or f"{name}.weight" not in shapes:
            raise EngineError(
                f"The adapter has weights for {module!r}, which {base_gguf.name} does not have: it is for another base."
            )
        inputs, outputs = shapes[f"{name}.weight"]
        if (part == "A" and array.shape[1] != inputs) or (part == "B" and array.shape[0] != outputs):
            raise EngineError(
                f"The adapter's {module!r} has shape {array.shape}, which does not fit {base_gguf.name}: it is for another base."
            )
        if part == "B" and architecture == "llama" and module.endswith(("q_proj", "k_proj")):
            array = _permuted(array, heads if module.endswith("q_proj") else kv_heads)
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
    reader = gguf.GGUFReader(served)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    architecture = field("general.architecture")
    blocks, heads = field(f"{architecture}.block_count"), field(f"{architecture}.attention.head_count")
    kv_heads = field(f"{architecture}.attention.head_count_kv")
    known = {name: index for index, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], blocks)
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape[::-1]) for tensor in reader.tensors}
    replaced: dict[str, Array] = {}
    for key, array in load_file(changed).items():
        module = key.removesuffix(".weight").removesuffix(".bias")
        name = f"{names.get_name(module)}.{key.rpartition('.')[2]}"
        if shapes.get(name) != array.shape:
            raise EngineError(f"The matrix {key!r} does not fit {served.name}: it is for another base.")
        if architecture == "llama" and module.endswith(("q_proj", "k_proj")):
            array = _permuted(array, heads if module.endswith("q_proj") else kv_heads)
        replaced[name] = array.astype("float32")
    rewrite(reader, target, lambda tensor: gguf.GGMLQuantizationType(tensor.tensor_type), replaced)


def _permuted(rows: Array, heads: int) -> Array:
    """Reorder the rows of Llama's q and k from Hugging Face's rotary layout to GGUF's."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
