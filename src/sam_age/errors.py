"""The one error that a person at a terminal is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used: a path, a file, a number, a key.

    The message is one line that says what was found and what to do next. Commands print it without a
    traceback and leave with exit code 2; from Python it is an ordinary `ValueError`.
    """
