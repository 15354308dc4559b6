"""The cache of answers: what it answers, for whom, for how long, and what stands on the disk."""

import asyncio
import logging
import os
import signal
import sqlite3
import warnings
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_ai import ModelRetry

from hetero_agents import ConfigError, EngineError, KeyAccessError, Slot, flush, slot, subject
from hetero_agents.bindings import Config, SpecialistId, Workspace
from hetero_agents.routing import AnswerCache, Kept
from hetero_agents.slots import App
from hetero_agents.spans import SealedVault, calls_of
from hetero_agents.spans.keyfiles import agent_key, keys_dir

from .conftest import OpenApp
from .support import TOML, answers, lock_entry

_KEPT = Kept("forty-two", "fake:big", "big", None, True, 0.5)

CACHED = TOML + '[slots."cache.name"]\ncache = "exact"\n'


def declared() -> Slot[[str], str]:
    @slot(name="cache.name")
    async def name(text: str) -> str:
        """Name it."""
        ...

    return name


def test_the_same_question_is_answered_once_and_the_span_says_so(open_app: OpenApp) -> None:
    big = answers("a", "b")
    app, name = open_app({"fake:big": big}, CACHED), declared()
    results = [asyncio.run(name.run(text)) for text in ("x", "x", "y")]
    assert [r.output for r in results] == ["a", "a", "b"]
    assert [r.route.decision for r in results] == ["kept", "cached", "kept"]
    assert (results[1].model, results[1].route.binding, results[1].usage.input_tokens) == (results[0].model, "big", 0)
    assert len(big.asked) == 2
    flush()
    calls = sorted(calls_of(app.vault, "cache.name"), key=lambda call: call.start)
    assert [(call.input, call.output, call.trainable) for call in calls] == [
        ({"text": "x"}, "a", True),
        ({"text": "x"}, "a", True),
        ({"text": "y"}, "b", True),
    ]


def test_without_a_word_in_hetero_toml_nothing_is_cached(open_app: OpenApp, tmp_path: Path) -> None:
    open_app({"fake:big": answers("a", "b")})
    name = declared()
    assert [asyncio.run(name("x")) for _ in range(2)] == ["a", "b"]
    assert not (tmp_path / ".hetero" / "cache.db").exists()


def test_another_process_finds_the_answer_and_a_forked_one_has_its_own_connection(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.db", lambda: b"k" * 32)
    cache.keep(_KEPT, 60, "q", {"b": 1})
    cache._database._lock.acquire()  # pyright: ignore[reportPrivateUsage]  # as another thread holds it while this one forks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads live, of which this test is about one
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            cache.keep(_KEPT, 60, "of the child")
            assert cache.find("q", {"b": 1}) == _KEPT
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    cache._database._lock.release()  # pyright: ignore[reportPrivateUsage]
    assert status == 0
    assert cache.find("of the child") == _KEPT
    assert cache.find("q", {"b": 2}) is None
    cache.close()


def test_an_answer_is_kept_for_its_time_and_deleted_after_it(tmp_path: Path) -> None:
    now = [1000.0]
    cache = AnswerCache(tmp_path / "c.db", lambda: bytes(32), clock=lambda: now[0])
    cache.keep(_KEPT, 10, "q")
    now[0] = 1009.0
    assert cache.find("q") == _KEPT
    now[0] = 1010.0
    assert cache.find("q") is None
    cache.keep(_KEPT, 10, "other")
    cache.close()
    with sqlite3.connect(tmp_path / "c.db") as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    connection.close()


def test_a_promoted_specialist_is_asked_anew(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("a"), "cache.name@1": answers("s")}, CACHED)
    name = declared()
    assert asyncio.run(name("x")) == "a"
    made = SpecialistId("cache.name@1")
    app.workspace.add_specialist(made, lock_entry("cache.name", name.contract.sha256))
    app.workspace.activate(name.id, made)
    assert [asyncio.run(name("x")) for _ in range(2)] == ["s", "s"]


def test_another_model_under_the_same_name_is_asked_anew(open_app: OpenApp) -> None:
    app = open_app({"fake:big": answers("a"), "fake:other": answers("b")}, CACHED)
    name = declared()
    assert asyncio.run(name("x")) == "a"
    path = app.workspace.config_path
    path.write_text(path.read_text().replace("fake:big", "fake:other"))
    assert asyncio.run(name("x")) == "b"


def test_what_a_fallback_answered_is_not_kept(open_app: OpenApp) -> None:
    small = answers(EngineError("no memory"), "s")
    open_app({"fake:small": small, "fake:big": answers("b")}, CACHED + 'model = "small"\nfallback = ["big"]\n')
    name = declared()
    assert [asyncio.run(name("x")) for _ in range(3)] == ["b", "s", "s"]
    assert len(small.asked) == 2


def test_an_output_that_json_does_not_bring_back_is_not_kept(open_app: OpenApp) -> None:
    class Login(BaseModel):
        user: str
        word: SecretStr

    @slot(name="cache.name")
    async def name(text: str) -> Login: ...

    big = answers({"user": "ann", "word": "sesame"})
    open_app({"fake:big": big}, CACHED)
    assert [asyncio.run(name("x")).word.get_secret_value() for _ in range(2)] == ["sesame", "sesame"]
    assert len(big.asked) == 2


def test_an_answer_that_a_check_refuses_by_now_is_asked_for_again(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("a", "b")}, CACHED)
    name = declared()
    assert asyncio.run(name("x")) == "a"

    @name.check
    def not_a(output: str) -> None:
        if output == "a":
            raise ModelRetry("Not a.")

    result = asyncio.run(name.run("x"))
    assert (result.output, result.route.decision) == ("b", "kept")


def test_answers_of_a_personal_slot_are_for_their_person_alone(open_app: OpenApp) -> None:
    open_app({"fake:big": answers("a", "b", "c", "d")}, CACHED + "personal = true\n")
    name = declared()

    def asked(person: str) -> str:
        with subject(person):
            return asyncio.run(name("x"))

    assert [asked("ann"), asked("bob"), asked("ann"), asked("bob")] == ["a", "b", "a", "b"]
    assert [asyncio.run(name("x")) for _ in range(2)] == ["c", "d"], "whose it is is not known"


def test_the_file_shows_neither_questions_nor_answers_and_opens_for_no_other_key(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    mine, other = AnswerCache(path, lambda: b"a" * 32), AnswerCache(path, lambda: b"b" * 32)
    mine.keep(_KEPT, 60, "the question of Ann")
    assert other.find("the question of Ann") is None
    mine.close()
    other.close()
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"question" not in raw
    assert b"forty-two" not in raw


def test_a_damaged_answer_is_none(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "c.db", lambda: bytes(32))
    cache.keep(_KEPT, 60, "q")
    with sqlite3.connect(tmp_path / "c.db") as connection:
        connection.execute("UPDATE answers SET sealed = sealed || x'00'")
    connection.close()
    assert cache.find("q") is None
    cache.close()


def test_without_a_key_calls_go_on_and_one_sentence_says_it(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = open_app({"fake:big": answers("a", "b", "c")}, CACHED)
    name = declared()
    monkeypatch.setenv("HETERO_AGENT_KEY", "not a key")
    app.cache = AnswerCache(app.workspace.state_dir / "cache.db", lambda: agent_key(lambda: "v"))
    with caplog.at_level(logging.WARNING, "hetero_agents"):
        assert [asyncio.run(name("x")) for _ in range(3)] == ["a", "b", "c"]
    assert [record.getMessage() for record in caplog.records] == [
        "Answers are not cached: The agent's key is not 64 hexadecimal digits; make one with `openssl rand -hex 32`."
    ]


def test_where_the_file_cannot_be_used_calls_go_on_and_one_sentence_says_it(
    open_app: OpenApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_app({"fake:big": answers("a", "b", "c")}, CACHED)
    (tmp_path / ".hetero").mkdir(exist_ok=True)
    (tmp_path / ".hetero" / "cache.db").write_text("This is no database. " * 100)
    name = declared()
    with caplog.at_level(logging.WARNING, "hetero_agents"):
        assert [asyncio.run(name("x")) for _ in range(3)] == ["a", "b", "c"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("Answers are not cached: ") and "not a database" in warning


def test_the_agents_key_lies_with_the_private_keys_and_opens_nothing_of_the_vault(tmp_path: Path) -> None:
    vault = SealedVault(tmp_path / "vault")
    key = vault.agent_key()
    assert key == vault.agent_key()
    keyring = vault.keyring()
    assert keyring is not None
    file = keys_dir() / f"{keyring.vault}.agent.key"
    assert (bytes.fromhex(file.read_text()), file.stat().st_mode & 0o777) == (key, 0o600)
    assert not any(key.hex() in path.read_text("latin-1") for path in (tmp_path / "vault").rglob("*") if path.is_file())
    file.chmod(0o644)
    with pytest.raises(KeyAccessError, match="chmod 600"):
        vault.agent_key()
    vault.close()


def test_a_workspace_of_its_own_vault_caches_under_the_agents_key(tmp_path: Path) -> None:
    (tmp_path / "hetero.toml").write_text(CACHED)
    app = App.of(Workspace(tmp_path))
    app.cache.keep(_KEPT, 60, "q")
    app.close()
    again = App.of(Workspace(tmp_path))
    assert again.cache.find("q") == _KEPT
    other = AnswerCache(tmp_path / ".hetero" / "cache.db", bytes)
    other.clear()
    other.close()
    assert again.cache.find("q") is None
    again.close()


def test_another_word_for_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hetero.toml").write_text(CACHED.replace('"exact"', '"similar"'))
    with pytest.raises(ConfigError, match="'similar'"):
        Config.load(tmp_path / "hetero.toml")
