"""Tar files as archives: an index by one pass over the headers, then each member by its place.

fsspec's own reads a member by reading up to it. A packed tar has no places, so it is refused: unpack it, or make a zip of it.
Python's own pass over the headers believes them: a negative size leads it in circles, and a long name may be of gigabytes.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from typing import IO, Any

import fsspec

from screening.members import MemberArchive, Window

MAX_EXTENDED_BYTES = 2**20
"""Of what stands before a member and says more of it: a long name, extended headers."""
_BLOCK = tarfile.BLOCKSIZE
_NO_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE),
)


def members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an uncompressed tar file that hold what they say, with ``offset_data``; sparse ones are left out.

    Raises
    ------
    tarfile.TarError, ValueError
        A header is none, contradicts itself, or leads behind the end of the file.
    """
    end, at = file.seek(0, os.SEEK_END), 0
    of_all: dict[str, str] = {}
    of_next: dict[str, str] = {}
    while True:
        file.seek(at)
        head = file.read(_BLOCK)
        if not head and at:  # a tar file should end in zeros, and does not always
            return
        try:
            member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        start = at + _BLOCK
        if member.type in _EXTENDED:
            if not 0 <= member.size <= MAX_EXTENDED_BYTES:
                raise ValueError(f"a header of it claims {member.size} bytes")
            following = _behind(start, member.size, end)
            data = file.read(member.size)
            if member.type == tarfile.GNUTYPE_LONGNAME:
                of_next["path"] = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif member.type == tarfile.XGLTYPE:
                of_all |= _keywords(data)
            elif member.type != tarfile.GNUTYPE_LONGLINK:
                of_next |= _keywords(data)
        else:
            said, of_next = of_all | of_next, {}
            is_sparse = member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in said)
            goes_on = member.type == tarfile.GNUTYPE_SPARSE and head[482:483] == b"\1"
            while goes_on:
                goes_on = file.read(_BLOCK)[504:505] == b"\1"
                start += _BLOCK
            try:
                member.size = int(said.get("size", member.size))
                member.mtime = float(said["mtime"]) if "mtime" in said else member.mtime
            except ValueError:  # which would quote what stands there
                raise ValueError("an extended header of it says a size or a time that is no number") from None
            member.name = said.get("path", member.name).rstrip("/")
            member.offset_data = start
            following = _behind(start, 0 if member.type in _NO_DATA else member.size, end)
            if not is_sparse:
                yield member
        at = following


def _behind(start: int, size: int, end: int) -> int:
    """Return where the next header is."""
    if size < 0:
        raise ValueError(f"a header of it claims {size} bytes")
    if start + size > end:
        raise ValueError("it is cut off")
    return start + -(-size // _BLOCK) * _BLOCK


def _keywords(data: bytes) -> dict[str, str]:
    """Return what an extended header says (POSIX.1-2001, pax interchange format): lines "length key=value"."""
    found, at = {}, 0
    while at < len(data) and data[at]:
        digits = data[at : at + 12].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        line = data[at : at + length]
        if length < len(digits) + 4 or not line.endswith(b"\n") or b"=" not in line:
            raise ValueError("an extended header of it cannot be understood")
        key, _, value = line[len(digits) + 1 : -1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += length
    return found


class TarArchive(MemberArchive):
    """A read-only file system over an uncompressed tar file.

    Takes what `MemberArchive` takes.

    Raises
    ------
    ValueError
        It is no tar file, a packed one, or cut off.
    """

    protocol = "tar"

    def __init__(self, fo: Any = "", **options: Any) -> None:
        super().__init__(fo, **options)
        self._lock = threading.Lock()
        try:
            for member in members(self._file):
                if member.isreg():
                    self.add(member.name, size=member.size, mtime=member.mtime, offset=member.offset_data)
                elif not member.isdir():
                    self.left_out += 1  # links could lead anywhere
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(
                f"it is no tar file, a packed one, or cut off: {error}; unpack it, or give a zip file"
            ) from error

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes of a member, or of a part of it."""
        facts = self.member(path)
        first, last, _step = slice(start, end).indices(facts["size"])
        with self._lock:
            self._file.seek(facts["offset"] + first)
            found: bytes = self._file.read(max(0, last - first))
        return found

    def window(self, path: str) -> Window:
        """Return a member to be read anywhere."""
        facts = self.member(path)
        return Window(self._file, self._lock, facts["offset"], facts["size"])

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise OSError("a tar file as an archive is read only")
        return io.BufferedReader(self.window(path))


fsspec.register_implementation("tar", TarArchive, clobber=True)
