"""The one exception a user is meant to see: a single line, exit code 2, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what would be right."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))  # one line, whatever it was built from


@contextmanager
def from_setting(name: str) -> Iterator[None]:
    """Where several settings or flags could be to blame, the line of an error begins with the one that is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


class Shown(Exception):  # noqa: N818  no error
    """The command line asked to be told something instead of doing something; this is what."""
