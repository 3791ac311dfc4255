"""The one exception that users are meant to read, and the one warning.

`UserError` carries a single line: which file or key, what was expected, what was found. Command line and stages print it and
exit with code 2; everything else is a programmer's error and keeps its traceback. `warn` is its gentle sister: the work goes on.
"""

import warnings


class UserError(ValueError):
    """Something the user gave (a file, a text, a parameter) cannot be used. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class InputWarning(UserWarning):
    """Something the user gave can be used, but not as it stands. The message is one line, as that of `UserError`."""


def warn(message: str) -> None:
    """Tell the user, in one line, what was made of an unusual input; the command line prints it on stderr."""
    warnings.warn(InputWarning(" ".join(message.split())), stacklevel=2)


def one_line_warnings() -> None:
    """From now on an `InputWarning` shows as `warning: ...` alone, as users read it; other warnings as Python shows them."""
    usual = warnings.formatwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        ours = issubclass(category, InputWarning)
        return f"warning: {message}\n" if ours else usual(message, category, filename, lineno, line)

    warnings.formatwarning = show


class Interrupted(BaseException):
    """A training was told to end (SIGTERM) and has left a checkpoint: the same command goes on from there."""
