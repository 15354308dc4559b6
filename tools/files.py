"""Text files inside one folder: a path cannot lead out of it, not by `..`, not by a link, not by one that is put there meanwhile.

Each step of a path is opened from the folder before it and may not be a link (openat(2) with O_NOFOLLOW), so that what was
checked is what is used.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic_ai import ModelRetry

from hetero_agents.errors import UserError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Files:
    """Reads, writes, edits and lists files in one folder; give an agent the methods that it may use.

    `Agent(tools=[files.read_file, files.list_files])` can look and not touch.
    """

    root: Path
    """The folder; paths are relative to it."""
    max_bytes: int = 1_000_000
    """Size of a file that is read or written."""
    max_entries: int = 1_000
    """Entries of a folder that are listed."""

    def read_file(self, path: str) -> str:
        """Return the text of a file.

        Args:
            path: relative to the working folder.

        Raises:
            ModelRetry: there is no such file, it is too large or it is not UTF-8.
        """
        with self._folder_of(path) as (folder, name):
            return self._read(folder, name, path)

    def write_file(self, path: str, text: str) -> str:
        """Write a file, whole: make it and the folders that it is in, or replace it.

        Args:
            path: relative to the working folder.
            text: what the file holds from then on.

        Raises:
            ModelRetry: the path is not one of the working folder, or the text is too long.
        """
        with self._folder_of(path, make=True) as (folder, name):
            return self._write(folder, name, path, text)

    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace a piece of text in a file.

        Args:
            path: relative to the working folder.
            old: the text to replace, exactly as it stands in the file, where it occurs once.
            new: what stands there afterwards.

        Raises:
            ModelRetry: the text occurs not once, or the file cannot be read.
        """
        with self._folder_of(path) as (folder, name):
            text = self._read(folder, name, path)
            if (found := text.count(old) if old else 0) != 1:
                raise ModelRetry(
                    f"The text to replace occurs {found} times in {path!r}; give the text of one place, exactly and with enough around it."
                )
            return self._write(folder, name, path, text.replace(old, new))

    def list_files(self, folder: str = ".") -> list[str]:
        """Return the names in a folder, sorted; those of folders end with a slash.

        Args:
            folder: relative to the working folder.

        Raises:
            ModelRetry: there is no such folder, or it holds too much.
        """
        with self._folder_of(f"{folder}/_") as (opened, _), os.scandir(opened) as entries:
            names = sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
        if len(names) > self.max_entries:
            raise ModelRetry(
                f"{folder!r} has {len(names):,} entries, more than {self.max_entries:,}; list a folder in it."
            )
        return names

    @contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Generator[tuple[int, str]]:
        """Open the folder that a path's last part is in, step by step."""
        *folders, name = self._parts(path)
        try:
            opened = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(
                f"The root {str(self.root)!r} cannot be opened ({error.strerror}); make it first."
            ) from error
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=opened)
                inner = os.open(folder, _FOLDER, dir_fd=opened)
                os.close(opened)
                opened = inner
            yield opened, name
        except OSError as error:
            raise ModelRetry(f"{path!r} cannot be used: {_why(error)}.") from error
        finally:
            os.close(opened)

    def _parts(self, path: str) -> list[str]:
        pure = PurePosixPath(path)
        if pure.is_absolute() and pure.is_relative_to(self.root.absolute()):
            pure = pure.relative_to(self.root.absolute())
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
            raise ModelRetry(
                f"{path!r} is not a path inside the working folder; give one that is relative to it, without '..'."
            )
        return list(pure.parts)

    def _read(self, folder: int, name: str, path: str) -> str:
        # Without O_NONBLOCK, a named pipe would hold this up for ever.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ModelRetry(f"{path!r} is not a file.")
            content = opened.read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise ModelRetry(
                f"{path!r} is larger than the {self.max_bytes:,} bytes that can be read at once; search in it."
            )
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise ModelRetry(f"{path!r} is not text in UTF-8.") from error

    def _write(self, folder: int, name: str, path: str, text: str) -> str:
        content = text.encode("utf-8", "replace")
        if len(content) > self.max_bytes:
            raise ModelRetry(f"The text has {len(content):,} bytes and a file may have {self.max_bytes:,}; write less.")
        mode = 0o666
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise ModelRetry(f"{path!r} is not a file.")
            mode = stat.S_IMODE(found.st_mode)
        temporary = f".{name[:100]}.{secrets.token_hex(4)}"
        file = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder
        )
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(content)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        return f"Wrote {len(content):,} bytes to {path}."


def _why(error: OSError) -> str:
    if isinstance(error, NotADirectoryError) or error.errno == 40:  # ELOOP
        return "a part of it is a link or no folder"
    return (error.strerror or str(error)).lower()
