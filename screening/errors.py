"""Errors that end a run, as opposed to reasons that reject one record."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message is one sentence that says what, where and how."""


class ArchiveError(OSError):
    """The archive does not give what it holds, perhaps for the moment only. Its text holds no path."""


def in_words(error: Exception) -> str:
    """Return what may be said of a fault of storage: our own words, of others' errors the kind only."""
    return str(error) if isinstance(error, (ArchiveError, StorageError)) else type(error).__name__


class StorageError(OSError):
    """Storage did not answer as it should, however often it was asked. Its text holds no path."""
