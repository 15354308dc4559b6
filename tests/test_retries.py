"""HTTP retries: a passing trouble is tried again, four tries in all, and anything else is not."""

from __future__ import annotations

import asyncio
import gzip

import httpx2
import pytest

from hetero_agents.engines import retries


class Scripted(httpx2.AsyncBaseTransport):
    """Answers with statuses in turn, the last one for ever; 0 is a lost connection."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.tries = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.tries += 1
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == 0:
            raise httpx2.ConnectError("lost", request=request)
        text = b"quota" if status >= 400 else b"fine"
        packed = {"retry-after": "0", "content-encoding": "gzip"}
        return httpx2.Response(status, headers=packed, stream=httpx2.ByteStream(gzip.compress(text)), request=request)


def ask(script: Scripted, monkeypatch: pytest.MonkeyPatch) -> int:
    def plain(limits: httpx2.Limits) -> Scripted:
        return script

    monkeypatch.setattr(httpx2, "AsyncHTTPTransport", plain)
    monkeypatch.setattr(retries, "MAX_WAIT", 0.01)

    async def once() -> int:
        async with retries.patient_client() as client:
            answer = await client.get("http://model.test/")
            assert answer.text == ("quota" if answer.is_error else "fine"), "what a server says reaches the caller"
            return answer.status_code

    return asyncio.run(once())


def test_a_good_answer_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(200)
    assert ask(script, monkeypatch) == 200
    assert script.tries == 1


def test_a_rate_limit_and_a_lost_connection_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(429, 0, 503, 200)
    assert ask(script, monkeypatch) == 200
    assert script.tries == 4


def test_trouble_that_does_not_pass_ends_after_four_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(500)
    assert ask(script, monkeypatch) == 500, "the status reaches the caller"
    assert script.tries == retries.ATTEMPTS


def test_a_wrong_request_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(400)
    assert ask(script, monkeypatch) == 400
    assert script.tries == 1
