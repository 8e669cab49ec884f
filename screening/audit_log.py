"""The audit log: who ran, published, promoted, exported and erased what, one JSON line after the other, chained by hashes.

Every entry holds the SHA-256 of the one before, so that none can be edited, put in, taken out or moved without all later ones
being written anew. What was cut off the end leaves no trace in the log itself: `verify` gives the number and hash of the last
entry, to be kept elsewhere and compared.

On a local disk the log is one file, appended to under a lock. On an object store, where nothing can be appended, it is a
folder with an object an entry, each created exclusively. Identifiers of patients stand in it as pseudonyms only, and only
where the entry is about them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from screening.contract import sha256_of
from screening.errors import UserError
from screening.storage import Folder, make_folders, sync_folder

FIRST = "0" * 64
"""What the first entry holds in place of the hash of the one before."""
_TAIL = 2**16
_ATTEMPTS = 1000
_PROBE = "writable"


@dataclass(frozen=True)
class Verdict:
    """What `AuditLog.verify` found."""

    entries: int
    head: str  # hash of the last entry
    faults: tuple[str, ...]
    torn: int = 0  # lines that a writer could not finish; the entry after them says so


class AuditLog:
    """An append-only log in a file, or on an object store.

    Parameters
    ----------
    url
        Path of a local file, or any fsspec URL of a folder.
    storage_options
        For fsspec.
    """

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None) -> None:
        self.url = url
        self._objects = Folder(url, storage_options or {}) if "://" in url else None

    def require(self) -> None:
        """Raise UserError where nothing could be appended: asked before work that has to be recorded."""
        with self._told():
            if self._objects is None:
                with self._locked():
                    pass
            else:
                self._objects.write(_PROBE, b"")  # who may list may not always write

    def append(self, event: str, what: Mapping[str, Any], *, at: str, who: str) -> dict[str, Any]:
        """Add an entry and return it.

        Parameters
        ----------
        event
            e.g. ``run.published``.
        what
            JSON values.
        at, who
            Time and person, as the caller knows them.

        Raises
        ------
        UserError
            The log cannot be written.
        """
        facts = {"at": at, "event": event, "who": who, "what": dict(what)}
        with self._told():
            if self._objects is None:
                return self._append_line(facts)
            return self._append_object(self._objects, facts)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries in their order; lines that are none are passed over."""
        for _, line in self._lines():
            if (entry := _parsed(line)) is not None:
                yield entry

    def verify(self) -> Verdict:
        """Return how many entries there are, the hash of the last, and everything that shows that the log was changed."""
        faults: list[str] = []
        before, number, sealed = FIRST, 0, 0
        torn: list[bytes] = []
        for where, line in self._lines():
            entry = _parsed(line)
            if entry is None:
                torn.append(line)  # a writer was killed while it wrote, and the next entry says so; or it was damaged
                continue
            stated = {key: value for key, value in entry.items() if key != "sha256"}
            if entry["sha256"] != sha256_of(stated) or line != _spelt(entry):
                faults.append(f"{where} (entry {entry['n']}) is not as it was written")
            elif (entry["prev"], entry["n"]) != (before, number + 1) or (
                self._objects is not None and where != _name(entry["n"])
            ):
                faults.append(f"{where} (entry {entry['n']}) does not follow the entry before it")
            if (_hash(torn) if torn else None) == entry.get("after_torn"):
                sealed += len(torn)
            elif torn:
                faults.append(f"before {where} stands something that is no entry")
            else:
                faults.append(f"a torn line before {where} is gone")
            before, number, torn = entry["sha256"], entry["n"], []
        if torn:
            faults.append(
                "the last line is no entry: a writer was killed, or the log was damaged; the next entry will tell"
            )
        return Verdict(number, before, tuple(faults), sealed)

    # --- One file ------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[int]:
        path = os.path.abspath(self.url)
        make_folders(os.path.dirname(path))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _append_line(self, facts: dict[str, Any]) -> dict[str, Any]:
        with self._locked() as descriptor:
            last, after, cut = _last_of(descriptor)
            entry = _entry(facts, last, after_torn=_hash([after]) if cut and after else None)
            # The newline that was not written any more goes with the entry: another crash then tears one line only.
            data = (b"\n" if cut else b"") + _spelt(entry) + b"\n"
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
                if not size:
                    sync_folder(os.path.dirname(os.path.abspath(self.url)))
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
            return entry

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """Yield where each entry stands, and its bytes."""
        missing = UserError(f"there is no audit log at {self.url}; name it with --audit-log")
        if self._objects is not None:
            names = _numbered(self._objects)
            if not names:
                raise missing
            for name in names:
                yield name, self._objects.read(name)
            return
        try:
            with open(self.url, "rb") as file:
                for at, line in enumerate(file, 1):
                    yield f"line {at}", line.removesuffix(b"\n")
        except FileNotFoundError:
            raise missing from None

    # --- An object an entry --------------------------------------------------------------------------------------

    def _append_object(self, folder: Folder, facts: dict[str, Any]) -> dict[str, Any]:
        for _ in range(_ATTEMPTS):
            names = _numbered(folder)
            last = _parsed(folder.read(names[-1])) if names else None
            if names and last is None:
                raise UserError(f"{names[-1]} in the audit log {self.url} is damaged; restore it from a copy")
            entry = _entry(
                facts | {"token": secrets.token_hex(8)}, last
            )  # so that two writers never write the same bytes
            if folder.create(_name(entry["n"]), _spelt(entry)):
                return entry
        raise UserError(f"the audit log {self.url} is written by others all the time; try again later")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the audit log {self.url} cannot be written ({error.strerror or error}); mend that, or name another with "
                "--audit-log"
            ) from error


def _entry(facts: dict[str, Any], last: dict[str, Any] | None, *, after_torn: str | None = None) -> dict[str, Any]:
    entry = {"n": last["n"] + 1 if last else 1, **facts, "prev": last["sha256"] if last else FIRST}
    if after_torn is not None:
        entry["after_torn"] = after_torn
    return {**entry, "sha256": sha256_of(entry)}


def _spelt(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode()


_KINDS = {"n": int, "at": str, "event": str, "who": str, "what": dict, "prev": str, "sha256": str}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in _KINDS.items())
    return entry if whole else None


def _hash(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _last_of(descriptor: int) -> tuple[dict[str, Any] | None, bytes, bool]:
    """Return the last entry of a file, what stands after it, and whether the last line was cut off."""
    size = os.fstat(descriptor).st_size
    length = _TAIL
    while True:
        held = os.pread(descriptor, length, max(0, size - length))
        lines = held.split(b"\n")
        first = 0 if len(held) == size else 1  # that may be half a line
        for at in range(len(lines) - 1, first - 1, -1):
            if (entry := _parsed(lines[at])) is not None:
                return entry, b"\n".join(lines[at + 1 :]), bool(lines[-1])
        if len(held) == size:
            return None, held, bool(lines[-1])
        length *= 2


def _name(number: int) -> str:
    return f"{number:09d}.json"


def _numbered(folder: Folder) -> list[str]:
    return [name for name in folder.names() if name.endswith(".json") and name[:-5].isdigit()]
