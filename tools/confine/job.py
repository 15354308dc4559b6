"""What the warden is told, and what it tells at the end; both go through pipes as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Isolation = Literal["bubblewrap", "landlock", "none"]
"""What keeps a command from the rest of the machine."""

Reason = Literal["time", "memory", "disk", "files", "cpu", "file size", "cancelled"]
"""Why a command was ended: which limit it reached, or that nobody waits for it any more."""


@dataclass(frozen=True)
class Limits:
    """What a command may use; all of them bound all its processes together where nothing else is said."""

    wall_seconds: float = 10
    """Time by the clock."""
    cpu_seconds: int = 10
    """Processor time of each process."""
    memory_mb: int = 512
    """Memory: of each process as it asks for it, of all together as it is used (looked at 20 times a second)."""
    disk_mb: int = 256
    """What files may grow by, under the root and in the private folder (looked at up to 10 times a second)."""
    file_mb: int = 64
    """Size of each file that is written."""
    files: int = 10_000
    """New files and folders."""
    processes: int = 64
    """Processes and threads at a time."""
    open_files: int = 256
    """Open files of each process."""
    output_bytes: int = 65_536
    """What is kept of standard output, and as much of standard error."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"The limit {name} is {value:g} and has to be more than 0.")


@dataclass(frozen=True)
class Job:
    """A command and what confines it."""

    command: list[str]
    root: str
    """The folder that it may write, with all links resolved; its working folder too."""
    private: str
    """A folder of its own for temporary files."""
    environment: dict[str, str]
    readable: list[str]
    """What else it may read and run: files and folders."""
    isolation: Isolation
    limits: Limits
    user: int
    """A number that tells its user from those of other commands, where root confines it."""
    bubblewrap: str
    """Path of the program, empty where it is not used."""

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Return what `to_json` gave."""
        values: dict[str, Any] = json.loads(text)
        values["limits"] = Limits(**values["limits"])
        return cls(**values)


@dataclass(frozen=True)
class End:
    """How a command ended."""

    returncode: int = -1
    """As a shell says it: 128 + n where signal n ended the command."""
    seconds: float = 0
    killed: Reason | None = None
    absent: str = ""
    """Why the program could not be started, where that is the caller's mistake."""
    error: str = ""
    """Why the command was not confined as it should be; it was not started then."""
