# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Sentence embeddings: all-MiniLM-L6-v2 in llama.cpp, in this process, for what is compared by meaning.

Its weights come as the authors' safetensors and are written once as GGUF, in fp32: on one thread no quantisation reads texts faster.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from ..contract import Sha256
from ..errors import EngineError, MissingExtraError
from .catalog import Progress, catalog, fetch_files, place_of
from .endpoint import EMBEDDER
from .llamacpp import llama_cpp, server_params

DIMENSIONS: Final = 384

WINDOW: Final = 256
"""Tokens of a text that are read, its two marks among them: the `max_seq_length` that its authors publish."""

_VOCABULARY: Final = "vocab.txt", Sha256("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3")

_MARKS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_AT_ONCE: Final = 64
"""Texts of one request, so that another caller's text waits for at most so many."""

_SLOTS: Final = 4


@dataclass
class Embedder:
    """The model of one process; its server starts at the first text."""

    _server: Any = None
    _key: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pid: int = field(default_factory=os.getpid)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a unit vector for each text, as `Engines.embed` says; blocks."""
        if not texts:
            return []
        server = self._running()
        found: list[list[float]] = []
        for start in range(0, len(texts), _AT_ONCE):
            # A lone surrogate, which JSON may hold, is no text that llama.cpp could be given.
            plain = [text.encode("utf-8", "replace").decode() for text in texts[start : start + _AT_ONCE]]
            said = server.handle_embeddings({"input": [self._cut(server, text) for text in plain]})
            if "error" in said:
                raise EngineError(f"llama.cpp gives no embeddings ({said['error'].get('message')}).")
            found += [each["embedding"] for each in sorted(said["data"], key=lambda each: each["index"])]
        return found

    def close(self) -> None:
        """Stop the server, once texts in flight are done."""
        with self._lock:
            self._server = None  # its destructor stops threads and frees the weights

    def _running(self) -> Any:
        with self._lock:
            if self._server is None or self._pid != os.getpid():  # after a fork the parent's threads are not here
                self._server, self._key = _started(fetch_embedder())
                self._pid = os.getpid()
            return self._server

    def _cut(self, server: Any, text: str) -> str | list[int]:
        """A text, or the tokens of its beginning where it is longer than the window; a token is at least one byte long."""
        if len(text.encode()) <= WINDOW - 2:
            return text
        try:
            said = httpx2.post(
                f"{server.listening_address}/tokenize",
                json={"content": text, "add_special": True},
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=60,
                trust_env=False,
                verify=False,  # plain HTTP inside this process; loading certificates would take longer than the answer
            )
            tokens: list[int] = said.raise_for_status().json()["tokens"]
        except httpx2.HTTPError as error:
            raise EngineError(f"llama.cpp does not read a text to embed ({error}).") from error
        return text if len(tokens) <= WINDOW else [*tokens[: WINDOW - 1], tokens[-1]]


def fetch_embedder(progress: Progress | None = None) -> Path:
    """Return the GGUF file of the model, fetched and converted once.

    Raises:
        EngineError: it cannot be fetched.
        IntegrityError: it is not the model that is known here.
        MissingExtraError: the package that writes GGUF is not installed.
    """
    target = place()
    if not target.is_file():
        known = catalog()[EMBEDDER]
        weights, vocabulary = fetch_files(known.source, dict([(known.file, known.sha256), _VOCABULARY]), progress)
        _convert(weights, vocabulary, target)
    return target


def place() -> Path:
    """Return where the model's GGUF file is once it is there."""
    return place_of(catalog()[EMBEDDER].source, f"{EMBEDDER}.gguf")


def _started(path: Path) -> tuple[Any, str]:
    llama = llama_cpp("An embedding")
    # One thread: a text takes some milliseconds, and threads that wait for each other, two on a busy machine, took 20 times as long.
    params = server_params(llama, path, threads=1)
    params.embedding = True
    params.n_parallel = _SLOTS
    params.n_ctx = _SLOTS * WINDOW
    params.n_batch = params.n_ubatch = WINDOW
    try:
        return llama.Server(params), params.api_keys[0]
    except Exception as error:
        raise EngineError(
            f"llama.cpp cannot load {path} ({error}); delete the file, so that it is made again."
        ) from error


def _convert(weights: Path, vocabulary: Path, target: Path) -> None:
    """Write the authors' files as one GGUF; whole or not at all."""
    try:
        import gguf
        import numpy as np
        from gguf.utility import SafetensorsLocal
    except ImportError as error:
        raise MissingExtraError("An embedding", "local") from error
    layers, words = 6, vocabulary.read_text("utf-8").splitlines()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(temporary, "bert")
    writer.add_name(EMBEDDER)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(layers)
    writer.add_embedding_length(DIMENSIONS)
    writer.add_feed_forward_length(1536)
    writer.add_head_count(12)
    writer.add_context_length(512)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list([_piece(word) for word in words])
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if word in _MARKS else normal for word in words])
    pad, unknown, begin, end, mask = (words.index(mark) for mark in _MARKS)
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(begin)
    writer.add_sep_token_id(end)
    writer.add_mask_token_id(mask)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    for name, tensor in SafetensorsLocal(weights).tensors.items():
        if (known := names.get_name(name, try_suffixes=(".weight", ".bias"))) is not None and "pooler" not in name:
            writer.add_tensor(known, tensor.mmap_bytes().view(np.float32).reshape(tensor.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, target)


def _piece(word: str) -> str:
    """A word piece as llama.cpp has it: marked where a word begins, not where it goes on."""
    if word.startswith("[") and word.endswith("]"):
        return word
    return word.removeprefix("##") if word.startswith("##") else f"▁{word}"
