"""Tar files as archives: an index by one pass over the headers, then each member by its place.

fsspec's own reads a member by reading up to it, and keeps names as they were written ("./a"). A packed tar has no places, so
it is refused: unpack it, or make a zip of it.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import threading
from typing import Any

import fsspec
from fsspec.archive import AbstractArchiveFileSystem

MAX_MEMBERS = 20_000_000


class TarArchive(AbstractArchiveFileSystem):
    """A read-only file system over an uncompressed tar file.

    Parameters
    ----------
    fo
        Path or URL of the tar file, or what it is when it is open.
    target_protocol, target_options
        As fsspec hands them over from a chained URL such as ``tar::s3://bucket/a.tar``.

    Raises
    ------
    ValueError
        It is no tar file, a packed one, or cut off.
    """

    root_marker = ""
    protocol = "tar"
    cachable = False

    def __init__(
        self,
        fo: Any = "",
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(self, **options)
        if isinstance(fo, str):
            fo = fsspec.open(fo, mode="rb", protocol=target_protocol, **(target_options or {})).open()
        self._file, self._lock = fo, threading.Lock()
        self.dir_cache: dict[str, dict[str, Any]] | None = None
        self._members: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(fileobj=fo, mode="r:") as tar:
                for member in tar:
                    self._add(member)
        except tarfile.TarError as error:
            raise ValueError(
                f"it is no tar file, a packed one, or cut off: {error}; unpack it, or give a zip file"
            ) from error

    def _add(self, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if not member.isreg() or name.startswith(("/", "../")) or "\0" in name:
            return  # links could lead anywhere
        if len(self._members) >= MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS:,} files")
        facts = {"name": name, "size": member.size, "type": "file", "mtime": member.mtime, "offset": member.offset_data}
        self._members[name] = facts  # of one that is there twice, the later counts

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path)
        return stripped.lstrip("/")

    def _get_dirs(self) -> None:
        if self.dir_cache is None:
            folders = self._all_dirnames(self._members)
            self.dir_cache = {name: {"name": name, "size": 0, "type": "directory"} for name in folders} | self._members

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes of a member, or of a part of it."""
        facts = self._members.get(self._strip_protocol(path))
        if facts is None:
            raise FileNotFoundError(path)
        first, last, _step = slice(start, end).indices(facts["size"])
        with self._lock:
            self._file.seek(facts["offset"] + first)
            found: bytes = self._file.read(max(0, last - first))
        return found

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        if mode != "rb":
            raise OSError("a tar file as an archive is read only")
        return io.BytesIO(self.cat_file(path))


fsspec.register_implementation("tar", TarArchive, clobber=True)
