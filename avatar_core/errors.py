"""The one exception that users are meant to read.

`UserError` carries a single line: which file or key, what was expected, what was found. Command line and stages print it and
exit with code 2; everything else is a programmer's error and keeps its traceback.
"""


class UserError(ValueError):
    """Something the user gave (a file, a text, a parameter) cannot be used. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
