"""A Postgres server for as long as a test or a measurement lasts: the machine's own programs, in a folder of its own, without TCP."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = next(
    (
        folder
        for folder in (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *os.get_exec_path())
        if (Path(folder) / "initdb").exists()
    ),
    None,
)
"""Where `initdb` and `pg_ctl` are; None where Postgres is not installed."""


@contextmanager
def postgres() -> Generator[str]:
    """Start a server and give the URL of an empty database, as `HETERO_RUNS` takes it."""
    assert PROGRAMS is not None, "Postgres is not installed"
    user = "nobody" if os.getuid() == 0 else None  # it refuses to be root's
    with tempfile.TemporaryDirectory(prefix="hetero-") as folder:
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"

        def run(program: str, *arguments: str) -> None:
            command = [str(Path(PROGRAMS or "") / program), "-D", data, *arguments]
            subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        run("initdb", "--username=hetero", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8")
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", "--wait", "--log", f"{folder}/log", "--options", settings)
        try:
            yield f"postgresql://hetero@/runs?host={folder}"
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
