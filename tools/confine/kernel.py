"""System calls that Python has no names for."""

from __future__ import annotations

import ctypes
import os
import struct

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47


def prctl(option: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    """Change a property of this process (prctl(2)).

    Raises:
        OSError: the kernel refuses.
    """
    padded = (*arguments, *(0 for _ in range(4 - len(arguments))))
    return _checked(_libc().prctl(option, *map(_wide, padded)), f"prctl({option})")


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call by its number.

    Raises:
        OSError: the kernel refuses.
    """
    return _checked(_libc().syscall(_wide(number), *map(_wide, arguments)), f"system call {number}")


def keep_capabilities(kept: int) -> None:
    """Give up all capabilities but some, and hand those on to programs that this process becomes (capabilities(7)).

    Args:
        kept: a bit for each.

    Raises:
        OSError: this process does not have them.
    """
    header = struct.pack("Ii", 0x20080522, 0)
    sets = struct.pack("6I", kept, kept, kept, 0, 0, 0)
    _checked(_libc().capset(header, sets), "capset")
    for bit in range(kept.bit_length()):
        if kept >> bit & 1:
            prctl(PR_CAP_AMBIENT, 2, bit)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _wide(value: int | ctypes.Array[ctypes.c_char] | None) -> object:
    # Both functions are variadic: a bare int would be passed as 32 bits.
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
