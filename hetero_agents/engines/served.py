# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The GGUF file that llama.cpp serves: the weights in another quantisation where it has faster kernels for it, and their chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..bindings.lock import write_atomically
from ..contract import sha256_of
from ..errors import MissingExtraError
from .catalog import Weights, fetch_weights


def fetch_served(weights: Weights) -> Path:
    """Return the GGUF file that llama.cpp serves. Training starts from the same file, so that adapters fit what they are served on.

    Raises:
        EngineError: the weights cannot be fetched.
        IntegrityError: they are not the file that the catalog names.
    """
    path = fetch_weights(weights)
    return requantized(path, weights.serve_as, weights.serve_f16) if weights.serve_as else path


def chat_template(path: Path) -> str | None:
    """Return the chat template of a GGUF file, or None. It is kept in a file beside it, as finding it takes seconds."""
    kept, stat = path.with_suffix(".chat-template.json"), path.stat()
    of = [stat.st_size, stat.st_mtime_ns]
    with suppress(OSError, ValueError, KeyError, TypeError):  # not there, or not what we wrote
        if (known := json.loads(kept.read_text("utf-8")))["of"] == of:
            return known["template"]
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("A local: model", "local") from error
    try:
        fields = gguf.GGUFReader(path).fields
    except (ValueError, IndexError, KeyError):
        return None  # no GGUF file: llama.cpp will say so
    # Jinja drops the line end that a template ends with; inside of another it would stay.
    template, with_tools = (
        fields[name].contents().removesuffix("\n") if name in fields else None
        for name in ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")
    )
    if template and with_tools:
        template = f"{{% if tools %}}{with_tools}{{% else %}}{template}{{% endif %}}"
    with suppress(OSError):  # beside a file of somebody else's folder it is read at each start
        write_atomically(kept, json.dumps({"of": of, "template": template}).encode())
    return template


def requantized(source: Path, kind: str, f16: Sequence[str] = ()) -> Path:
    """Return a copy of a GGUF file whose matrices have another quantisation, made once, beside it.

    Args:
        source: the file.
        kind: a type of GGML, for example `Q8_0` (8 bits, blocks of 32).
        f16: names of matrices that become 16 bits instead, as patterns.
    """
    mixed = f"-{sha256_of(list(f16))[:8]}" if f16 else ""
    target = source.with_name(f"{source.stem}.as-{kind}{mixed}.gguf")
    if target.is_file():
        return target
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("A local: model", "local") from error
    wanted, plain = gguf.GGMLQuantizationType[kind], gguf.GGMLQuantizationType.F32
    half = gguf.GGMLQuantizationType.F16

    def type_of(tensor: Any) -> Any:
        if len(tensor.shape) != 2:
            return plain
        return half if any(fnmatch(tensor.name, name) for name in f16) else wanted

    rewrite(gguf.GGUFReader(source), target, type_of, kind=kind)
    return target


def rewrite(
    reader: Any,
    target: Path,
    type_of: Callable[[Any], Any],
    replaced: Mapping[str, Any] | None = None,
    *,
    kind: str | None = None,
) -> None:
    """Write a GGUF file again, with other quantisations or other values; whole or not at all.

    Args:
        reader: of the file (`gguf.GGUFReader`).
        target: the file to write.
        type_of: gives the type of each tensor there.
        replaced: values in place of the file's, fp32, by the tensor's name.
        kind: the type that the file says it has, for example `Q8_0`; as before where None.
    """
    import gguf

    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(temporary, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer writes its own
        said = kind is not None and name == "general.file_type"
        value: Any = gguf.LlamaFileType[f"MOSTLY_{kind}"].value if said else field.contents()
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], element)
    for tensor in reader.tensors:
        values, to = (replaced or {}).get(tensor.name), type_of(tensor)
        if values is None and to == tensor.tensor_type:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=to)
            continue
        if values is None:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(n) for n in tensor.shape[::-1]])
        try:
            data = gguf.quants.quantize(values, to)
        except NotImplementedError:  # it reads K-quants and writes none
            to = gguf.GGMLQuantizationType.F16
            data = gguf.quants.quantize(values, to)
        writer.add_tensor(tensor.name, data, raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, target)
