"""The one exception a user is meant to see: a single line, exit code 2, no traceback."""


class UserError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what would be right."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))  # one line, whatever it was built from


class Shown(Exception):  # noqa: N818  no error
    """The command line asked to be told something instead of doing something; this is what."""
