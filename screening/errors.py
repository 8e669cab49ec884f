"""Errors that end a run, as opposed to reasons that reject one record."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: the message is one sentence that says what, where and how."""


class ArchiveError(OSError):
    """The archive does not give what it holds, perhaps for the moment only. Its text holds no path."""


def printable(text: str) -> str:
    r"""Return ``text`` as it may be shown: what steers a terminal, or turns the direction of writing, is replaced.

    >>> printable("a\x1b[2Jb")
    'a\ufffd[2Jb'
    """
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def in_words(error: Exception) -> str:
    """Return what may be said of a fault of storage: our own words, of others' errors the kind only."""
    return str(error) if isinstance(error, (ArchiveError, StorageError)) else type(error).__name__


class StorageError(OSError):
    """Storage did not answer as it should, however often it was asked. Its text holds no path."""


class Interrupted(Exception):
    """What the work rested on ended under it; nothing is lost, and the same command goes on. One sentence says what."""


class Unexpected(Exception):
    """Something that should not happen, by its kind and place; its own message is left out."""


@contextmanager
def without_messages() -> Iterator[None]:
    """Raise `Unexpected` in place of what nobody expected; also a decorator.

    Messages of libraries quote paths, and rows that they cannot understand. Ray writes what a worker raises into its logs, and
    a command that fails prints it; neither is a place for patients.
    """
    try:
        yield
    except (UserError, StorageError, Interrupted, Unexpected):
        raise
    except Exception as error:
        raise Unexpected(kind_and_place(error)) from None


def kind_and_place(error: BaseException) -> str:
    """Return the kind of an exception and the last lines of code that it came through."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {places}"
