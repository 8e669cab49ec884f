"""The one door through which recordings come out of an archive, whatever their format."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from screening.archive import formats, wfdb
from screening.archive.container import Refused, container_of
from screening.archive.formats import GZIP, sidecar
from screening.archive.formats.hdf5 import Hdf5Files
from screening.archive.formats.missing import Missing
from screening.archive.formats.sidecar import SIDECAR
from screening.archive.location import SIDECAR_FORMATS, file_of, format_by_name, member_of, stem_of
from screening.archive.objects import Objects, objects_below
from screening.archive.version import covers_others, is_changed, mark_of, others_changed, sidecar_version, token_of
from screening.archive.wfdb_header import is_safe_path, looks_like_header, parse
from screening.contract import MAX_HEADER_BYTES, MAX_RECORD_BYTES, Reason
from screening.errors import ArchiveError, UserError
from screening.members import DamagedMember, MemberArchive
from screening.recording import Recording, Rejected
from screening.storage import open_filesystem

# Without waiting: opening a named pipe would wait for its writer for ever. Windows knows none of these but O_BINARY.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOSED = "this account may not read a file of the record"
MAX_SEGMENTS = 1_000
"""Of a record, above which a scan does not ask each what it names; a change of its signals is not told then."""
_PROBED = 64
"""Files that are tried, to tell one that is closed to us from an archive that is."""
_OUTSIDE = "a file of the record leads outside the archive"
_CHANGED = "a file of the record is not the one that was catalogued"


Seen = list[tuple[int, str]] | None
"""(size, token) of files that were read, in order; None where nobody asks."""


class Fetched(NamedTuple):
    """The bytes of a record."""

    first: bytes  # of the file that opens it: a WFDB header, or all there is
    files: dict[str, bytes]  # further ones, by name

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return len(self.first) + sum(map(len, self.files.values()))


def nbytes_of(found: Fetched | Rejected) -> int:
    """Return the bytes that wait in memory."""
    return found.nbytes if isinstance(found, Fetched) else 0


def decode(record_id: str, first: bytes, files: Mapping[str, bytes]) -> Recording | Rejected:
    """Decode the bytes of a record, whose format they tell.

    Parameters
    ----------
    record_id
        Goes into the result; nothing else is made of it.
    first, files
        As `ArchiveReader.fetch` gives them.

    Returns
    -------
    A Recording, or a Rejected whose detail says what is wrong in numbers and names of leads. No bytes make it raise; OSError
    and ImportError, which say something of the machine, come through.
    """
    if SIDECAR in files and not looks_like_header(first):
        return sidecar.decode(record_id, first, files)
    if looks_like_header(first) or not formats.is_known(first):
        return wfdb.decode(record_id, first, files)
    return formats.decode(record_id, first)


class ArchiveReader:
    """Reads the records of one archive.

    Picklable, and safe to use from several threads: storage is opened where it is used.

    Parameters
    ----------
    root_url
        Folder of the archive: a local path or any fsspec URL.
    storage_options
        Handed to fsspec (credentials, endpoint); never written anywhere.
    """

    def __init__(self, root_url: str, storage_options: dict[str, Any] | None = None) -> None:
        self.root_url = root_url
        self.storage_options = dict(storage_options or {})
        self._storage: tuple[Any, str] | None = None
        self._objects: Objects | None | bool = False  # not looked for yet
        self._folder: tuple[str, str] = ("", "")  # last local folder, and what it really is
        self._hdf5 = Hdf5Files()
        self._is_open = False  # whether a file was read after another was found to be closed to us

    def __getstate__(self) -> dict[str, Any]:
        return {"root_url": self.root_url, "storage_options": self.storage_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, location: str, record_id: str, *, version: str | None = None) -> Recording | Rejected:
        """Read one record: `fetch` it and decode it."""
        fetched = self.fetch(location, record_id, version=version)
        return fetched if isinstance(fetched, Rejected) else decode(record_id, *fetched)

    def beginning(self, location: str, limit: int = MAX_HEADER_BYTES) -> bytes:
        """Return the first ``limit`` bytes of a record's first file, and one more; Refused where `fetch` rejects."""
        return self._fetch(file_of(location), limit + 1, None)

    def fetch(self, location: str, record_id: str, *, version: str | None = None) -> Fetched | Rejected:
        """Return the bytes of one record's files.

        Parameters
        ----------
        location
            Root-relative path of the record's first file (for WFDB, the header). What it is, its bytes tell.
        record_id
            Goes into the result.
        version
            Of the record in the catalog; where a file is another since, the record is Rejected. None: as it is now.

        Raises
        ------
        OSError, or what the storage's client raises
            Where storage fails: that says nothing of the record, so its shard stays unfinished. An absent file is a
            Rejected, but only while the archive itself is there.
        """
        head = b""
        try:
            if format_by_name(location) == "hdf5":
                return self._fetch_member(location, version)
            head = self._fetch(location, MAX_HEADER_BYTES + 1, version)
            files: dict[str, bytes] = {}
            if not looks_like_header(head) and formats.is_known(head):
                if len(head) > MAX_HEADER_BYTES:
                    head = self._fetch(location, MAX_RECORD_BYTES + 1, version, whole=True)
                    _require_size(len(head))
                return Fetched(head, {})
            if format_by_name(location) in SIDECAR_FORMATS:
                if len(head) > MAX_HEADER_BYTES:
                    head = self._fetch(location, MAX_RECORD_BYTES + 1, version, whole=True)
                    _require_size(len(head))
                return Fetched(head, {SIDECAR: self._sidecar(location, version)})
            left = MAX_RECORD_BYTES - len(head)
            folder = location[: location.rfind("/") + 1]
            seen: Seen = [] if covers_others(version) else None
            while names := [name for name in wfdb.signal_file_names(head, files) if name not in files]:
                for name in names:
                    path = folder + name
                    if stem_of(path) == stem_of(location):  # of these the version speaks one by one
                        files[name] = self._fetch(path, left + 1, version, whole=True)
                    else:
                        files[name] = self._fetch(path, left + 1, None, whole=True, seen=seen)
                    left -= len(files[name])
                    _require_size(MAX_RECORD_BYTES - left)
            if version is not None and seen is not None and others_changed(version, seen):
                raise Refused(Reason.CHANGED, _CHANGED)
        except Missing as missing:
            return Rejected(record_id, Reason.UNKNOWN_FORMAT, str(missing))
        except Refused as refused:
            is_table = format_by_name(location) in SIDECAR_FORMATS
            is_other = not (is_table or looks_like_header(head))
            if is_other and (container := container_of(head) or (b"\0" in head and "binary")):
                return Rejected(record_id, Reason.UNKNOWN_FORMAT, f"a {container} file, which no reader here knows")
            return Rejected(record_id, refused.reason, refused.detail)
        return Fetched(head, files)

    def elsewhere(self, location: str) -> list[str]:
        """Return the files of a WFDB record that do not share its header's stem, in the order in which `fetch` reads them."""
        folder, names = location[: location.rfind("/") + 1], []
        try:
            head = self._fetch(location, MAX_HEADER_BYTES + 1, None)
            if not looks_like_header(head):
                return []
            names = list(wfdb.signal_file_names(head))
            if parse(head).segments and len(names) <= MAX_SEGMENTS:
                headers = {name: self._fetch(folder + name, MAX_HEADER_BYTES + 1, None) for name in names}
                names += [name for name in wfdb.signal_file_names(head, headers) if name not in headers]
        except (Refused, PermissionError):  # the run will say so
            pass
        return [folder + name for name in names if is_safe_path(name) and stem_of(folder + name) != stem_of(location)]

    def members(self, location: str) -> Sequence[str]:
        """Return the ids of the records in an HDF5 file; Refused where it, or its sidecar, does not tell them."""
        found = sidecar.parse(self._sidecar(location, None))
        return self._hdf5.members((location, ""), lambda: self._stream(location, None), found)

    def _fetch_member(self, location: str, version: str | None) -> Fetched:
        """Return one record of an HDF5 file, whose other records are not read."""
        path, member = file_of(location), member_of(location)
        stated = self._sidecar(path, version)
        if member is None:
            self.members(path)  # why the scan found none
            raise Refused(Reason.MISSING_FILE, "an HDF5 file holds many records, and none of them is named")
        row = self._hdf5.row((path, version or ""), lambda: self._stream(path, version), sidecar.parse(stated), member)
        return Fetched(row, {SIDECAR: stated})

    def _stream(self, path: str, version: str | None) -> Any:
        """Open a file of the archive whose parts are read; Refused as `_fetch` does it."""
        if self._fetch(path, 8, version).startswith(GZIP):
            raise Refused(
                Reason.UNKNOWN_FORMAT, "HDF5 packed by gzip is not read, for its rows have no places; unpack it"
            )
        fs, root = self._open()
        if not isinstance(fs, MemberArchive):
            return fs.open(f"{root}/{path}", "rb")
        try:
            return fs.window(path)
        except DamagedMember as error:
            raise _not_unpacked(error) from error

    def _sidecar(self, location: str, version: str | None) -> bytes:
        """Return the sidecar that holds for a file; Refused where there is none."""
        for path in sidecar.sidecar_locations(location):
            try:
                found = self._fetch(path, sidecar.MAX_SIDECAR_BYTES + 1, sidecar_version(version, path))
            except Refused as refused:
                if refused.reason == Reason.MISSING_FILE:
                    continue
                raise
            if len(found) > sidecar.MAX_SIDECAR_BYTES:
                raise Refused(Reason.TOO_LARGE, f"{SIDECAR} has more than {sidecar.MAX_SIDECAR_BYTES} bytes")
            return found
        raise sidecar.missing()

    def _fetch(self, path: str, limit: int, version: str | None, *, whole: bool = False, seen: Seen = None) -> bytes:
        """Return a file's first ``limit`` bytes; with ``whole``, refuse a larger file before reading it.

        Size and token of the file are added to ``seen``.
        """
        if not is_safe_path(path):
            raise Refused(Reason.UNSAFE_PATH, _OUTSIDE)
        fs, root = self._open()
        if isinstance(fs, LocalFileSystem):
            return self._fetch_local(root, path, limit, version, whole=whole, seen=seen)
        if self._objects is False:
            self._objects = objects_below(self.root_url, self.storage_options)
        if isinstance(self._objects, Objects) and (found := self._objects.get(path, limit)) is not None:
            if version is not None and is_changed(version, path, mark_of(found.size, found.token)):
                raise Refused(Reason.CHANGED, _CHANGED)
            if seen is not None:
                seen.append((found.size, found.token))
            return found.data
        try:
            # One request, and never more than the limit; asking for the size first would double the waiting.
            data = bytes(fs.cat_file(f"{root}/{path}", start=0, end=limit))
            if version is not None or seen is not None:  # asked after reading, so that what was read is what is judged
                info = fs.info(f"{root}/{path}")
                size = int(info.get("size") or 0)
                if version is not None and is_changed(version, path, mark_of(size, token_of(info))):
                    raise Refused(Reason.CHANGED, _CHANGED)
                if seen is not None:
                    seen.append((size, token_of(info)))
                if size and len(data) != min(size, limit):
                    if isinstance(fs, MemberArchive):  # it comes from what the file says of itself
                        raise Refused(Reason.TRUNCATED, f"{len(data)} of the {size} bytes claimed are there")
                    raise ArchiveError(f"storage gave {len(data)} of {size} bytes")
            return data
        except FileNotFoundError as error:
            if not fs.exists(root):
                raise ArchiveError("the archive cannot be reached") from error
            raise Refused(Reason.MISSING_FILE, "a file of the record is not in the archive") from error
        except Refused:
            raise
        except DamagedMember as error:
            raise _not_unpacked(error) from error
        except PermissionError as error:
            if self._gives_others(
                f"{root}/{path}", self._objects_near, lambda other: fs.cat_file(other, start=0, end=1)
            ):
                raise Refused(Reason.MISSING_FILE, _CLOSED) from error
            raise
        except Exception as error:
            # HTTP has no range of an empty object: object stores answer 416, which each client words in its own way.
            if "range" not in str(error).lower() or fs.size(f"{root}/{path}"):
                raise
            return b""

    def _open(self) -> tuple[Any, str]:
        if self._storage is None:
            try:
                fs, root = open_filesystem(self.root_url, self.storage_options)
            except (ValueError, ImportError) as error:
                raise UserError(f"cannot use {self.root_url!r} as an archive: {error}") from error
            root = os.path.realpath(root) if isinstance(fs, LocalFileSystem) else root
            self._storage = (fs, root.rstrip("/"))
        return self._storage

    def _fetch_local(self, root: str, path: str, limit: int, version: str | None, *, whole: bool, seen: Seen) -> bytes:
        full = f"{root}/{path}"
        try:
            self._stay_inside(root, full[: full.rfind("/")])
            try:
                descriptor = os.open(full, _OPEN | _NOFOLLOW)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EMLINK):  # what open says of a symbolic link
                    raise
                self._stay_inside(root, full)
                descriptor = os.open(full, _OPEN)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise Refused(Reason.MISSING_FILE, "in place of a file of the record stands something else")
                if whole and status.st_size >= limit:
                    raise Refused(Reason.TOO_LARGE, f"a file of the record has {status.st_size} bytes")
                data = _read(descriptor, min(status.st_size, limit))
                if version is not None:
                    status = os.fstat(descriptor)
                    if is_changed(version, path, mark_of(status.st_size, str(status.st_mtime_ns))):
                        raise Refused(Reason.CHANGED, _CHANGED)
                if seen is not None:
                    status = os.fstat(descriptor)
                    seen.append((status.st_size, str(status.st_mtime_ns)))
                return data
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            # An archive that was unmounted looks like one whose every file is missing.
            if not os.path.isdir(f"{root}/") or not os.listdir(f"{root}/"):
                raise ArchiveError("the archive's folder is gone or empty") from error
            raise Refused(Reason.MISSING_FILE, "a file of the record is not in the archive") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):  # of the name, not of the storage
                raise Refused(Reason.UNSAFE_PATH, "the path of a file of the record cannot be followed") from error
            if isinstance(error, PermissionError) and self._gives_others(full, _files_near, _try_local):
                raise Refused(Reason.MISSING_FILE, _CLOSED) from error
            raise

    def _gives_others(
        self, path: str, near: Callable[[str, str], Iterator[str]], read: Callable[[str], object]
    ) -> bool:
        """Whether the archive lets us read any file: then one that is closed is a fault of that one."""
        if not self._is_open:
            _, root = self._open()
            for other in islice(near(root, path[: path.rfind("/")]), _PROBED):
                with suppress(OSError):
                    read(other)
                    self._is_open = True
                    break
        return self._is_open

    def _objects_near(self, root: str, folder: str) -> Iterator[str]:
        """Yield some files of a folder and of the root."""
        fs, _ = self._open()
        for place in (folder, root):
            found = fs.ls(place, detail=True)
            yield from [info["name"] for info in found if info["type"] == "file"][: _PROBED // 8]

    def _stay_inside(self, root: str, path: str) -> None:
        """Refuse what symbolic links lead out of the archive; a folder's answer holds for the files after it."""
        last, real = self._folder
        if path != last:
            real = os.path.realpath(path)
            self._folder = (path, real)
        if real != root and not real.startswith(f"{root}/"):
            raise Refused(Reason.UNSAFE_PATH, _OUTSIDE)


def _not_unpacked(error: DamagedMember) -> Refused:
    return Refused(Reason.UNDECODABLE, f"a file of the record cannot be unpacked from the archive: {error}")


def _require_size(size: int) -> None:
    if size > MAX_RECORD_BYTES:
        raise Refused(Reason.TOO_LARGE, f"the record has more than {MAX_RECORD_BYTES} bytes")


def _files_near(root: str, folder: str) -> Iterator[str]:
    """Yield the ordinary files of a folder, and of the root and what is below it."""
    for here, _, names in chain(islice(os.walk(folder), 1), os.walk(root)):
        yield from (path for name in names if stat.S_ISREG(os.lstat(path := f"{here}/{name}").st_mode))


def _try_local(path: str) -> None:
    os.close(os.open(path, _OPEN | _NOFOLLOW))


def _read(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):  # a network disk may give it in parts
        data += more
    return data
