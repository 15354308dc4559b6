"""`python -m tests.bench.planted [--secrets 10000] [--content raw]`: secrets planted on every path of a run, and where they can be found after it.

Names, addresses, numbers and keys go in as arguments, answers, tool arguments and results, exceptions and spans of
another library. Then they are looked for on the disk (plain, base64, UTF-16), in what reached an OTLP collector with
content off, in what was logged and printed, in what a curator reads, where a share of each kind may remain, and in the
inputs and answers that `curate` takes from there to train on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from hetero_agents import Slot, Slots, slot
from hetero_agents.bindings import Workspace
from hetero_agents.distill import wilson
from hetero_agents.distill.curate import why_not
from hetero_agents.slots import App, registry
from hetero_agents.spans import calls_of
from tests.support import TOML, Answers, FakeEngines, collecting, write_workspace

SENTENCES = {
    "PERSON": "My name is {}.",
    "EMAIL_ADDRESS": "Write to {} please.",
    "PHONE_NUMBER": "You can call me on {}.",
    "CREDIT_CARD": "The card is {}.",
    "IBAN_CODE": "Pay to the IBAN {}.",
    "IP_ADDRESS": "It came from {}.",
    "LOCATION": "I live at {}.",
    "SECRET": "The api key is {}.",
    "US_SSN": "My social security number is {}.",
}


PATHS = ("input", "answer", "arguments", "results", "exception", "another library's span")


def secrets_of(count: int) -> list[tuple[str, str]]:
    """Return so many different (kind, secret)."""
    from faker import Faker

    fake, dice = Faker("en_US"), random.Random(1)
    fake.seed_instance(1)

    def key() -> str:
        return "sk-" + "".join(
            dice.choice("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(32)
        )

    makers: dict[str, Callable[[], str]] = {
        "PERSON": fake.name,
        "EMAIL_ADDRESS": fake.email,
        "PHONE_NUMBER": fake.phone_number,
        "CREDIT_CARD": lambda: fake.credit_card_number("visa16"),
        "IBAN_CODE": fake.iban,
        "IP_ADDRESS": fake.ipv4,
        "LOCATION": lambda: fake.address().replace("\n", ", "),
        "SECRET": key,
        "US_SSN": fake.ssn,
    }
    found: dict[str, str] = {}
    kinds = list(makers)
    while len(found) < count:
        kind = kinds[len(found) % len(kinds)]
        found.setdefault(makers[kind](), kind)
    return [(kind, secret) for secret, kind in found.items()]


def main() -> None:
    """Plant, look, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secrets", type=int, default=10_000)
    parser.add_argument("--content", default="redacted", help="`raw` shows that the search finds what is there")
    options = parser.parse_args()
    secrets = secrets_of(options.secrets)
    printed, logged = io.StringIO(), io.StringIO()
    logging.basicConfig(stream=logged, level=logging.DEBUG)
    with tempfile.TemporaryDirectory() as folder, collecting() as (collected, url):
        os.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "HETERO_KEYS": str(Path(folder, "keys"))}
        root = write_workspace(Path(folder, "workspace"), TOML.replace("raw", options.content))
        app = App.of(Workspace(root))
        registry.use(app)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            began = time.perf_counter()
            calls = asyncio.run(_plant(app, secrets))
            app.tracing.flush(600)
            seconds = time.perf_counter() - began
        spans = list(app.vault.read())
        view = json.dumps(spans, ensure_ascii=False)
        told = registry.slot("planted.told").contract
        found = list(calls_of(app.vault, told.slot))
        learnt = [[call.input, call.output] for call in found if why_not(call, told, hci_allowed=False) is None]
        taught = json.dumps(learnt, ensure_ascii=False)
        app.close()
        disk = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    text = printed.getvalue() + logged.getvalue()
    kinds, left = Counter(kind for kind, _ in secrets), Counter[str]()
    in_calls = Counter(kind for number, (kind, _) in enumerate(secrets) if _path(number) in ("input", "answer"))
    to_train = Counter[str]()
    on_disk = on_otlp = in_text = 0
    for kind, secret in secrets:
        forms = (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="), secret.encode("utf-16-le"))
        on_disk += any(form in disk for form in forms)
        on_otlp += any(form in collected.bytes for form in forms)
        in_text += secret in text
        left[kind] += secret in view
        to_train[kind] += secret in taught
    recall = {kind: wilson(n - left[kind], n).model_dump() for kind, n in kinds.items()}
    result: dict[str, Any] = {
        "secrets": len(secrets),
        "disk": on_disk,
        "otlp_without_content": on_otlp,
        "otlp_spans": len(collected.names),
        "printed_or_logged": in_text,
        "recall_in_the_curators_view": recall,
        "reaches_the_training_data": {kind: wilson(to_train[kind], n).model_dump() for kind, n in in_calls.items()},
        "calls_kept": wilson(len(found), calls).model_dump(),
        "calls_to_train_on": wilson(len(learnt), calls).model_dump(),
        "spans": len(spans),
        "spans_a_second": round(len(spans) / seconds, 1),
    }
    print(json.dumps(result), file=sys.stdout)


def _path(number: int) -> str:
    """On which path a secret is planted: each kind goes on all of them."""
    return PATHS[number // len(SENTENCES) % len(PATHS)]


async def _plant(app: App, secrets: list[tuple[str, str]]) -> int:
    """Plant each secret on one of six paths; return the calls of `planted.told`."""
    said: list[str] = []

    @slot(name="planted.told")
    async def told(message: str) -> str: ...

    app.engines = FakeEngines(app.workspace.root, models={"fake:big": Answers([lambda: _text(json.dumps(said[-1]))])})
    agent = _agent(told, said)
    other = app.tracing.provider.get_tracer("another.library")
    calls = 0
    for number, (kind, secret) in enumerate(secrets):
        sentence = SENTENCES[kind].format(secret)
        match _path(number):
            case "input":
                said.append("thanks")
                await told(sentence)
                calls += 1
            case "answer":
                said.append(sentence)
                await told("who is it?")
                calls += 1
            case "arguments" | "results" as asked:
                said.append(json.dumps({"note": sentence}))
                await agent.run(asked)
            case "exception":
                with contextlib.suppress(ValueError), app.tracing.tracer.start_as_current_span("failing"):
                    raise ValueError(sentence)
            case _:
                with other.start_as_current_span(f"other {sentence}", attributes={"what": sentence}) as span:
                    span.add_event(sentence, {"what": sentence})
    return calls


def _agent(told: Slot[..., str], said: list[str]) -> Agent[None, str]:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts):
            return _text("done")
        asked = str(messages[-1].parts[-1].content)  # type: ignore[union-attr]
        arguments = said[-1] if asked == "arguments" else '{"note":""}'
        return ModelResponse(parts=[ToolCallPart("look", arguments)])

    agent = Agent(FunctionModel(answer, model_name="planted"), capabilities=[Slots(told)])

    @agent.tool_plain
    def look(note: str) -> str:
        return note or json.loads(said[-1])["note"]

    return agent


def _text(text: str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(text)])


if __name__ == "__main__":
    main()
