"""Who a confined command is: never root.

The kernel does not bind root by a limit of processes (fork(2), EAGAIN). So a command that root confines runs as a user who
nobody else is, with one capability: to pass by the permissions of files, since the root folder and the interpreter may be
root's. Which files it can reach at all is for the sandbox to say.
"""

from __future__ import annotations

import os

from .kernel import PR_SET_SECUREBITS, keep_capabilities, prctl

NEEDED = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_OVERRIDE")
"""What root has to have for it."""

_DAC_OVERRIDE = 1 << 1
_NO_SETUID_FIXUP = 1 << 2
_DYNAMIC_USERS = range(61184, 65520)
"""Numbers that systemd.exec(5) keeps for users who exist as long as one program."""


def leave_root(number: int) -> None:
    """Become an unprivileged user, where this process is root's.

    Args:
        number: different ones give different users, so that a limit of processes counts for each command alone.

    Raises:
        OSError: root lacks a capability of `NEEDED`.
    """
    if os.getuid() != 0:
        return
    user = _DYNAMIC_USERS[number % len(_DYNAMIC_USERS)]
    # Capabilities stay when the user changes, and access(2), which asks for the real user, knows of them too.
    prctl(PR_SET_SECUREBITS, _NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    keep_capabilities(_DAC_OVERRIDE)
