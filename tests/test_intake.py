"""Spans of other programs: read from files and over OTLP, brought to one form, learnt from where the user says so."""

import copy
import gzip
import json
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import grpc  # pyright: ignore[reportMissingTypeStubs]
import httpx2
import pytest
import rotel  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExportResult

from hetero_agents import slot
from hetero_agents.bindings import ModelConfig, Workspace
from hetero_agents.distill.curate import curate
from hetero_agents.distill.imported import imported_calls
from hetero_agents.errors import HeteroError, UserError
from hetero_agents.slots import App
from hetero_agents.spans import Names, SealedVault, SpanRecord, calls_of, without_content
from hetero_agents.spans.foreign import ModelCall, model_call_of
from hetero_agents.spans.imports import spans_of_jaeger
from hetero_agents.spans.otlp import json_of, records_of, request_of, request_of_json
from hetero_agents.spans.receiver import AT_ONCE, LARGEST, Receiver
from hetero_agents.spans.redaction import worker as redaction_worker
from hetero_agents.testing import MemoryVault

from .conftest import OpenApp
from .support import TOML, Hetero, span, write_workspace

DATA = Path(__file__).parent / "data"
WRITERS = ("pydantic_ai", "openinference", "openllmetry")
"""Spans of one question asked through each, recorded from the packages' own instrumentation."""


def golden(writer: str) -> list[SpanRecord]:
    records, refused = records_of(request_of_json(json.loads((DATA / f"{writer}.json").read_text())))
    assert not refused
    return records


def model_calls(records: Sequence[SpanRecord]) -> list[ModelCall]:
    by_id = {record["span_id"]: record for record in records}
    return [call for record in records if (call := model_call_of(record, by_id)) is not None]


@pytest.fixture
def desk(hetero: Hetero, tmp_path: Path) -> Hetero:
    """Runs a command in a workspace that stores content as it is."""
    write_workspace(tmp_path)
    SealedVault(tmp_path / ".hetero" / "vault").made_keyring()  # with its remark, which no command then makes
    return hetero


# -- one form --------------------------------------------------------------------------------------


def test_every_writers_call_is_the_same_call() -> None:
    through_a_tool, native = model_calls(golden("pydantic_ai"))
    (inference,), (llmetry,) = model_calls(golden("openinference")), model_calls(golden("openllmetry"))
    assert [call.site for call in (through_a_tool, native, inference, llmetry)] == [
        "classifier",
        "native",
        "classify",
        "classify",
    ]
    for call in (through_a_tool, native, inference, llmetry):
        assert (call.model, call.prompt) == ("openai:gpt-5.2", "Where is my money?")
        assert (call.input_tokens, call.output_tokens) == (20, 5)
        assert json.loads(call.answer) if isinstance(call.answer, str) else call.answer == {"intent": "refund"}


def test_the_earlier_form_of_openllmetry_is_read() -> None:
    record = span("1" * 32, 1, scope="opentelemetry.instrumentation.openai.v1", name="openai.chat")
    record["attributes"] = {
        "llm.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": "gpt-5.2",
        "traceloop.entity.name": "classify",
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": "Name the customer's intent.",
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": "Where is my money?",
        "llm.request.functions.0.name": "answer",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.tool_calls.0.name": "answer",
        "gen_ai.completion.0.tool_calls.0.arguments": '{"intent": "refund"}',
        "gen_ai.usage.prompt_tokens": 20,
        "gen_ai.usage.completion_tokens": 5,
    }
    assert model_calls([record]) == [
        ModelCall("classify", "openai:gpt-5.2", "Where is my money?", {"intent": "refund"}, 20, 5)
    ]


def test_a_call_with_a_conversation_or_a_tool_is_no_narrow_call() -> None:
    (first, *_) = golden("pydantic_ai")
    messages: list[Any] = json.loads(first["attributes"][Names.INPUT_MESSAGES])
    talk = copy.deepcopy(first)
    talk["attributes"][Names.INPUT_MESSAGES] = json.dumps(messages * 2)
    assert [call.prompt for call in model_calls([talk])] == [None]
    tool = copy.deepcopy(first)
    tool["attributes"]["model_request_parameters"] = json.dumps({"output_tools": []})
    assert [call.answer for call in model_calls([tool])] == [None]


@pytest.mark.parametrize("writer", WRITERS)
def test_otlp_comes_back_as_it_went(writer: str) -> None:
    records = golden(writer)
    assert records_of(request_of(records)) == (records, 0)
    assert records_of(request_of_json(json_of(records))) == (records, 0)


def test_spans_without_ids_are_counted_and_left_out() -> None:
    request = request_of(golden("openinference"))
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"\0" * 16
    records, refused = records_of(request)
    assert (len(records), refused) == (1, 1)


JAEGER = DATA / "jaeger.json"
"""As Jaeger's query API gives a trace (jaegertracing/jaeger, model/json)."""


def test_what_jaeger_gives_is_read() -> None:
    (parent, child), refused = spans_of_jaeger(json.loads(JAEGER.read_text()))
    assert not refused
    assert (parent["trace_id"], parent["scope"], parent["status"]) == ("5a6b".rjust(32, "0"), "my", "UNSET")
    assert (parent["start"], parent["end"]) == (1_000_000_000, 1_000_500_000)
    assert child["parent_id"] == parent["span_id"] and child["kind"] == "CLIENT"
    assert (child["status"], child["message"]) == ("ERROR", "no answer")
    assert child["events"] == [{"name": "retry", "time": 1_000_200_000, "attributes": {}}]
    assert child["resource"] == {"service.name": "shop"}
    assert child["attributes"] == {"gen_ai.operation.name": "chat"}


def test_ids_and_kinds_of_jaeger_that_are_none_are_left_out() -> None:
    value = json.loads(JAEGER.read_text())
    first, second = value["data"][0]["spans"]
    first["spanID"], second["tags"][2]["value"] = "Jane Roe", "customer"
    (child,), refused = spans_of_jaeger(value)
    assert (refused, child["kind"]) == (1, "INTERNAL")
    second["startTime"] = 1_700_000_000_000_000_000  # nanoseconds
    assert spans_of_jaeger(value) == ([], 2)


def test_links_and_parents_without_usable_ids_are_left_out() -> None:
    request = request_of(golden("openinference")[:1])
    sent = request.resource_spans[0].scope_spans[0].spans[0]
    sent.parent_span_id, earlier = bytes(16), len(sent.links)
    sent.links.add(trace_id=b"", span_id=b"")
    sent.links.add(trace_id=bytes(15) + b"1", span_id=bytes(7) + b"1")
    (record,), _ = records_of(request)
    assert record["parent_id"] is None
    assert len(record["links"]) == earlier + 1
    assert json_of([record])


@pytest.mark.parametrize(
    "messages", ['["hi"]', "5", '{"role": "user"}', '[{"role": "user", "parts": null}]', "nonsense"]
)
def test_messages_of_no_form_are_no_call_to_learn_from(messages: str) -> None:
    (first, *_) = golden("pydantic_ai")
    first["attributes"] |= {Names.INPUT_MESSAGES: messages, Names.OUTPUT_MESSAGES: messages, Names.INPUT_TOKENS: "12"}
    assert model_calls([first]) == [ModelCall("classifier", "openai:gpt-5.2", None, None, 0, 5)]


def test_spans_that_are_each_others_parent_are_read(desk: Hetero, tmp_path: Path) -> None:
    first, second = golden("openinference")
    first["parent_id"], second["parent_id"] = second["span_id"], first["span_id"]
    assert [call.site for call in model_calls([first, second])] == ["classify"]
    (tmp_path / "circle.json").write_text(json.dumps(json_of([first, second])))
    assert desk("import", str(tmp_path / "circle.json"), "--json").json["spans"] == 2
    (row,) = desk("traces", "--json").json
    assert row["calls"] == 1
    assert desk("traces", row["trace"]).code == 0, "drawn once, not for ever"
    first["parent_id"] = first["span_id"]
    assert records_of(request_of([first]))[0][0]["parent_id"] is None


def test_a_tool_call_is_an_answer_only_where_no_other_tool_was_offered() -> None:
    record = span("1" * 32, 1)
    record["attributes"] = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "gpt-5.2",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": '[{"type": "text", "text": "Where is it?"}]',
        "llm.tools.0.tool.json_schema": '{"type": "function", "function": {"name": "answer"}}',
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "answer",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"intent": "refund"}',
    }
    (call,) = model_calls([record])
    assert (call.prompt, call.answer) == ("Where is it?", {"intent": "refund"})
    for more in (
        {"llm.output_messages.0.message.content": "Let me look."},
        {"llm.output_messages.0.message.tool_calls.1.tool_call.function.name": "answer"},
        {"llm.tools.1.tool.json_schema": '{"type": "function", "function": {"name": "look"}}'},
    ):
        changed = copy.deepcopy(record)
        changed["attributes"] |= more
        assert [call.answer for call in model_calls([changed])] == [None]


# -- learning from them ----------------------------------------------------------------------------


def traffic(n: int) -> list[SpanRecord]:
    """Runs of a pydantic-ai program that never heard of us."""
    (chat, root, *_) = golden("pydantic_ai")
    records: list[SpanRecord] = []
    for number in range(n):
        intent = ("refund", "delivery")[number % 2]
        asked = [{"role": "user", "parts": [{"type": "text", "content": f"{number} {'pay ' * number}back, {intent}?"}]}]
        for record in copy.deepcopy([chat, root]):
            record["trace_id"] = f"{number + 1:032x}"
            if record["name"].startswith("chat"):
                record["attributes"][Names.INPUT_MESSAGES] = json.dumps(asked)
                record["attributes"][Names.OUTPUT_MESSAGES] = record["attributes"][Names.OUTPUT_MESSAGES].replace(
                    "refund", intent
                )
            records.append(record)
    return records


def test_a_program_that_never_heard_of_us_gives_examples() -> None:
    @slot(name="intake.classify")
    async def classify(message: str) -> Literal["refund", "delivery"]: ...

    vault = MemoryVault()
    vault.write([*traffic(60), *golden("openinference")])
    trainable = {"big": ModelConfig(model="openai:gpt-5.2", train_on_outputs=True)}
    # The program's answer has one field; ours is the value alone, so nothing fits.
    calls = list(imported_calls(vault, classify.contract, ["classifier"], trainable))
    assert len(calls) == 60 and {call.binding for call in calls} == {"big"}

    @slot(name="intake.classified")
    async def classified(message: str) -> dict[Literal["intent"], Literal["refund", "delivery"]]: ...

    calls = list(imported_calls(vault, classified.contract, ["classifier"], trainable))
    dataset = curate(calls, classified.contract, split_by=None)
    examples = [example for part in dataset.parts.values() for example in part]
    assert len(examples) == 60
    assert all(example.output["intent"] in example.input["message"] for example in examples)
    terms = list(imported_calls(vault, classified.contract, ["classifier"], {}))
    assert not any(call.trainable for call in terms) and {call.binding for call in terms} == {"openai:gpt-5.2"}
    assert not list(imported_calls(vault, classified.contract, ["elsewhere"], trainable))


def test_an_answer_in_a_wrapping_object_is_the_value() -> None:
    @slot(name="intake.wrapped")
    async def wrapped(message: str) -> Literal["refund", "delivery"]: ...

    vault = MemoryVault()
    records = traffic(2)
    for record in records:
        if record["name"].startswith("chat"):
            answer = record["attributes"][Names.OUTPUT_MESSAGES].replace("intent", "response")
            record["attributes"][Names.OUTPUT_MESSAGES] = answer
    vault.write(records)
    calls = list(imported_calls(vault, wrapped.contract, ["classifier"], {}))
    assert [call.output for call in calls] == ["refund", "delivery"]


# -- hetero import ---------------------------------------------------------------------------------


def test_import_reads_each_form_and_twice_is_once(desk: Hetero, tmp_path: Path) -> None:
    whole, lines, saved = tmp_path / "whole.json", tmp_path / "lines.jsonl", tmp_path / "jaeger.json"
    whole.write_text((DATA / "pydantic_ai.json").read_text())
    lines.write_text("".join(json.dumps(json_of(golden(w))) + "\n" for w in ("openinference", "openllmetry")))
    saved.write_text(JAEGER.read_text())
    said = desk("import", str(whole), str(lines), str(saved), "--json").json
    assert (said["spans"], said["refused"]) == (4 + 2 + 3 + 2, 0)
    assert {"site": "classifier", "model": "openai:gpt-5.2", "calls": 1} in said["model_calls"]
    before = desk("traces", "--json").json
    assert [row["calls"] for row in before] == [1] * 5
    assert desk("import", str(whole), "--json").json["spans"] == 4
    assert desk("traces", "--json").json == before and len(before) == 5


def test_import_of_half_a_file_keeps_what_is_whole(desk: Hetero, tmp_path: Path) -> None:
    text = "".join(json.dumps(json_of(golden(w))) + "\n" for w in ("openinference", "openllmetry"))
    (tmp_path / "half.jsonl").write_text(text[: len(text) - 200])
    done = desk("import", str(tmp_path / "half.jsonl"))
    assert done.code == 1 and "ends within line 2: the spans before it are stored" in done.err
    assert len(desk("traces", "--json").json) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1, 2]", "is neither OTLP's JSON nor Jaeger's: it has no resourceSpans"),
        ('{"resourceSpans": 3}', "is neither OTLP's JSON nor Jaeger's"),
        ('{"data": [{"spans": [{}]}]}', "is neither OTLP's JSON nor Jaeger's: it has no"),
        ('{"data": [{"spans": 1}]}', "is neither OTLP's JSON nor Jaeger's: its fields are not those of Jaeger"),
        ("nonsense\n", "is not JSON"),
        ("", "is empty"),
    ],
)
def test_import_of_something_else_is_one_sentence(
    desk: Hetero,
    tmp_path: Path,
    text: str,
    sentence: str,
) -> None:
    (tmp_path / "other.json").write_text(text)
    assert sentence in desk("import", str(tmp_path / "other.json")).sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give files, or --jaeger with --service."),
        (("--jaeger", "http://localhost:1"), "--jaeger and --service go together."),
        (("nowhere.json",), "There is no file nowhere.json."),
    ],
)
def test_import_says_what_it_needs(desk: Hetero, arguments: tuple[str, ...], sentence: str) -> None:
    assert desk("import", *arguments).sentence == sentence


def test_a_jaeger_that_is_down_is_one_sentence(desk: Hetero) -> None:
    done = desk("import", "--jaeger", "http://127.0.0.1:9", "--service", "shop")
    assert (done.code, done.err.count("\n")) == (1, 1) and "did not answer" in done.err


# -- hetero collect --------------------------------------------------------------------------------


class Sink:
    """Where a receiver puts spans; fails while it has a reason to."""

    def __init__(self) -> None:
        self.records: list[SpanRecord] = []
        self.failing: Exception | None = None
        self.waits: threading.Event | None = None

    def __call__(self, records: Sequence[SpanRecord]) -> None:
        if self.waits:
            self.waits.wait(10)
        if self.failing:
            raise self.failing
        self.records += records


@contextmanager
def receiving(token: str | None = None) -> Generator[tuple[Sink, Receiver]]:
    sink = Sink()
    receiver = Receiver(sink, host="127.0.0.1", port=0, grpc_port=0, token=token)
    try:
        yield sink, receiver
    finally:
        receiver.close()


def post(receiver: Receiver, body: bytes, kind: str = "application/x-protobuf", **headers: str) -> httpx2.Response:
    return httpx2.post(f"{receiver.url}/v1/traces", content=body, headers={"Content-Type": kind, **headers}, timeout=60)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_sdks_own_exporter_is_taken_over_http(writer: str) -> None:
    from opentelemetry.exporter.otlp.proto.http import Compression

    from hetero_agents.spans.record import readable_of

    with receiving(token="t") as (sink, receiver):
        exporter = OTLPSpanExporter(
            f"{receiver.url}/v1/traces", headers={"authorization": "Bearer t"}, compression=Compression.Gzip
        )
        assert exporter.export([readable_of(record) for record in golden(writer)]) == SpanExportResult.SUCCESS
        exporter.shutdown()
    assert sink.records == golden(writer)


def test_grpc_is_taken_with_the_token_only() -> None:
    records = golden("pydantic_ai")
    service: Any = trace_service_pb2_grpc
    with receiving(token="t") as (sink, receiver):
        library: Any = grpc
        with library.insecure_channel(receiver.grpc_address) as channel:
            stub = service.TraceServiceStub(channel)
            with pytest.raises(library.RpcError) as refused:
                stub.Export(request_of(records))
            assert refused.value.code() == library.StatusCode.UNAUTHENTICATED
            stub.Export(request_of(records), metadata=[("authorization", "Bearer t")])
            sink.failing = HeteroError("The disk is full.")
            with pytest.raises(library.RpcError) as failed:
                stub.Export(request_of(records), metadata=[("authorization", "Bearer t")])
            assert (failed.value.code(), failed.value.details()) == (
                library.StatusCode.UNAVAILABLE,
                "The disk is full.",
            )
    assert sink.records == records
    assert (receiver.stored, receiver.refused) == (len(records), len(records))


def test_json_is_taken_and_refused_spans_are_said() -> None:
    value = json_of(golden("openinference"))
    value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"] = "00"
    with receiving() as (sink, receiver):
        answer = post(receiver, json.dumps(value).encode(), "application/json")
    assert answer.status_code == 200 and answer.json()["partialSuccess"]["rejectedSpans"] == "1"
    assert len(sink.records) == 1 and receiver.refused == 1


def test_what_is_not_otlp_is_refused_in_words_and_the_receiver_goes_on() -> None:
    body = request_of(golden("openinference")).SerializeToString()
    with receiving(token="t") as (sink, receiver):
        known = {"Authorization": "Bearer t"}
        refusals = [
            post(receiver, body),
            post(receiver, body, Authorization="Bearer other"),
            post(receiver, b"\xff\xff", **known),
            post(receiver, b"{", "application/json", **known),
            post(receiver, b"not packed", **known, **{"Content-Encoding": "gzip"}),
            post(receiver, gzip.compress(body)[:-9], **known, **{"Content-Encoding": "gzip"}),
            post(receiver, gzip.compress(bytes(LARGEST + 1)), **known, **{"Content-Encoding": "gzip"}),
            post(receiver, body, **known, **{"Content-Encoding": "br"}),
            post(receiver, body, "text/plain", **known),
            httpx2.post(f"{receiver.url}/v1/logs", content=body, headers=known),
        ]
        assert [answer.status_code for answer in refusals] == [401, 401, 400, 400, 400, 400, 400, 400, 415, 404]
        assert all(answer.text for answer in refusals)
        assert post(receiver, body, **known).status_code == 200
    assert len(sink.records) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_of_unknown_length_is_taken_as_nodes_exporters_send_it(packed: bool) -> None:
    body = request_of(golden("openinference")).SerializeToString()
    sent = gzip.compress(body) if packed else body
    headers = {"Content-Type": "application/x-protobuf"} | ({"Content-Encoding": "gzip"} if packed else {})
    with receiving() as (sink, receiver), httpx2.Client() as client:
        for _ in range(2):  # the connection goes on
            pieces = iter([sent[:100], sent[100:]])
            assert client.post(f"{receiver.url}/v1/traces", content=pieces, headers=headers).status_code == 200
    assert len(sink.records) == 4


@pytest.mark.parametrize("sent", [b"5\r\nhel", b"x\r\n", b"-5\r\nhello\r\n", b"fffffff\r\n"])
def test_chunks_that_are_none_are_refused(sent: bytes) -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n"
    with receiving() as (sink, receiver):
        address = receiver.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
            connection.sendall(head + sent)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert not sink.records


def test_a_sender_keeps_what_could_not_be_stored() -> None:
    body = request_of(golden("openinference")).SerializeToString()
    with receiving() as (sink, receiver):
        sink.failing = HeteroError("The vault cannot be written.")
        answer = post(receiver, body)
        assert (answer.status_code, answer.text) == (503, "The vault cannot be written.")
        assert answer.headers["Retry-After"] == "1"
        sink.failing = ValueError("Grace Hopper's card")
        assert post(receiver, body).text == "ValueError", "what a library says may hold what it read"
        sink.failing = None
        assert post(receiver, body).status_code == 200
    assert receiver.refused == 4 and receiver.stored == 2


def test_more_requests_than_can_be_worked_on_are_told_to_come_again() -> None:
    body = request_of(golden("openinference")).SerializeToString()
    with receiving() as (sink, receiver):
        sink.waits = threading.Event()
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(post(receiver, body).status_code))
            for _ in range(AT_ONCE + 4)
        ]
        for thread in threads:
            thread.start()
        for _ in range(6000):
            if len(answers) >= 4:
                break
            time.sleep(0.01)
        assert answers == [503] * 4
        sink.waits.set()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200] * AT_ONCE + [503] * 4
    assert len(sink.records) == 2 * AT_ONCE


def test_a_request_that_is_under_way_is_finished_at_the_end() -> None:
    body = request_of(golden("openinference")).SerializeToString()
    answers: list[int] = []
    with receiving() as (sink, receiver):
        sink.waits = threading.Event()
        asking = threading.Thread(target=lambda: answers.append(post(receiver, body).status_code))
        asking.start()
        while receiver._gate._value == AT_ONCE:  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue]
            asking.join(0.01)
        threading.Timer(0.2, sink.waits.set).start()
    asking.join()
    assert answers == [200] and len(sink.records) == 2


@pytest.mark.parametrize("token", [None, ""])
def test_an_address_that_others_reach_needs_a_token(token: str | None) -> None:
    with pytest.raises(UserError, match="open to other machines"):
        Receiver(Sink(), host="0.0.0.0", port=0, grpc_port=0, token=token)


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with receiving() as (_, receiver):
        taken = int(receiver.url.rpartition(":")[2])
        with pytest.raises(UserError, match="choose another --port"):
            Receiver(Sink(), host="127.0.0.1", port=taken, grpc_port=0, token=None)
        grpc_taken = int((receiver.grpc_address or "").rpartition(":")[2])
        with pytest.raises(UserError, match="choose another --grpc-port"):
            Receiver(Sink(), host="127.0.0.1", port=0, grpc_port=grpc_taken, token=None)


def test_an_independent_collector_takes_our_spans_and_hands_them_to_us(tmp_path: Path) -> None:
    """rotel, which is no code of OpenTelemetry's or ours, stands between the SDK's exporter and our receiver."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from hetero_agents.spans.record import readable_of

    program = Path(str(rotel.__file__)).parent / "rotel-agent"
    records = [record for writer in WRITERS for record in golden(writer)]
    with receiving() as (sink, receiver), (tmp_path / "rotel.log").open("w") as log:
        port = free_port()
        arguments = ["--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
        to = ["--exporter", "otlp", "--otlp-exporter-protocol", "grpc"]
        to += ["--otlp-exporter-endpoint", f"http://{receiver.grpc_address}", "--traces-batch-timeout", "100ms"]
        running = subprocess.Popen([program, "start", *arguments, *to], stdout=log, stderr=log)
        try:
            answer = ask_until_up(f"http://127.0.0.1:{port}/v1/traces", encode_spans([readable_of(r) for r in records]))
            assert answer.status_code == 200
            ExportTraceServiceResponse.FromString(answer.content)
            for _ in range(200):
                if len(sink.records) >= len(records):
                    break
                running_for = threading.Event()
                running_for.wait(0.05)
        finally:
            running.terminate()
            running.wait(10)

    def by_id(spans: Sequence[SpanRecord]) -> list[SpanRecord]:
        return sorted(spans, key=lambda s: (s["trace_id"], s["span_id"]))

    assert by_id(sink.records) == by_id(records)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask_until_up(url: str, request: Any) -> httpx2.Response:
    pause = threading.Event()
    for _ in range(200):
        try:
            return httpx2.post(
                url, content=request.SerializeToString(), headers={"Content-Type": "application/x-protobuf"}
            )
        except httpx2.ConnectError:
            pause.wait(0.05)
    raise AssertionError(f"nothing listens at {url}")


def test_collect_runs_until_it_is_told_to_end_and_what_it_took_is_in_the_vault(desk: Hetero, tmp_path: Path) -> None:
    import signal
    import sys

    program = "from hetero_agents.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", program, "collect", "--port", "0", "--grpc-port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert running.stdout and running.stderr
    url = running.stderr.readline().split(" on ")[1].partition(",")[0]
    answer = httpx2.post(f"{url}/v1/traces", json=json_of(golden("pydantic_ai")))
    assert answer.status_code == 200
    assert len(desk("traces", "--json").json) == 2, "before it ends"
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 0 and json.loads(said)["spans"] == 4


# -- export ----------------------------------------------------------------------------------------


def test_export_gives_otlp_without_content_unless_asked_for(desk: Hetero, tmp_path: Path) -> None:
    ours = golden("pydantic_ai")
    SealedVault(tmp_path / ".hetero" / "vault").write(ours)
    bare = desk("traces", "--export", "otlp-json").out
    records, _ = records_of(request_of_json(json.loads(bare)))
    assert len(records) == 4 and "money" not in bare and "operation.cost" in bare
    whole = desk("traces", "--export", "otlp-json", "--content").out
    records, _ = records_of(request_of_json(json.loads(whole)))
    assert {r["span_id"]: r for r in records} == {r["span_id"]: r for r in ours}
    assert desk("traces", "--export", "csv").sentence == "There is no form 'csv' to export; there is otlp-json."
    assert desk("traces", "--content").sentence == "--content belongs to --export."


# -- whatever it says, it is not ours --------------------------------------------------------------


def test_a_sender_cannot_pass_for_us(open_app: OpenApp) -> None:
    app = open_app({})
    record = span("1" * 32, 1, slot="desk.classify", input='{"message": "x"}', output='"a"', train_on_outputs=True)
    record["attributes"][Names.REQUEST_MODEL] = "m" * 70_000
    (stored,) = app.tracing.store([record])
    assert stored["scope"] == "imported:hetero_agents" and stored["attributes"].keys() == {Names.REQUEST_MODEL}
    assert not list(calls_of(app.vault, "desk.classify"))
    assert without_content(stored)["attributes"] == {} and without_content(stored)["name"] == "span"


def test_what_cannot_be_redacted_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App.of(Workspace(write_workspace(tmp_path, TOML.replace('content = "raw"', ""))), MemoryVault())

    def start(*arguments: object, **options: object) -> None:
        raise OSError("no memory")

    app.tracing.prepare()
    assert app.redaction
    app.redaction.close()
    monkeypatch.setattr(redaction_worker.subprocess, "Popen", start)
    with pytest.raises(HeteroError, match="redaction failed"):
        app.tracing.prepare()
    with pytest.raises(HeteroError, match="2 spans were not taken: redaction failed"):
        app.tracing.store(golden("openinference"))
    assert not list(app.vault.read())
    app.close()


def test_what_comes_in_is_redacted_and_its_sites_keep_their_names(tmp_path: Path) -> None:
    app = App.of(Workspace(write_workspace(tmp_path, TOML.replace('content = "raw"', ""))), MemoryVault())
    text = json.dumps(json_of([r for w in WRITERS for r in golden(w)])).replace(
        "Where is my money", "I am Grace Hopper"
    )
    text = text.replace("classifier", "Jordan")
    records, _ = records_of(request_of_json(json.loads(text)))
    stored = app.tracing.store(records)
    assert "Hopper" not in json.dumps(stored)
    assert {call.site for call in model_calls(stored)} == {"Jordan", "native", "classify"}
    assert {call.model for call in model_calls(stored)} == {"openai:gpt-5.2"}
    assert [s["name"] for s in stored if s["name"].startswith("chat")] == ["chat gpt-5.2"] * 2
    assert all(call.prompt and call.prompt.startswith("I am ") for call in model_calls(stored))
    app.close()
