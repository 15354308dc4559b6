"""How a llama.cpp server of ours starts inside this process (xllamacpp)."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingExtraError


def llama_cpp(what: str) -> Any:
    """Return the module xllamacpp, which ships no types.

    Args:
        what: what needs it, as a sentence begins.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: a library of the system is missing.
    """
    try:
        import xllamacpp  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError as error:
        raise MissingExtraError(what, "local") from error
    except ImportError as error:  # slim images lack libgomp1
        raise EngineError(f"llama.cpp is installed but a library of the system is missing: {error}.") from error
    return xllamacpp


def server_params(llama: Any, path: Path, threads: int) -> Any:
    """Return the settings that all servers share: a free port of the loopback interface, behind a random key, and no log.

    Args:
        llama: the module.
        path: the GGUF file.
        threads: that compute.
    """
    params = llama.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [secrets.token_hex(16)]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0
    params.verbosity = -1
    params.warmup = False
    return params
