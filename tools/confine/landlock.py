"""Landlock: which files a process and its children may use, and whom they may signal (linux/landlock.h).

From ABI 6 on (Linux 6.12) a domain is also a fence for signals, on which the warden stands: what is inside cannot signal
anything outside, and `kill(-1)` from inside reaches all that is inside and nothing else.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from .kernel import PR_SET_NO_NEW_PRIVS, prctl, syscall

NEEDED_ABI = 6

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_ALL = (1 << 16) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

READ = _EXECUTE | _READ_FILE | _READ_DIR
WRITE = _ALL & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
DEVICE = _READ_FILE | _WRITE_FILE

_NO_TCP = 3
_SCOPES = 3
"""Signals, and UNIX sockets in the abstract namespace."""


def abi() -> int:
    """Return the kernel's version of Landlock, 0 where there is none."""
    try:
        return syscall(_CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def fence() -> None:
    """From now on this process signals nothing but itself and what it starts.

    Raises:
        OSError: the kernel refuses, or there is no such fence after all.
    """
    # `kill(-1)` rests on the fence: without one, it would reach every process of this user. So it is tried on one outside.
    waiting, done = os.pipe()
    if (outside := os.fork()) == 0:
        os.close(done)
        os.read(waiting, 1)
        os._exit(0)
    try:
        _restrict(struct.pack("QQQ", 0, 0, _SCOPES), [])
        os.kill(outside, 0)
    except PermissionError:
        return
    finally:
        os.close(waiting)
        os.close(done)
        os.waitpid(outside, 0)
    raise OSError("Landlock does not keep signals inside")


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """From now on this process and its children use files by these rules alone; TCP and signals to others are refused.

    Args:
        rules: paths with `READ`, `WRITE` or `DEVICE`; paths that do not exist are passed over.

    Raises:
        OSError: the kernel refuses.
    """
    _restrict(struct.pack("QQQ", _ALL, _NO_TCP, _SCOPES), rules)


def _restrict(attributes: bytes, rules: Iterable[tuple[str, int]]) -> None:
    ruleset = syscall(_CREATE, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        syscall(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, file)
        syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(file)
