"""Zip files as archives: Python's own reader of their directory, with limits that it lacks.

Members are stored or deflated (ISO/IEC 21320-1), for Python unpacks all other methods without a bound. What the directory says
of sizes and places is compared with what there is, before anything is unpacked.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec

from screening.members import DamagedMember, MemberArchive, Window

MAX_DIRECTORY_BYTES = 2**31
_LOCAL_HEADER, _LENGTHS_AT = 30, 26
"""Bytes of what stands before a member's name, and where the lengths of that and of what follows stand."""
_MOST_DEFLATED = 1032
"""Bytes that deflate makes of one, at the most (zlib's technical details)."""
_MADE_ON_FAT = 0
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error, UnicodeError)
"""What zipfile raises of a member; RuntimeError of one that is encrypted, or of features that it does not know."""


class _File:
    """The zip file itself. zipfile seeks and reads wherever it is told to by what stands in the file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, length: int = -1) -> bytes:
        if length > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory claims {length} bytes")
        return bytes(self._file.read(length))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset, whence = int(self._file.seek(0, io.SEEK_END)) + offset, io.SEEK_SET
            if offset < 0:
                raise OSError  # as any file does, and zipfile knows
        if whence == io.SEEK_SET and not 0 <= offset < 2**63:
            raise zipfile.BadZipFile("it points to a place that no file has")
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()


class ZipArchive(MemberArchive):
    """A read-only file system over a zip file.

    Takes what `MemberArchive` takes.

    Raises
    ------
    ValueError
        It is no zip file, or a damaged one.
    """

    protocol = "zip"

    def __init__(self, fo: Any = "", **options: Any) -> None:
        super().__init__(fo, **options)
        self._file = _File(self._file)
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._lock = self._zip._lock  # type: ignore[attr-defined]  # under which it seeks and reads
            self._add_all(self._zip.infolist(), self._zip.start_dir)
        except _DAMAGED as error:
            raise ValueError(f"it is no zip file, or a damaged one: {error}; make it anew, or unpack it") from error

    def _add_all(self, entries: list[zipfile.ZipInfo], end: int) -> None:
        """Add the members, with what is wrong with each."""
        behind = dict[int, int]()
        for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
            behind[id(entry)], end = end, min(end, entry.header_offset)
        for entry in entries:
            name = entry.orig_filename
            # Old Windows programs write "a\b"; as unzip, what was made there and has no slash is read so.
            if entry.create_system == _MADE_ON_FAT and "/" not in name:
                name = name.replace("\\", "/")
            if name.endswith("/"):
                continue
            most = _most_bytes(entry, behind[id(entry)])
            wrong = _what_is_wrong(entry, most)
            self.add(name, size=min(entry.file_size, most), CRC=entry.CRC, entry=entry, wrong=wrong)

    @contextmanager
    def _opened(self, facts: dict[str, Any]) -> Iterator[IO[bytes]]:
        if facts["wrong"]:
            raise DamagedMember(facts["wrong"])
        with _told(), self._zip.open(facts["entry"]) as stream:
            yield stream

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes of a member, or of a part of it; DamagedMember where it cannot be unpacked."""
        facts = self.member(path)
        first, last, _step = slice(start, end).indices(facts["size"])
        with self._opened(facts) as stream:
            stream.seek(first)
            return stream.read(max(0, last - first))

    def window(self, path: str) -> Window:
        """Return a member to be read anywhere; DamagedMember where it is not stored as it is."""
        facts = self.member(path)
        entry: zipfile.ZipInfo = facts["entry"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise DamagedMember("only the whole of it can be read, for it is packed; store it in the zip file as it is")
        with self._opened(facts), self._lock:  # it is there, and has this name
            self._file.seek(entry.header_offset + _LENGTHS_AT)
            offset = entry.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", self._file.read(4)))
        return Window(self._file, self._lock, offset, min(entry.file_size, entry.compress_size))

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise OSError("a zip file as an archive is read only")
        facts = self.member(path)
        with self._opened(facts):
            pass
        return io.BufferedReader(_Unpacked(self._zip.open(facts["entry"])))


class _Unpacked(io.RawIOBase):
    """A member that is read from its beginning to its end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told():
            return int(self._stream.readinto(buffer))

    def close(self) -> None:
        self._stream.close()
        super().close()


def _most_bytes(entry: zipfile.ZipInfo, end: int) -> int:
    """Return how many bytes a member can hold, whatever it claims; ``end`` is where the next one begins."""
    if entry.header_offset < 0 or entry.header_offset + _LOCAL_HEADER + entry.compress_size > end:
        return 0
    return (entry.compress_size + 1) * _MOST_DEFLATED


def _what_is_wrong(entry: zipfile.ZipInfo, most: int) -> str:
    """Return why a member cannot be read, "" where nothing shows."""
    if not most:
        return "it lies over another, or outside the file"
    if entry.flag_bits & 1:
        return "it is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"it is packed by method {entry.compress_type}, and only 0 and 8 are read; zip it anew"
    return "it claims more bytes than it can hold" if entry.file_size > most else ""


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except _DAMAGED:
        raise DamagedMember("it is damaged") from None


fsspec.register_implementation("zip", ZipArchive, clobber=True)
