"""Users' code is checked: what is right has its type under `pyright --strict`, what is wrong is an error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "data" / "typing_user_code.py"


def test_right_code_has_no_type_errors_and_each_wrong_line_has_one(tmp_path: Path) -> None:
    copy = shutil.copy(SOURCE, tmp_path)  # away from the project's own settings
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, done.stderr
    found = {entry["range"]["start"]["line"] + 1: entry["message"] for entry in report["generalDiagnostics"]}
    lines = SOURCE.read_text("utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert {number: message for number, message in found.items() if number not in marked} == {}
    assert [lines[number - 1] for number in sorted(marked - found.keys())] == []
