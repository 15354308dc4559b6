"""The `replay:` engine: recorded or ground-truth answers in place of a model, and it says so in its name.

`replay:answers.jsonl` is served by a process of its own (`python -m hetero_agents.engines.replay FILE`),
so that agents that read files or memory do not hold the answers. The file has one JSON object a line:

- `{"slot": ID, "input": {...}, "output": ...}`: a slot's answer, keyed by slot and arguments;
- `{"slot": NAME, "prompt": TEXT, "after": null | {"tool": T, "result": ...}, "call": {"tool": T,
  "arguments": {...}}}` or `"output": ...` in place of `call`: an agent's next step, keyed by the first
  user prompt and the last tool result alone. `after` without `result` takes any result of that tool,
  and the string `"$result"` in the step stands for it.

A state that the file does not hold is `ReplayMissError`: the workflow counts as failed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from ..contract import Sha256, sha256_of
from ..errors import ConfigError, EngineError, ReplayMissError
from .endpoint import INPUT_KEY

_PROFILE = OpenAIModelProfile(supports_json_schema_output=True, default_structured_output_mode="native")


@dataclass
class ReplayServers:
    """The answer keys of this process, each served by a child process that ends with this one."""

    _running: dict[Path, tuple[subprocess.Popen[str], str]] = field(
        default_factory=dict[Path, tuple[subprocess.Popen[str], str]]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: Path) -> str:
        """Return the root of the answer file's server, started if it does not run.

        Raises:
            ConfigError: the file does not exist or a line of it is wrong.
            EngineError: the server did not start.
        """
        with self._lock:
            running = self._running.get(path)
            if running is None or running[0].poll() is not None:
                self._running[path] = running = self._start(path)
            return running[1]

    def _start(self, path: Path) -> tuple[subprocess.Popen[str], str]:
        if not path.is_file():
            raise ConfigError(f"The answer key {path} does not exist; correct the replay: model in hetero.toml.")
        command = [sys.executable, "-m", __name__, str(path)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline().strip()
        if not line.startswith("http"):
            reason = (process.stderr.read().strip().splitlines() or ["no reason given"])[-1]
            self._end(process)
            raise ConfigError(f"The answer key {path} cannot be served: {reason}.")
        return process, line

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        # The child ends when its standard input does.
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End all child processes."""
        with self._lock:
            for process, _ in self._running.values():
                self._end(process)
            self._running.clear()


def replay_model(url: str, file: str, slot: str) -> ReplayModel:
    """Return the model that answers for one slot or agent.

    Args:
        url: the server's root.
        file: the answer file's name, for the model's name.
        slot: the slot's id or the agent's name.
    """
    provider = OpenAIProvider(base_url=f"{url}/{quote(slot, safe='')}/v1", api_key="unset")
    return ReplayModel(f"answer-key:{file}", provider=provider, profile=_PROFILE)


class ReplayModel(OpenAIChatModel):
    """An answer key as a pydantic-ai model."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Look the answer up.

        Raises:
            ReplayMissError: the key has none for this state.
        """
        try:
            return await super().request(messages, model_settings, model_request_parameters)
        except ModelHTTPError as error:
            if error.status_code == 404:
                raise ReplayMissError(
                    f"{self.model_name} has no answer for this state, so the workflow counts as failed."
                ) from error
            raise EngineError(f"{self.model_name} cannot answer: {error.message}.") from error


class AnswerKey:
    """The answers of one file."""

    def __init__(self, path: Path) -> None:
        self._slots: dict[tuple[str, Sha256], Any] = {}
        self._steps: dict[Sha256, dict[str, Any]] = {}
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    entry = json.loads(line)
                    if "input" in entry:
                        self._slots[entry["slot"], sha256_of(entry["input"])] = entry["output"]
                    else:
                        step = {"call": entry["call"]} if "call" in entry else {"output": entry["output"]}
                        self._steps[_state(entry["slot"], entry["prompt"], entry["after"])] = step
                except (ValueError, KeyError, TypeError) as error:
                    raise ConfigError(f"line {number} is not an answer ({error!r})") from error

    def answer(self, slot: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the assistant's message for a chat request; None where the key has none."""
        if (sha256 := body.get(INPUT_KEY)) is not None:
            if (slot, sha256) not in self._slots:
                return None
            return _says(self._slots[slot, sha256])
        messages: list[dict[str, Any]] = body["messages"]
        prompt = next((_text(m["content"]) for m in messages if m["role"] == "user"), "")
        after = _last_tool_result(messages)
        step = self._steps.get(_state(slot, prompt, after))
        if step is None and after is not None:
            step = self._steps.get(_state(slot, prompt, {"tool": after["tool"]}))
        if step is None:
            return None
        step = _filled(step, after["result"] if after else None)
        if "output" in step:
            return _says(step["output"])
        call = step["call"]
        function = {"name": call["tool"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"call_{len(messages)}", "type": "function", "function": function}],
        }


def _says(output: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": json.dumps(output, ensure_ascii=False)}


def _state(slot: str, prompt: str, after: Any) -> Sha256:
    return sha256_of([slot, prompt, after])


def _last_tool_result(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    names = {call["id"]: call["function"]["name"] for m in messages for call in m.get("tool_calls") or ()}
    for message in reversed(messages):
        if message["role"] == "tool":
            text = _text(message["content"])
            try:
                result = json.loads(text)
            except json.JSONDecodeError:
                result = text
            return {"tool": names.get(message["tool_call_id"], ""), "result": result}
    return None


def _filled(step: Any, result: Any) -> Any:
    if step == "$result":
        return result
    if isinstance(step, dict):
        return {key: _filled(value, result) for key, value in cast("dict[str, Any]", step).items()}
    if isinstance(step, list):
        return [_filled(value, result) for value in cast("list[Any]", step)]
    return step


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in cast("list[dict[str, Any]]", content or []))


def serve(path: Path) -> None:
    """Serve an answer file on a free port of the loopback interface until standard input ends."""
    key = AnswerKey(path)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # one packet an answer

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            slot = unquote(self.path.split("/")[1])
            if body.get("stream"):
                self._send(400, {"error": {"message": "an answer key does not stream"}})
            elif (message := key.answer(slot, body)) is None:
                self._send(404, {"error": {"message": "no answer for this state"}})
            else:
                reason = "tool_calls" if "tool_calls" in message else "stop"
                choice = {"index": 0, "message": message, "finish_reason": reason}
                self._send(
                    200,
                    {
                        "id": "replay",
                        "object": "chat.completion",
                        "created": 0,
                        "model": body["model"],
                        "choices": [choice],
                    },
                )

        def _send(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]))
    except ConfigError as error:
        raise SystemExit(str(error)) from error
