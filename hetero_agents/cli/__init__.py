"""`hetero`: the command line. It composes the rooms; nothing imports it.

Errors are one sentence on standard error; exit code 2 for the user's mistakes, 1 for failures, 130
for Ctrl-C, 0 otherwise.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    from ..errors import HeteroError
    from .common import end, say_error
    from .program import program

    code = 0
    try:
        # Without typer's own handling, so that an error is our one sentence.
        code = program(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except HeteroError as error:
        say_error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = _usage_error(error)
    finally:
        if code == INTERRUPTED:  # typer makes this code of Ctrl-C without a word
            say_error("Interrupted; what was finished is kept.")
        end()
    sys.exit(code)


def _usage_error(error: Exception) -> int:
    import typer

    from .common import say_error

    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    # typer carries a click of its own and exports no base of its usage errors.
    if (message := getattr(error, "format_message", None)) is not None:
        say_error(message() or "See hetero --help.")
        return 2
    from pydantic_ai.exceptions import AgentRunError
    from pydantic_ai.exceptions import UserError as PydanticAIUserError

    if isinstance(error, AgentRunError | PydanticAIUserError):
        say_error(str(error))
        return 1 if isinstance(error, AgentRunError) else 2
    if isinstance(error, OSError):
        say_error(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
        return 1
    raise error
