"""A record's version: what its files were when it was catalogued, in one short text, and whether they still are."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from screening.archive.location import file_of, stem_of

ABSENT = "absent"
"""Version of a record that is listed somewhere but has no file in the archive."""
SIDECAR_MARK = ":sidecar"
"""Stands for the suffix of the sidecar among the files of a record."""
OTHERS_MARK = ":others"
"""Stands for the suffix of what a header names that does not share its stem, all of it together and without names."""
FileFacts = tuple[str, int, str]
"""(suffix, size in bytes, token that changes with the content) of one file."""


def version_of(files: Iterable[FileFacts]) -> tuple[int, str]:
    """Return (bytes together, version) of the files of one record, in whatever order they were listed.

    The version says of each file what it was, so that whoever reads one of them can tell whether it still is.

    >>> version_of([(".hea", 900, "1"), (".dat", 120_000, "2")])
    (120900, '.dat:8872b92dee/.hea:0a8c0997c0')
    """
    ordered = sorted(files)
    marks = [f"{suffix}:{mark_of(size, token)}" for suffix, size, token in ordered]
    return sum(size for _, size, _ in ordered), "/".join(marks)


def mark_of(size: int, token: str) -> str:
    """Return a short name for a file's content by its size and token; "?" where the storage gives no token."""
    return hashlib.blake2b(f"{size}\t{token}".encode(), digest_size=5).hexdigest() if token else "?"


def is_changed(version: str, path: str, mark: str) -> bool:
    """Whether the file at ``path``, found with ``mark``, is another than when its record had ``version``.

    Files that are not part of the version (in another folder or with another stem) are taken as they are.
    """
    if version == ABSENT:
        return True
    suffix = posixpath.splitext(file_of(path))[1]
    return _marks(version).get(suffix, mark) not in (mark, "?") and mark != "?"


def is_covered(version: str, location: str, path: str) -> bool:
    """Whether a record's version tells that the file at ``path`` is another than it was."""
    stem, suffix = posixpath.splitext(file_of(path))
    return stem == stem_of(file_of(location)) and _marks(version).get(suffix, "?") != "?"


def others_of(files: Iterable[tuple[int, str]]) -> FileFacts:
    """Return the files that a header names and that do not share its stem as one, from size and token of each in order."""
    found = list(files)
    token = "\n".join(f"{size}\t{token}" for size, token in found) if all(token for _, token in found) else ""
    return OTHERS_MARK, sum(size for size, _ in found), token


def covers_others(version: str | None) -> bool:
    """Whether a record's version speaks of files that do not share its header's stem."""
    return version is not None and _marks(version).get(OTHERS_MARK, "?") != "?"


def others_changed(version: str, files: Iterable[tuple[int, str]]) -> bool:
    """Whether these are others than when their record had ``version``."""
    mark = mark_of(*others_of(files)[1:])
    return _marks(version).get(OTHERS_MARK, mark) not in (mark, "?") and mark != "?"


def sidecar_version(version: str | None, path: str) -> str | None:
    """Return a record's version as that of its sidecar at ``path``; None where it says nothing of one."""
    mark = _marks(version).get(SIDECAR_MARK) if version is not None else None
    return None if mark is None else f"{posixpath.splitext(path)[1]}:{mark}"


def _marks(version: str) -> dict[str, str]:
    return dict(entry.rpartition(":")[::2] for entry in version.split("/"))


def token_of(info: dict[str, Any]) -> str:
    """Return what a storage says of a file that changes with its content, "" where it says nothing of the kind."""
    for key in ("ETag", "etag", "md5Hash", "content_md5", "CRC", "generation"):
        if info.get(key):
            return str(info[key]).strip('"')
    for key in ("LastModified", "last_modified", "mtime", "modified", "created"):
        if value := info.get(key):
            return str(value.timestamp() if isinstance(value, datetime) else value)  # listings may give the number
    return ""
