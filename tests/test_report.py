"""The report's promises: each score with n and interval, an answer key never passed off as an LLM, one safe file."""

from __future__ import annotations

import io
import re
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hetero_agents.distill import wilson
from hetero_agents.errors import MissingExtraError
from hetero_agents.report import demo_table, write_report

SENTENCE = "The LLM of this run is played by an answer key (recorded ground truth)"
HOSTILE = "</pre><script>alert(1)</script><img src=//evil.example/x.png onerror=alert(1)>"


def score(right: int, n: int) -> dict[str, float]:
    return wilson(right, n).model_dump(include={"score", "low", "high"})


def slot(n: int, specialist: int, *, code: bool) -> dict[str, Any]:
    difference = {"difference": 0.4123, "low": 0.3312, "high": 0.4807}
    return {
        "n": n,
        "teacher": score(n, n),
        "base_grammar": score(n // 3, n),
        "base_five_shot": score(n // 2, n),
        "plain_code": score(n // 2 + 3, n) if code else None,
        "plain_code_name": "word_overlap" if code else None,
        "plain_code_all": {"word_overlap": score(n // 2 + 3, n), "most_frequent": score(n // 9, n)} if code else {},
        "matcher": score(n // 2 + 5, n) if code else None,
        "specialist": score(specialist, n),
        "valid": score(n - 1, n),
        "differences": {
            "base_grammar": difference,
            "base_five_shot": {"difference": 0.02, "low": -0.031, "high": 0.072},
            "plain_code": difference if code else None,
            "matcher": {"difference": 0.01, "low": -0.04, "high": 0.06} if code else None,
        },
        "examples_trained": 430,
        "train_seconds": 190.0,
        "learning_curve": [[40 * step, 2.2 / step**0.7] for step in range(1, 12)],
        "specialist_id": "desk.choose@1",
        "base": "local:smollm2-135m-instruct",
        "unseen_tools": {"n": 57, "specialist": score(40, 57), "plain_code": score(30, 57) if code else None},
        "goal": 0.85,
    }


def made_report(teacher_kind: str = "answer key") -> dict[str, Any]:
    key = teacher_kind == "answer key"
    return {
        "teacher_kind": teacher_kind,
        "created": "2026-03-01T12:00:00+00:00",
        "machine": {"cores": 2, "python": "3.11.7"},
        "slots": {"desk.choose": slot(221, 197, code=True), "desk.fill": slot(203, 131, code=False)},
        "calls": {"total": 424, "by_specialist": 401, "by_llm": 23},
        "workflow": {
            "before": {"n": 103, **score(99, 103)},
            "after": {"n": 103, **score(80, 103)},
            "agent_after": {"n": 103, **score(75, 103)},
        },
        "tokens": {"before": {"input": 150.1, "constant": 28.2}, "after": {"input": 98.0, "constant": 2.0}},
        "seconds_per_call": {"before": None if key else 1.234, "after": 0.31},
        "seconds": {"llm_run": 12.0, "distill desk.choose": 300.0, "distill desk.fill": 4000.0},
        "downloads_seconds": 20.1,
        "split": {"key": "near-duplicate clusters of 'request'", "trained_items": ["live_multiple_1-0-0"]},
        "notes": ["The order of the examples was drawn once, by seed 7."],
    }


def prediction(phase: str, item: str, *, right: bool, output: Any = "get_weather", **other: Any) -> dict[str, Any]:
    line = {
        "phase": phase,
        "slot": "desk.choose",
        "item": item,
        "input": {"request": f"Weather for {item}?", "tools": ["get_weather", "get_time"]},
        "output": output,
        "target": "get_weather",
        "right": right,
        "model": "smollm2",
        "route": "kept",
        "prompt_tokens": 98,
        "seconds": 0.3,
    }
    return line | other


def page(tmp_path: Path, report: dict[str, Any], predictions: list[dict[str, Any]] | None = None) -> str:
    write_report(report, predictions or [], tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


def table(report: dict[str, Any], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(demo_table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_matcher_stands_in_the_table_and_on_the_page(tmp_path: Path) -> None:
    report = made_report()
    assert "minus matcher on embeddings (" in table(report)
    assert "matcher on embeddings" in visible(page(tmp_path, report))
    for entry in report["slots"].values():
        entry["matcher"] = entry["differences"]["matcher"] = None
    assert "classifier" not in table(report) + visible(page(tmp_path, report))


def visible(text: str) -> str:
    return re.sub(r"<[^>]+>", " ", text[text.index("<header>") : text.index("<footer>")])


class Loads(HTMLParser):
    """Collects whatever a browser could load or follow, and the scripts and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def parsed(text: str) -> Loads:
    parser = Loads()
    parser.feed(text)
    return parser


def test_an_answer_key_is_named_at_the_top_and_wherever_the_llm_stands(tmp_path: Path) -> None:
    text = page(tmp_path, made_report())
    assert SENTENCE in text[: text.index("<main>")]
    for section in ("Right answers on held-out examples", "The workflow and its calls"):
        body = text[text.index(f"<h2>{section}") :]
        assert SENTENCE in body[: body.index("<h2>", 4)]
    shown = visible(text[: text.index("<header>")] + text[text.index("<main>") :].replace("<main>", "<header>"))
    assert (
        len(re.findall("LLM", shown.replace(SENTENCE, "").replace("a real LLM", "")))
        == len(re.findall(r"LLM \(answer key\)", shown))
        > 4
    )
    assert SENTENCE in re.sub(r"\s+", " ", table(made_report()))


def test_an_answer_keys_seconds_are_not_shown_even_where_they_were_recorded(tmp_path: Path) -> None:
    report = made_report()
    report["seconds_per_call"]["before"] = 98.76
    for text in (page(tmp_path, report), table(report)):
        assert "n/a (answer key)" in text
        assert "98.76" not in text


def test_a_real_llm_has_its_name_and_its_seconds_and_no_answer_key(tmp_path: Path) -> None:
    report = made_report("openai:gpt-5.2")
    for text in (visible(page(tmp_path, report)), table(report)):
        assert "answer key" not in text
        assert "openai:gpt-5.2" in text
        assert "1.23 s" in text


def test_every_score_stands_with_its_n_and_its_interval(tmp_path: Path) -> None:
    report = made_report()
    rows = re.findall(r"<tr.*?</tr>", page(tmp_path, report), flags=re.DOTALL)
    for entry in report["slots"].values():
        held = [entry[name] for name in ("teacher", "base_grammar", "base_five_shot", "specialist")]
        for s in held + list(entry["plain_code_all"].values()):
            wanted = (f"{100 * s['score']:.1f} %", f"{100 * s['low']:.1f}–{100 * s['high']:.1f}", f">{entry['n']}<")
            assert any(all(part in row for part in wanted) for row in rows), wanted


def test_the_terminal_fits_100_columns_and_crops_no_figure() -> None:
    report = made_report()
    text = table(report)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for entry in report["slots"].values():
        assert f"n = {entry['n']}" in text
        for name in ("teacher", "base_grammar", "base_five_shot", "specialist"):
            assert f"{100 * entry[name]['score']:.1f}" in text
            assert f"{100 * entry[name]['low']:.1f}–{100 * entry[name]['high']:.1f}" in text


def test_names_that_look_like_terminal_markup_stay_text() -> None:
    report = made_report()
    report["slots"] = {"desk[bold]": report["slots"]["desk.fill"]}
    report["notes"] = ["see [link=https://evil.example]this[/link]"]
    text = table(report)
    assert "desk[bold]" in text
    assert "[link=https://evil.example]this[/link]" in text


def test_the_page_loads_nothing_and_repeats_no_id(tmp_path: Path) -> None:
    text = page(tmp_path, made_report(), [prediction("specialist", "a", right=True)])
    found = parsed(text)
    assert found.addresses
    assert all(address.startswith("#") for address in found.addresses)
    assert not {"link", "img", "iframe", "object", "base"} & set(found.tags)
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert len(found.ids) == len(set(found.ids))
    assert "default-src 'none'" in text


def test_the_policy_admits_the_pages_own_script_and_no_other(tmp_path: Path) -> None:
    text = page(tmp_path, made_report())
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 1
    assert f"'sha256-{b64encode(sha256(scripts[0].encode()).digest()).decode()}'" in text


def test_what_models_and_users_wrote_stays_text(tmp_path: Path) -> None:
    report = made_report()
    report["notes"] = [HOSTILE]
    report["slots"] = {HOSTILE: report["slots"]["desk.choose"], "cost $x$": report["slots"]["desk.fill"]}
    hostile = prediction("specialist", HOSTILE, right=False, output={"q": HOSTILE}, slot=HOSTILE)
    hostile["input"] = {HOSTILE: HOSTILE}
    text = page(tmp_path, report, [hostile])
    assert parsed(text).tags.count("script") == 1
    assert "img" not in parsed(text).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_wrong_answers_come_first_and_each_shows_what_the_others_said(tmp_path: Path) -> None:
    lines = [
        prediction("specialist", "right-one", right=True),
        prediction("specialist", "wrong-one", right=False, output="get_time"),
    ]
    lines += [
        prediction("base_grammar", "wrong-one", right=False, output=None),
        prediction("plain_code", "wrong-one", right=True, model="word_overlap"),
    ]
    text = page(tmp_path, made_report(), lines)
    listed = text[text.index("<h2>The specialists’ answers") :]
    assert listed.index("wrong-one") < listed.index("right-one")
    assert "none that met the contract" in listed
    assert "plain code, word overlap" in listed
    assert "2 of 2 answers listed, among them 1 of the 1 wrong" in re.sub(r"\s+", " ", listed)


def test_a_long_list_of_answers_says_what_it_leaves_out(tmp_path: Path) -> None:
    lines = [prediction("specialist", f"item-{n}", right=n % 2 == 0) for n in range(200)]
    text = page(tmp_path, made_report(), lines)
    assert text.count('<details class="answer"') == 40
    assert "40 of 200 answers listed, among them 28 of the 100 wrong" in text


def test_a_difference_whose_interval_holds_zero_is_not_called_a_win() -> None:
    assert "+2.0 points (−3.1 to +7.2), not decided" in table(made_report())


def test_a_goal_that_was_missed_is_said_to_be_missed(tmp_path: Path) -> None:
    report = made_report()
    for text in (page(tmp_path, report), table(report)):
        assert "goal of 85.0 % missed" in text
        assert "goal of 85.0 % reached" in text


def test_the_error_budget_is_in_the_table_and_on_the_page(tmp_path: Path) -> None:
    report = made_report()
    budget = {
        "error_budget": 0.1,
        "confidence": 0.95,
        "threshold": 0.8,
        "kept": 70,
        "wrong": 2,
        "upper_bound": 0.087,
        "missing": None,
        "kept_of_test": {**score(90, 208), "n": 208},
        "wrong_of_kept": {**score(3, 90), "n": 90},
        "reliability": [{"sure": 0.4 + n / 20, "right": 0.35 + n / 20, "n": 20} for n in range(10)],
        "calibration_error": 0.041,
    }
    report["slots"]["desk.choose"]["budget"] = budget
    report["slots"]["desk.fill"]["budget"] = {**budget, "threshold": None, "missing": "there are 20 answers"}
    report["workflow"]["within_budget"] = {"n": 103, **score(99, 103)}
    report["calls_within_budget"] = {"total": 206, "by_specialist": 80, "by_llm": 126}
    text = table(report, 400)
    for told in (
        "error budget 10.0 %, confidence 95.0 %: 2 of 70 kept answers wrong, at most 8.7 %",
        "43.3 % (36.7–50.1) of held-out calls are kept, 3.3 % (1.1–9.3) of them wrong",
        "nothing is kept, the LLM answers: there are 20 answers",
        "within the error budget 80 of 206 by specialists",
    ):
        assert told in text
    text = page(tmp_path, report)
    assert "Expected calibration error 4.1 %" in text
    assert "43.3 % (36.7–50.1) of held-out calls are kept" in text


def test_a_report_without_the_optional_parts_is_still_a_report(tmp_path: Path) -> None:
    report = made_report("openai:gpt-5.2")
    report["seconds_per_call"]["before"] = None
    report["workflow"]["agent_after"] = None
    report["split"]["trained_items"] = []
    report["notes"] = []
    entry = report["slots"]["desk.fill"]
    entry |= {"learning_curve": [], "goal": None, "unseen_tools": None, "differences": {}}
    for text in (page(tmp_path, report), table(report)):
        assert "not measured" in text


def test_without_the_packages_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=r"hetero_agents\[distill\]"):
                page(tmp_path, made_report())
    assert not (tmp_path / "report.html").exists()
