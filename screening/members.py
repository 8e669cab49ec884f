"""Archives in one file, zip or tar: what both have in common, whatever the file says of itself.

fsspec's own keep names as they were written, so that "./a" and "/a" are not found again, and look through every name to list
one folder. Here a name has one spelling, that of its place below the root, and folders are an index.
"""

from __future__ import annotations

import io
import posixpath
from typing import Any

import fsspec
from fsspec.archive import AbstractArchiveFileSystem

MAX_MEMBERS = 20_000_000
_MOST_CHARACTERS, _MOST_FOLDERS = 1_024, 100
"""Of a name, and of folders in it: every one of them is held for itself."""


class DamagedMember(ValueError):
    """A member that cannot be read as it was written; the message names nothing."""


class MemberArchive(AbstractArchiveFileSystem):
    """A read-only file system over one file; a subclass adds the members and reads them.

    Parameters
    ----------
    fo
        Path or URL of the file, or what it is when it is open.
    target_protocol, target_options
        As fsspec hands them over from a chained URL such as ``zip::s3://bucket/a.zip``.

    Notes
    -----
    Names that lead out of the archive are kept: they are listed, and whoever asks for one is refused by the reader.
    """

    root_marker = ""
    cachable = False

    def __init__(
        self,
        fo: Any = "",
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(fo, str):
            fo = fsspec.open(fo, mode="rb", protocol=target_protocol, **(target_options or {})).open()
        self._file = fo
        self.members: dict[str, dict[str, Any]] = {}
        self.left_out = 0
        """Members that are no files, lie where a folder is, or whose names have no end."""
        self._folders: dict[str, dict[str, dict[str, Any]]] | None = None

    def add(self, name: str, **facts: Any) -> None:
        """Add a file; of one that is there twice, the later counts."""
        if len(self.members) >= MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS:,} files")
        name = posixpath.normpath(name.lstrip("/")) if len(name) <= _MOST_CHARACTERS else ""
        if name in ("", ".", "..") or name.count("/") > _MOST_FOLDERS:
            self.left_out += 1
        else:
            self.members[name] = {"name": name, "type": "file", **facts}

    def window(self, path: str) -> Window:
        """Return a member to be read anywhere; DamagedMember where that cannot be."""
        raise NotImplementedError

    def member(self, path: str) -> dict[str, Any]:
        """Return what is known of a file; FileNotFoundError where there is none."""
        facts = self.members.get(self._strip_protocol(path))
        if facts is None:
            raise FileNotFoundError("the archive has no such file")
        return facts

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what is known of a file or folder."""
        name = self._strip_protocol(path)
        if name not in self.members and (not name or name in self._by_folder()):
            return _folder(name)
        return self.member(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return what a folder holds, sorted by name."""
        folder = self._by_folder().get(self._strip_protocol(path))
        found = [folder[name] for name in sorted(folder)] if folder is not None else [self.info(path)]
        return found if detail else [facts["name"] for facts in found]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path)
        return stripped.strip("/")

    def _by_folder(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return folder -> name -> facts, made when somebody first lists one."""
        if self._folders is None:
            found: dict[str, dict[str, dict[str, Any]]] = {"": {}}
            for name in self.members:
                while (name := posixpath.dirname(name)) not in found:
                    found[name] = {}
            for name in found:
                if name:
                    found[posixpath.dirname(name)][name] = _folder(name)
            for name, facts in list(self.members.items()):
                if name in found:
                    del self.members[name]
                    self.left_out += 1
                else:
                    found[posixpath.dirname(name)][name] = facts
            self._folders = found
        return self._folders


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


class Window(io.RawIOBase):
    """A part of an open file that several share."""

    def __init__(self, file: Any, lock: Any, offset: int, size: int) -> None:
        self._file, self._lock, self._offset, self._size, self._at = file, lock, offset, size, 0

    def readable(self) -> bool:
        """Whether it may be read."""
        return True

    def seekable(self) -> bool:
        """Whether it may be read from anywhere."""
        return True

    def tell(self) -> int:
        """Return where the next bytes are read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read the next bytes from there."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        if not wanted:
            return 0
        with self._lock:
            self._file.seek(self._offset + self._at)
            data = self._file.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
