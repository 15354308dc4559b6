"""Users' code and drafts are checked: what is right has its type under `pyright --strict`, what is wrong is an error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_agents.cli.metagpt import draft_of, read_project

DATA = Path(__file__).parent / "data"
SOURCE = DATA / "typing_user_code.py"
PROJECTS = sorted(path.name for path in (DATA / "metagpt").iterdir())

Found = dict[str, dict[int, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What pyright says, by file and line, away from the project's own settings."""
    folder = tmp_path_factory.mktemp("typing")
    config = {"typeCheckingMode": "strict", "extraPaths": [str(Path(__file__).parents[1])]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    shutil.copy(SOURCE, folder)
    for name in PROJECTS:
        (folder / f"{name}.py").write_text(draft_of(read_project(DATA / "metagpt" / name), name).code)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1 + len(PROJECTS), done.stderr
    said: Found = {}
    for entry in report["generalDiagnostics"]:
        said.setdefault(Path(entry["file"]).name, {})[entry["range"]["start"]["line"] + 1] = entry["message"]
    return said


def test_right_code_has_no_type_errors_and_each_wrong_line_has_one(found: Found) -> None:
    said = found.get(SOURCE.name, {})
    lines = SOURCE.read_text("utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert {number: message for number, message in said.items() if number not in marked} == {}
    assert [lines[number - 1] for number in sorted(marked - said.keys())] == []


@pytest.mark.parametrize("name", PROJECTS)
def test_a_draft_from_metagpt_has_no_type_errors(name: str, found: Found) -> None:
    assert found.get(f"{name}.py", {}) == {}
