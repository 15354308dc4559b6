"""Redaction of whole spans: what is found goes everywhere, the form stays, what cannot be read is not kept."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Any

import psutil
import pytest

from hetero_agents import ConfigError, OneOf, slot, subject
from hetero_agents.bindings import Config, Workspace
from hetero_agents.slots import App, registry
from hetero_agents.spans import Names, SpanRecord, Tracing, calls_of
from hetero_agents.spans.redaction import RedactionSettings, RedactionWorker
from hetero_agents.spans.redaction import worker as redaction_worker
from hetero_agents.spans.redaction.redactor import Found, Redactor
from hetero_agents.spans.redaction.surrogates import Surrogates

from .conftest import OpenApp
from .support import TOML, FakeEngines, answers, write_workspace

KEY = bytes(32)


class ByRule:
    """Finds what regular expressions say; texts with `ñ` it cannot read."""

    def __init__(self, **rules: str) -> None:
        self.rules = rules
        self.asked: list[str] = []

    def find(self, texts: Sequence[str]) -> list[list[Found] | None]:
        self.asked.extend(texts)
        return [
            None
            if "ñ" in text
            else [Found(m.start(), m.end(), kind) for kind, rule in self.rules.items() for m in re.finditer(rule, text)]
            for text in texts
        ]


def record(trace: str = "1", name: str = "slot desk", scope: str = "hetero_agents", **fields: Any) -> SpanRecord:
    empty: dict[str, Any] = {
        "span_id": "a" * 16,
        "parent_id": None,
        "kind": "INTERNAL",
        "start": 1,
        "end": 2,
        "status": "OK",
        "message": None,
        "attributes": {},
        "events": [],
        "links": [],
        "resource": {},
    }
    return {**empty, "trace_id": trace, "name": name, "scope": scope, **fields}  # type: ignore[return-value]


def redacted(detector: ByRule, *records: SpanRecord, **options: Any) -> list[SpanRecord]:
    return Redactor(detector, Surrogates(KEY), **options).redact(records)[0]


def test_a_value_found_anywhere_in_a_run_is_replaced_everywhere_in_it() -> None:
    detector = ByRule(PERSON="Ada Byron(?= called)")
    spans = redacted(
        detector,
        record(
            message="Ada Byron called",
            events=[{"name": "exception", "time": 1, "attributes": {"message": "no ADA BYRON"}}],
        ),
        record(
            attributes={
                Names.INPUT: '{"who":"Ada Byron","note":"{\\"by\\": \\"Ada Byron\\"}"}',
                Names.OUTPUT: '"Mrs Byron"',
            }
        ),
    )
    assert "Byron" not in json.dumps(spans)
    assert "BYRON" not in json.dumps(spans)
    message = spans[0]["message"] or ""
    new = message.removesuffix(" called")
    given = json.loads(spans[1]["attributes"][Names.INPUT])
    assert given["who"] == new
    assert json.loads(given["note"]) == {"by": new}
    assert json.loads(spans[1]["attributes"][Names.OUTPUT]) == f"Mrs {new.split()[1]}"
    assert spans[0]["events"][0]["attributes"]["message"] == f"no {new.upper()}"


def test_later_spans_of_a_run_are_redacted_like_the_earlier_ones() -> None:
    redactor = Redactor(ByRule(PERSON="Ada(?= called)"), Surrogates(KEY))
    first = redactor.redact([record(message="Ada called")])[0][0]["message"] or ""
    assert redactor.redact([record(message="it was Ada")])[0][0]["message"] == f"it was {first.split()[0]}"
    assert redactor.redact([record("2", message="it was Ada")])[0][0]["message"] == "it was Ada", "another run"


def test_a_word_is_not_replaced_in_another_word_nor_a_number_in_another_number() -> None:
    span = redacted(ByRule(PERSON="^Ann", PHONE_NUMBER="^12345|12345$"), record(message="Ann's Annual report"))[0]
    assert re.fullmatch(r"(?!Ann)\w+'s Annual report", span["message"] or "")
    span = redacted(ByRule(PHONE_NUMBER="^12345"), record(message="12345 of 9123456"))[0]
    assert re.fullmatch(r"(?!12345)\d{5} of 9123456", span["message"] or "")


def test_what_was_found_inside_of_a_word_is_replaced_inside_of_words() -> None:
    spans = redacted(
        ByRule(PERSON="Ann(?=_)"), record(message="Ann_x"), record(message="user_Ann7, annual planning in Hannover")
    )
    assert "Ann" not in json.dumps(spans)
    assert (spans[1]["message"] or "").endswith(", annual planning in Hannover")


def test_of_values_that_overlap_none_is_left() -> None:
    detector = ByRule(
        PERSON=r"Grace Hopper [\d-]+", PHONE_NUMBER=r"[\d-]{8,}", LOCATION="Springfield|21 Harbor Street, Spring"
    )
    spans = redacted(detector, record(message="Grace Hopper 212-555-0143"), record(message="call 212-555-0143, Hopper"))
    assert not re.search(r"555|0143|Hopper", json.dumps(spans))
    assert (spans[0]["message"] or "")[-12:] == (spans[1]["message"] or "")[5:17], "the same number"
    detector = ByRule(LOCATION=r"21 Harbor Street, Springfield(?= is)|Springfield")
    spans = redacted(
        detector,
        record(message="21 Harbor Street, Springfield is it"),
        record(message="to 21 Harbor Street, Springfield"),
    )
    assert "Harbor" not in json.dumps(spans)


def test_one_word_that_is_a_value_stays_a_word_in_small_letters() -> None:
    spans = redacted(
        ByRule(PERSON="^Mark", LOCATION="US(?= in)"),
        record(message="Mark the US in May"),
        record(message="mark it for us, MARK"),
    )
    assert re.fullmatch(r"mark it for us, (?!MARK)[A-Z]+", spans[1]["message"] or "")


def test_keys_are_redacted_and_no_entry_is_lost() -> None:
    detector = ByRule(PERSON="Byron(?= called)", EMAIL_ADDRESS=r"\w+@\w+\.org")
    given = json.dumps({"Byron": 1, "ada@byron.org": 2, "by_x": 3})
    span = record(
        scope="other", message="Byron called", attributes={"given": given, "Byron": 4, "eve@byron.org": 5},
        events=[{"name": "e", "time": 1, "attributes": {"Byron": 6}}],
    )  # fmt: skip
    new = redacted(detector, span)[0]
    assert not re.search("Byron|byron.org", json.dumps(new))
    assert list(json.loads(new["attributes"]["given"]).values()) == [1, 2, 3]


def test_json_that_has_a_key_twice_or_stands_in_a_text_is_redacted_too() -> None:
    texts = ['{"who":"Ada Byron","who":"x"}', '\n {"note":"Dear\\nByron"}', '```json\n{"note":"Dear\\nByron"}\n```']
    spans = redacted(ByRule(PERSON="Ada Byron"), record(message="Ada Byron"), *(record(message=text) for text in texts))
    assert "Byron" not in json.dumps(spans)


def test_short_numbers_that_are_known_are_replaced_as_well() -> None:
    spans = redacted(
        ByRule(BADGE="(?<=badge )[0-9]+"), record(message="badge 12345"), record(attributes={"a": '{"n":12345,"m":54}'})
    )
    given = json.loads(spans[1]["attributes"]["a"])
    assert given["n"] != 12345
    assert given["m"] == 54


def test_an_answer_that_is_a_number_stays_json() -> None:
    for number in range(30):
        span = record(str(number), attributes={Names.OUTPUT: "536228145"})
        new = redacted(ByRule(US_SSN=r"\d{9}"), span)[0]["attributes"][Names.OUTPUT]
        assert isinstance(json.loads(new), int)
        assert new != "536228145"


def test_a_subject_is_nowhere_told_beside_its_pseudonym() -> None:
    span = record(message="customer C-1029-K", attributes={Names.SUBJECT: "C-1029-K"})
    assert "C-1029-K" not in json.dumps(redacted(ByRule(), span))


@pytest.mark.parametrize("text", ["http://[abc/def", "[" * 100_000, "x" * 300_000, "cut \ud83d", "Ada" + "\ud83d"])
def test_a_text_that_breaks_something_costs_no_other_span_its_content(text: str) -> None:
    class Strict(ByRule):
        def find(self, texts: Sequence[str]) -> list[list[Found] | None]:
            for text in texts:
                text.encode()
            return super().find(texts)

    detector = Strict(URL="http://.*", PERSON="Ada")
    spans = redacted(detector, record(message=text, attributes={"a": text}), record(message="fine"))
    assert spans[1]["message"] == "fine"
    assert "Ada" not in json.dumps(spans)
    assert "abc/def" not in json.dumps(spans)


def test_what_is_neither_text_nor_number_is_not_kept() -> None:
    span = redacted(ByRule(), record(attributes={"a": b"photo", Names.SLOT: "desk"}))[0]
    assert span["attributes"] == {Names.SLOT: "desk"}


def test_numbers_keep_their_type() -> None:
    detector = ByRule(CREDIT_CARD=r"\d{16}")
    attributes = {Names.INPUT: '{"card":4111111111111111,"count":3,"on":true,"price":2.5}'}
    given = json.loads(redacted(detector, record(attributes=attributes))[0]["attributes"][Names.INPUT])
    assert isinstance(given["card"], int)
    assert given["card"] != 4111111111111111
    assert (given["count"], given["on"], given["price"]) == (3, True, 2.5)


def test_a_short_value_is_read_together_with_its_fields_name() -> None:
    detector = ByRule(SECRET=r"(?<=pass word: )\S+")
    given = json.loads(
        redacted(detector, record(attributes={"args": '{"pass_word":"hunter2"}'}))[0]["attributes"]["args"]
    )
    assert given["pass_word"] != "hunter2"


def test_structure_stays_and_origin_goes() -> None:
    span = record(
        attributes={
            Names.SLOT: "desk.Ada",
            "gen_ai.usage.input_tokens": 5,
            "host.name": "ada-laptop",
            "session.id": "77",
        },
        resource={"service.name": "s", "host.name": "ada-laptop", "process.command_args": ["python"]},
    )
    new = redacted(ByRule(PERSON="Ada"), span)[0]
    assert new["attributes"] | {"session.id": ""} == {
        Names.SLOT: "desk.Ada",
        "gen_ai.usage.input_tokens": 5,
        "session.id": "",
    }
    assert new["attributes"]["session.id"] != "77"
    assert new["resource"] == {"service.name": "s"}


def test_spans_of_other_libraries_have_nothing_that_is_taken_for_structure() -> None:
    span = redacted(
        ByRule(PERSON="Ada"), record(name="ask Ada", scope="other", attributes={"Ada K": "Ada", Names.SLOT: "Ada"})
    )[0]
    assert "Ada" not in json.dumps(span)


def test_what_is_in_a_language_that_is_not_spoken_is_dropped_and_counted() -> None:
    redactor = Redactor(ByRule(), Surrogates(KEY))
    spans, dropped = redactor.redact([record(attributes={"a": "el niño", Names.SLOT: "desk"}), record(message="fine")])
    assert dropped == 1
    assert spans[0]["attributes"] == {Names.SLOT: "desk"}
    assert spans[1]["message"] == "fine"


def test_a_parameter_that_holds_nothing_personal_stays() -> None:
    attributes = {Names.SLOT: "desk", Names.INPUT: '{"tool":"Ada","who":"Ada"}'}
    span = redacted(ByRule(PERSON="Ada"), record(attributes=attributes), unredacted={"desk": ["tool"]})[0]
    given = json.loads(span["attributes"][Names.INPUT])
    assert given["tool"] == "Ada"
    assert given["who"] != "Ada"


PEOPLE = {"Alice": "accountant", "Robert": "boss, over Alice"}


def asked(people: Any, **attributes: str) -> SpanRecord:
    """A call of which OneOf names `people`, and its answer."""
    given = json.dumps({"people": people, "schema": {"properties": {"Alice": {"type": "string"}}}})
    told = {Names.SLOT: "desk", Names.INPUT: given, Names.OUTPUT: '"Robert"', Names.ONE_OF: "people", **attributes}
    return record(attributes=told)


def test_options_with_descriptions_are_redacted_like_those_of_a_list_and_the_answer_with_them() -> None:
    detector = ByRule(PERSON="(?<=people: )(Alice|Robert)")
    spans = [redacted(detector, asked(people))[0] for people in (list(PEOPLE), PEOPLE)]
    assert "Robert" not in json.dumps(spans)
    (listed, described), (answer, again) = (
        [json.loads(span["attributes"][key]) for span in spans] for key in (Names.INPUT, Names.OUTPUT)
    )
    alice, robert = listed["people"]
    assert described["people"] == {alice: "accountant", robert: f"boss, over {alice}"}
    assert answer == again == robert
    assert spans[0]["attributes"][Names.ONE_OF] == "people"


def test_names_in_code_stay_where_options_are_redacted() -> None:
    (span,) = redacted(ByRule(PERSON="Alice|Robert|type"), asked({"Robert": "boss"}))
    assert json.loads(span["attributes"][Names.INPUT])["schema"] == {"properties": {"Alice": {"type": "string"}}}
    (span,) = redacted(ByRule(PERSON="Alice"), asked({"Alice": "accountant"}, **{Names.ONE_OF: "others"}))
    assert json.loads(span["attributes"][Names.INPUT])["people"] == {"Alice": "accountant"}


def test_options_with_descriptions_stay_where_the_slot_says_so() -> None:
    detector = ByRule(PERSON="Alice|Robert")
    (span,) = redacted(detector, asked(PEOPLE), unredacted={"desk": ["people"]})
    assert json.loads(span["attributes"][Names.INPUT])["people"] == PEOPLE


def test_of_options_that_become_alike_none_is_lost() -> None:
    class Alike(Surrogates):
        def of(self, scope: str, kind: str, value: str) -> str:
            return "Mary"

    redactor = Redactor(ByRule(PERSON="Alice|Robert"), Alike(KEY))
    (span,) = redactor.redact([asked(PEOPLE)])[0]
    assert list(json.loads(span["attributes"][Names.INPUT])["people"].values()) == ["accountant", "boss, over Mary"]


def test_surrogates_are_a_subjects_own_unless_links_are_asked_for() -> None:
    def whos(**options: Any) -> list[str]:
        spans = [
            record(trace, message="Ada", attributes={Names.SUBJECT: subject})
            for trace, subject in (("1", "x"), ("2", "x"), ("3", "y"))
        ]
        return [span["message"] or "" for span in redacted(ByRule(PERSON="Ada"), *spans, **options)]

    first, again, other = whos()
    assert first == again != other
    assert len(set(whos(link_subjects=True))) == 1


def test_a_text_is_looked_at_once() -> None:
    detector = ByRule()
    redactor = Redactor(detector, Surrogates(KEY))
    for _ in range(2):
        redactor.redact([record(message="the same"), record(message="the same")])
    assert detector.asked == ["the same"]


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        ("PERSON", "Dr. ADA M. byron", r"Dr\. [A-Z]+ [A-Z]\. [a-z]+"),
        ("EMAIL_ADDRESS", "ada@byron.org", r"[a-z.]+@example\.(com|org|net)"),
        ("PHONE_NUMBER", "+44 (0)20 7946-0958", r"\+44 \(\d\)\d{2} \d{4}-\d{4}"),
        ("IP_ADDRESS", "10.1.2.3", r"198\.1[89]\.\d+\.\d+"),
        ("IP_ADDRESS", "fe80::1", r"2001:db8(:[0-9a-f]+){6}"),
        ("URL", "https://u:pw@host.org/a/7", r"https://[a-z]+\.example\.com/\w/\d"),
        ("DATE_OF_BIRTH", "1984-03-31", r"\d{4}-\d{2}-\d{2}"),
        ("DATE_OF_BIRTH", "March 3, 1984", r"[A-Z][a-z]+ \d, \d{4}"),
        ("US_SSN", "078-05-1120", r"\d{3}-\d{2}-\d{4}"),
        ("SECRET", "sk-abcDEF123", r"sk-[a-z]{3}[A-Z]{3}\d{3}"),
        ("LOCATION", "Turin", r"[A-Z][A-Za-z ]+"),
        ("LOCATION", "SW1A 2AA", r"[A-Z]{2}\d[A-Z] \d[A-Z]{2}"),
        ("MEDICAL_RECORD", "MR-00417", r"[A-Z]{2}-\d{5}"),
    ],
)
def test_a_surrogate_has_the_form_of_its_value_and_is_always_the_same(kind: str, value: str, form: str) -> None:
    new = Surrogates(KEY).of("run 1", kind, value)
    assert re.fullmatch(form, new), new
    assert new != value
    assert new == Surrogates(KEY).of("run 1", kind, value)
    assert len({Surrogates(KEY).of(f"run {n}", kind, value) for n in range(5)}) > 1
    assert new != Surrogates(b"\1" * 32).of("run 1", kind, value)


@pytest.mark.parametrize("value", ["4111 1111 1111 1111", "378282246310005"])
def test_a_cards_surrogate_passes_its_check(value: str) -> None:
    new = Surrogates(KEY).of("", "CREDIT_CARD", value)
    digits = [int(c) for c in new if c.isdigit()][::-1]
    assert sum(digits[::2]) % 10 + sum(sum(divmod(2 * d, 10)) for d in digits[1::2]) % 10 in (0, 10)
    assert re.sub(r"\d", "0", new) == re.sub(r"\d", "0", value)


def test_an_ibans_surrogate_passes_its_check() -> None:
    new = Surrogates(KEY).of("", "IBAN_CODE", "GB29 NWBK 6016 1331 9268 19").replace(" ", "")
    assert int("".join(str(int(c, 36)) for c in new[4:] + new[:4])) % 97 == 1


def test_a_language_without_a_model_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"\[privacy\] languages names 'fr', for which there is no model"):
        RedactionSettings(languages=["fr"])


# -- the real detector, in its process -------------------------------------------------------------

TOLD = (
    "My name is Grace Hopper, born on 1906-12-09. Write to grace@navy.example or call (212) 555-0143. Card 4111 1111 1111 1111, "
    "IBAN GB82 WEST 1234 5698 7654 32, SSN 536-22-8145. I live at 21 Harbor Street, Springfield, MA 01101. "
    "From 84.17.3.9, see https://grace:pw@host.example/me. The api_key is sk-live-9a8B7c6D5e4F3a2B1c0D, MRN: 00412345, in /Users/ghopper/x."
)
SECRETS = (
    "Grace", "Hopper", "1906", "grace@", "555-0143", "4111 1111", "WEST 1234", "536-22", "Harbor Street", "01101", "84.17.3.9",
    "pw@host", "9a8B7c6D", "00412345", "ghopper",
)  # fmt: skip


@pytest.fixture(scope="module")
def worker() -> Generator[RedactionWorker]:
    worker = RedactionWorker(RedactionSettings(rules={"EMPLOYEE_ID": r"\bE-\d{4}\b"}), lambda: KEY)
    yield worker
    worker.close()


def test_personal_values_of_many_kinds_are_replaced(worker: RedactionWorker) -> None:
    span = worker([record(attributes={"gen_ai.input.messages": json.dumps([{"role": "user", "content": TOLD}])})])[0]
    text = json.loads(span["attributes"]["gen_ai.input.messages"])[0]["content"]
    assert [secret for secret in SECRETS if secret in text] == []
    assert text.startswith("My name is ")
    assert "The api_key is sk-live-" in text


def test_what_names_nobody_stays(worker: RedactionWorker) -> None:
    told = (
        "Please book a table for two at 7 pm, outside, for 40 dollars; order 1234 came on 2024-03-05. See settings.py."
    )
    assert worker([record(message=told)])[0]["message"] == told


def test_own_rules_are_kept_to(worker: RedactionWorker) -> None:
    assert re.fullmatch(r"badge (?!E-1234)[A-Z]-\d{4}", worker([record(message="badge E-1234")])[0]["message"] or "")


def test_text_in_another_language_is_dropped_aloud(worker: RedactionWorker, caplog: pytest.LogCaptureFixture) -> None:
    german = "Ich heiße Erika Mustermann und wohne seit vielen Jahren in der Nähe von Köln am Rhein."
    spans = worker([record(message=german), record(message="私の名前は田中です"), record(message="fine")])
    assert [span["message"] for span in spans] == [None, None, "fine"]
    assert "The content of 2 spans is not stored (2 so far): it is too long, or in a language" in caplog.text
    assert "Erika" not in caplog.text


def test_a_redactor_that_dies_costs_content_and_not_spans(caplog: pytest.LogCaptureFixture) -> None:
    others = {process.pid for process in psutil.Process().children()}
    worker = RedactionWorker(RedactionSettings(), lambda: KEY)
    assert worker([record(message="Grace Hopper")])[0]["message"] not in (None, "Grace Hopper")
    (process,) = (p for p in psutil.Process().children() if p.pid not in others)
    process.suspend()
    threading.Timer(0.5, process.kill).start()
    lost = worker([record(message="Grace Hopper", attributes={Names.SLOT: "desk"})])[0]
    assert (lost["message"], lost["attributes"]) == (None, {Names.SLOT: "desk"})
    assert "The content of 1 spans is not stored (1 so far): redaction failed" in caplog.text
    assert "Hopper" not in caplog.text
    assert worker([record(message="fine")])[0]["message"] == "fine", "another one is started"
    worker.close()


def test_a_redactor_that_is_too_slow_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redaction_worker, "START_SECONDS", 0.0)
    monkeypatch.setattr(redaction_worker, "BATCH_SECONDS", 0.1)
    others = {process.pid for process in psutil.Process().children()}
    worker = RedactionWorker(RedactionSettings(), lambda: KEY)
    assert worker([record(message="Grace Hopper")])[0]["message"] is None
    assert {process.pid for process in psutil.Process().children()} <= others
    assert "TimeoutError" in caplog.text


def test_ids_are_no_words_of_another_language() -> None:
    from hetero_agents.spans.redaction import presidio

    detector = presidio.PresidioDetector()
    texts = [
        "gen ai.agent.call.id: 01a206e4-5026-705b-888a-2d0e384dc0af",
        "/opt/der/die/das/und/nicht/auch/wenn",
        "modul.klasse.der.die.das.und.nicht",
        "Bitte sagen Sie mir doch, wo mein Paket heute ist.",
    ]
    assert [found is None for found in detector.find(texts)] == [False, False, False, True]


def test_after_failures_in_a_row_no_other_redactor_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def start(*arguments: object, **options: object) -> None:
        started.append(arguments)
        raise OSError("no memory")

    monkeypatch.setattr(redaction_worker.subprocess, "Popen", start)
    worker = RedactionWorker(RedactionSettings(), lambda: KEY)
    spans = [worker([record(message="Grace")])[0]["message"] for _ in range(5)]
    assert spans == [None] * 5
    assert len(started) == redaction_worker.TRIES


def test_a_slots_call_is_stored_redacted_and_its_copy_is_still_a_copy(tmp_path: Path) -> None:
    @slot(name="redaction.who")
    async def who(message: str) -> str: ...

    toml = TOML.replace('content = "raw"', "")
    app = App.of(Workspace(write_workspace(tmp_path, toml)))
    app.engines = FakeEngines(tmp_path, models={"fake:big": answers("Grace Hopper")})
    registry.use(app)
    assert asyncio.run(who("My name is Grace Hopper.")) == "Grace Hopper", "the agent gets what was said"
    app.tracing.flush()
    text = json.dumps(list(app.vault.read()))
    assert "Hopper" not in text
    (call,) = calls_of(app.vault, "redaction.who")
    assert call.input == {"message": f"My name is {call.output}."}
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Hopper" not in stored
    app.close()


def test_a_call_says_which_of_its_parameters_holds_its_options(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("Alice")})
    redactor = Redactor(ByRule(PERSON="(?<=people: )(Alice|Robert)"), Surrogates(KEY))
    app.tracing.close()
    app.tracing = Tracing(app.vault, redact=lambda records, strict=False: redactor.redact(records)[0])

    @slot(name="redaction.pick")
    async def pick(request: str, people: dict[str, str]) -> Annotated[str, OneOf("people")]: ...

    assert asyncio.run(pick("Who pays?", PEOPLE)) == "Alice"
    app.tracing.flush()
    (call,) = calls_of(app.vault, "redaction.pick")
    assert call.output == next(iter(call.input["people"]))
    assert not re.search("Alice|Robert", json.dumps([call.input, call.output]))


def test_without_the_packages_content_is_left_out_and_a_sentence_says_so(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hetero_agents.slots.app.redaction_is_installed", lambda: False)
    app = open_app({"fake:big": answers("y")}, TOML.replace('content = "raw"', ""))

    @slot(name="redaction.none")
    async def none(message: str) -> str: ...

    for _ in range(2):
        asyncio.run(none("Grace"))
        app.tracing.flush()
    assert "Grace" not in json.dumps(list(app.vault.read()))
    assert caplog.text.count("pip install 'hetero_agents[privacy]'") == 1


def test_content_that_nobody_wants_is_not_stored(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("y")}, TOML.replace('"raw"', '"none"'))

    @slot(name="redaction.no")
    async def no(message: str) -> str: ...

    asyncio.run(no("Grace"))
    app.tracing.flush()
    spans = list(app.vault.read())
    assert len(spans) == 2
    assert "Grace" not in json.dumps(spans)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ('[privacy]\ncontent = "plain"', "'privacy.content' is wrong: input should be 'redacted', 'raw' or 'none'"),
        ('[privacy.rules]\nX = "["', "the rule X is no regular expression"),
        ("[privacy]\nlanguages = []", "'privacy.languages' is wrong"),
        ("[privacy]\nlanguage = 1", "the key 'privacy.language' does not exist, did you mean 'languages'"),
    ],
)
def test_a_wrong_privacy_section_is_refused_in_a_sentence(tmp_path: Path, toml: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        Config.load(write_workspace(tmp_path, toml) / "hetero.toml")


def test_pictures_are_not_stored(open_app: OpenApp) -> None:
    app = open_app({}, TOML.replace('"raw"', '"none"'))
    assert not app.tracing.settings.include_binary_content
    assert open_app({}).tracing.settings.include_binary_content


def test_every_span_says_its_subject(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("y")})

    @slot(name="redaction.of")
    async def of(message: str) -> str: ...

    with subject("c-7"):
        asyncio.run(of("x"))
    app.tracing.flush()
    assert [span["attributes"].get(Names.SUBJECT) for span in app.vault.read()] == ["c-7", "c-7"]


def test_recognizers_of_entry_points_are_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from hetero_agents.spans.redaction import presidio, recognizers

    class Point:
        def load(self) -> Any:
            return lambda: [recognizers.pattern_recognizer("PROJECT", {"code name": ("Bluebird", 0.9)})]

    def points(group: str) -> list[Point]:
        assert group == "hetero_agents.recognizers"
        return [Point()]

    monkeypatch.setattr(recognizers.importlib.metadata, "entry_points", points)
    assert presidio.PresidioDetector().find(["it is called Bluebird"]) == [[Found(13, 21, "PROJECT")]]
