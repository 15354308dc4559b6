"""HTTP retries for hosted models: tenacity through pydantic-ai's transport, entered only when something failed."""

from __future__ import annotations

import httpx2
from pydantic_ai.retries import AsyncHTTPX2TenacityTransport, RetryConfig, wait_retry_after
from tenacity import retry_if_exception_type, stop_after_attempt

ATTEMPTS = 4
MAX_WAIT = 60.0
"""Seconds to wait for a server that says Retry-After, at most."""

# As the openai client has them: no queue of our own below a thousand calls in flight.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
_TIMEOUT = httpx2.Timeout(600, connect=5)


def patient_client() -> httpx2.AsyncClient:
    """Return an HTTP client that tries again on 429, 5xx and lost connections."""
    return httpx2.AsyncClient(transport=_Patient(httpx2.AsyncHTTPTransport(limits=_LIMITS)), timeout=_TIMEOUT)


class _Patient(httpx2.AsyncBaseTransport):
    """A plain first try; setting up tenacity costs a tenth of a millisecond, so only a failed one pays it."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            first = await self._wrapped.handle_async_request(request)
        except httpx2.TransportError as error:
            first = error
        else:
            if not _passing_trouble(first):
                return first
        try:
            return await _retrying(_AfterFirst(first, self._wrapped)).handle_async_request(request)
        except httpx2.HTTPStatusError as error:
            # The status must reach the caller: a client calls an exception from here a lost connection.
            return error.response

    async def aclose(self) -> None:
        await self._wrapped.aclose()


class _AfterFirst(httpx2.AsyncBaseTransport):
    """Gives what the first try gave, so that it counts and its Retry-After is heard, then tries for real."""

    def __init__(self, first: httpx2.Response | httpx2.TransportError, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._first: httpx2.Response | httpx2.TransportError | None = first
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        first, self._first = self._first, None
        if isinstance(first, httpx2.TransportError):
            raise first
        response = first or await self._wrapped.handle_async_request(request)
        if not _passing_trouble(response):
            return response
        try:
            await response.aread()  # what it says must reach the caller too, and closing it would lose that
        except httpx2.RequestError:  # cut short, or not packed as it says: its status counts
            await response.aclose()
            return httpx2.Response(response.status_code, headers=response.headers, content=b"", request=request)
        return response


def _retrying(wrapped: httpx2.AsyncBaseTransport) -> AsyncHTTPX2TenacityTransport:
    return AsyncHTTPX2TenacityTransport(
        config=RetryConfig(
            retry=retry_if_exception_type((httpx2.HTTPStatusError, httpx2.TransportError)),
            wait=wait_retry_after(max_wait=MAX_WAIT),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        ),
        wrapped=wrapped,
        validate_response=_raise_passing_trouble,
    )


def _raise_passing_trouble(response: httpx2.Response) -> None:
    if _passing_trouble(response):
        response.raise_for_status()


def _passing_trouble(response: httpx2.Response) -> bool:
    return response.status_code == 429 or response.status_code >= 500
