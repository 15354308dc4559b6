"""Engines that cannot answer: the call goes down its chain and says why; nothing else breaks."""

import asyncio
import contextlib
import gc
import json
import socket
import threading
import weakref
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest

from hetero_agents import AnswerError, Budget, EngineError, Ledger, Slot, slot
from hetero_agents.bindings import ModelConfig, SpecialistId, Workspace
from hetero_agents.contract import Sha256
from hetero_agents.engines.endpoint import BAKED_TEMPLATE, Engines
from hetero_agents.engines.vllm import VllmModel, VllmServer
from hetero_agents.slots import App, registry
from hetero_agents.testing import MemoryVault

from .support import in_processes, lock_entry, write_workspace

CLOSED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
HALF = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"id": "x", "choices": [{"mess'
)
NO_CHOICES = b'{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}'

Open = Callable[[str], tuple[App, Slot[..., str]]]


@pytest.fixture(params=[HALF, CLOSED, CLOSED + b'{"id": ', CLOSED + NO_CHOICES], ids=["half", "empty", "cut", "none"])
def dying_server(request: pytest.FixtureRequest) -> Generator[str]:
    """A server that ends each connection in the middle of its answer, or has none."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(request.param)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with contextlib.suppress(OSError):  # macOS: a listener is not connected
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def open_desk(tmp_path: Path) -> Generator[Open]:
    """Opens a workspace whose small model is given and whose large one is an answer key, both on real engines."""
    opened: list[App] = []

    def open_(small: str) -> tuple[App, Slot[..., str]]:
        @slot(name="engines.classify", tier="slm")
        async def classify(message: str) -> str: ...

        toml = f"""\
[models]
small = {small}
big = {{ model = "replay:answers.jsonl", max_tokens = 100 }}
[tiers]
llm = {{ model = "big" }}
slm = {{ model = "small", fallback = ["big"] }}
[privacy]
content = "raw"
"""
        root = write_workspace(tmp_path, toml)
        line = {"slot": classify.id, "input": {"message": "broken"}, "output": "refund"}
        (root / "answers.jsonl").write_text(json.dumps(line))
        app = App.of(Workspace(root), MemoryVault())
        opened.append(app)
        registry.use(app)
        return app, classify

    yield open_
    for app in opened:
        app.close()


def test_an_engine_that_dies_in_mid_call_hands_it_to_the_next(dying_server: str, open_desk: Open) -> None:
    _, classify = open_desk(f'{{ model = "vllm:tiny", base_url = "{dying_server}" }}')
    result = asyncio.run(classify.run("broken"))
    assert (result.output, result.route.decision) == ("refund", "escalated")
    assert (result.route.reason or "").startswith("small: ")


def test_a_server_that_is_not_there_hands_the_call_to_the_next(open_desk: Open) -> None:
    app, classify = open_desk('{ model = "vllm:tiny", base_url = "http://127.0.0.1:9/v1" }')
    assert asyncio.run(classify.run("broken")).output == "refund"
    specialist_id = SpecialistId("engines.classify@1")
    (app.workspace.root / "adapters/1").mkdir(parents=True)
    (app.workspace.root / "adapters/1/adapter_model.safetensors").touch()
    entry = lock_entry(classify.id, classify.contract.sha256).model_copy(
        update={
            "base": "vllm:tiny",
            "adapter_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        }
    )
    app.workspace.add_specialist(specialist_id, entry)
    app.workspace.activate(classify.id, specialist_id)
    result = asyncio.run(classify.run("broken"))
    assert result.output == "refund"
    assert "The vLLM server at http://127.0.0.1:9/v1 does not answer" in (result.route.reason or "")


def test_a_request_that_never_reached_its_server_costs_nothing(open_desk: Open) -> None:
    _, classify = open_desk('{ model = "vllm:tiny", base_url = "http://127.0.0.1:9/v1", max_tokens = 5000 }')
    with Ledger(Budget(tokens=6000)) as ledger:
        asyncio.run(classify.run("broken"))
    assert ledger.spent.calls == 2
    assert ledger.spent.tokens < 5000


def test_a_text_that_no_request_can_hold_is_no_traceback(open_desk: Open) -> None:
    _, classify = open_desk('{ model = "vllm:tiny", base_url = "http://127.0.0.1:9/v1" }')
    with pytest.raises(AnswerError, match="surrogates not allowed"):
        asyncio.run(classify("cut \ud83d"))


def test_a_forked_process_has_a_loop_of_its_own(open_desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    app, classify = open_desk('{ model = "vllm:tiny", base_url = "http://127.0.0.1:9/v1" }')
    monkeypatch.chdir(app.workspace.root)
    done: list[str] = []

    def ask() -> None:
        done.append(classify.sync("broken"))

    def work() -> None:
        ask()
        in_processes(ask, ())
        ask()

    thread = threading.Thread(target=work)  # whose loop is closed with it
    thread.start()
    thread.join()
    assert done == ["refund"] * 2


def test_event_loops_that_ended_are_forgotten(tmp_path: Path) -> None:
    engines, loops = Engines(tmp_path), list[weakref.ref[asyncio.AbstractEventLoop]]()

    async def open_() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await engines.endpoint(ModelConfig(model="vllm:tiny", base_url="http://127.0.0.1:9/v1"), "x")

    asyncio.run(open_())
    gc.collect()
    assert loops[0]() is None


def test_a_gateway_is_not_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of the provider itself")
    monkeypatch.setenv("PYDANTIC_AI_GATEWAY_API_KEY", "x")
    monkeypatch.setenv("PYDANTIC_AI_GATEWAY_BASE_URL", "http://gateway.test/proxy")
    endpoint = asyncio.run(Engines(tmp_path).endpoint(ModelConfig(model="gateway/openai:gpt-5.2"), "x"))
    assert (endpoint.model.base_url or "").startswith("http://gateway.test/proxy")


class _Vllm(BaseHTTPRequestHandler):
    """What vLLM does of it: answers with an adapter that it was told to load, and with 404 for others."""

    loaded: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter":
            self.loaded.add(body["lora_name"])
            self._answer(200, "Success")
        elif body["model"] in self.loaded and body["chat_template"] == BAKED_TEMPLATE:
            message = {"role": "assistant", "content": '"refund"'}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._answer(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
        else:
            self._answer(404, {"error": {"message": "no such model"}})

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_vllm_server_is_asked_to_load_what_it_does_not_have_again_after_its_restart(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Vllm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    vllm = VllmServer("tiny", f"http://127.0.0.1:{server.server_port}/v1")
    model = VllmModel(vllm, vllm.adapter_name("desk.classify@1", Sha256("ab" * 32)), tmp_path, baked=True)

    async def answer() -> str | None:
        return (await model_request(model, [ModelRequest.user_text_prompt("broken")])).text

    async def twice() -> list[str | None]:
        first = await answer()
        _Vllm.loaded.clear()
        return [first, await answer()]

    try:
        assert asyncio.run(twice()) == ['"refund"', '"refund"']
        assert _Vllm.loaded == {"tiny-desk.classify@1-abababab"}
    finally:
        server.shutdown()
        server.server_close()


class _WaryVllm(_Vllm):
    """vLLM as it comes: it knows no adapter before it is told to load it, and takes no chat template from a request."""

    loaded: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        if self.path == "/v1/load_lora_adapter" or not self.loaded:
            super().do_POST()
            return
        self.rfile.read(int(self.headers["Content-Length"]))
        message = "Chat template is passed with request, but --trust-request-chat-template is not set."
        self._answer(400, {"error": {"message": message}})


def test_a_vllm_server_that_takes_no_chat_template_is_told_how_to_be_started(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _WaryVllm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = VllmModel(VllmServer("tiny", f"http://127.0.0.1:{server.server_port}/v1"), "tiny-a@1", tmp_path, baked=True)
    try:
        with pytest.raises(EngineError, match="start it with --trust-request-chat-template"):
            asyncio.run(model_request(model, [ModelRequest.user_text_prompt("x")]))
    finally:
        server.shutdown()
        server.server_close()


def test_weights_that_llama_cpp_cannot_read_hand_the_call_to_the_next(open_desk: Open, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    _, classify = open_desk('"local:broken.gguf"')
    result = asyncio.run(classify.run("broken"))
    assert result.output == "refund"
    assert "llama.cpp cannot load broken.gguf" in (result.route.reason or "")
