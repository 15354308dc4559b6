"""An OpenAI-compatible endpoint on the loopback that always answers `{"label": "refund"}`.

    python mock_endpoint.py [--delay SECONDS]

Prints its base URL (without `/v1`) on the first line and serves until it is stopped. It knows chat completions
and the Responses API: where a request has tools it calls the last one, unless the request asks for a JSON format;
else it answers with plain JSON. `GET /count` tells how many requests came and how many were in flight at most
since the last `GET /count`. It is a bare protocol over sockets, so that its own cost stays far below a client's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from typing import Any

ANSWER = '{"label": "refund"}'
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSES_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 15,
}


def chat_completion(request: dict[str, Any]) -> dict[str, Any]:
    """Answer `POST /v1/chat/completions`."""
    message: dict[str, Any] = {"role": "assistant", "content": ANSWER}
    finish = "stop"
    if request.get("tools") and not request.get("response_format"):
        call = {"name": request["tools"][-1]["function"]["name"], "arguments": ANSWER}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        }
        finish = "tool_calls"
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    model = request.get("model", "m")
    return {
        "id": "chat_1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": USAGE,
    }


def response(request: dict[str, Any]) -> dict[str, Any]:
    """Answer `POST /v1/responses`."""
    text = {"type": "output_text", "text": ANSWER, "annotations": list[Any]()}
    item: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    text_settings: dict[str, Any] = request.get("text") or {}
    if request.get("tools") and not text_settings.get("format"):
        name = request["tools"][-1]["name"]
        item = {
            "id": "fc_1",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_1",
            "name": name,
            "arguments": ANSWER,
        }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": request.get("model", "m"),
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSES_USAGE,
    }


class Counts:
    """What `GET /count` tells."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.peak = 0

    def arrived(self) -> None:
        self.requests += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def told(self) -> dict[str, Any]:
        """Return the counts since the last time, and start again."""
        counts = {"requests": self.requests, "peak": self.peak}
        self.requests, self.peak = 0, self.in_flight
        return counts


class Connection(asyncio.Protocol):
    """One keep-alive connection; a client sends its next request after our answer."""

    def __init__(self, counts: Counts, delay: float) -> None:
        self._counts = counts
        self._delay = delay
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            length = int(rest.partition(b"\r\n")[0]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == b"/count":
            self._send(200, self._counts.told())
        elif path.endswith((b"/chat/completions", b"/responses")):
            self._counts.arrived()
            request = json.loads(body)
            answer = response(request) if path.endswith(b"/responses") else chat_completion(request)
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._finish, answer)
            else:
                self._finish(answer)
        else:
            self._send(
                404, {"error": {"message": f"{path.decode()} is not served here", "type": "invalid_request_error"}}
            )

    def _finish(self, answer: dict[str, Any]) -> None:
        self._counts.in_flight -= 1
        self._send(200, answer)

    def _send(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, b"OK" if status == 200 else b"Not Found", len(content)) + content)


async def serve(delay: float) -> None:
    """Serve on a free loopback port until cancelled."""
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(counts, delay), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible endpoint that always answers the same.")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    delay: float = parser.parse_args().delay
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(delay))


if __name__ == "__main__":
    main()
