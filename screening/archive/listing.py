"""Listing an archive's folders, each once: which files open a record, and what storage says of them."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, cast

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from screening.archive.location import (
    HEADER_SUFFIX,
    file_of,
    is_container,
    is_signal,
    location_of,
    may_be_record,
    safe_location,
)
from screening.archive.root import UNREACHABLE, is_inside, join, open_within
from screening.archive.version import FileFacts, token_of
from screening.errors import UserError
from screening.members import DamagedMember, MemberArchive

_STRAYS_SHARE = 64
"""Headers a signal file without a header, above which these are not asked whose it is."""
WORKERS = 32  # requests at once: an object store answers in tens of milliseconds
MAX_RECORDS_DEPTH = 8
_MAX_LINE = 65_536
_CACHED_ENTRIES = 200_000
_DENSE = 64  # records a folder, above which one recursive listing more is not worth it


class FolderContent:
    """The files of one folder by stem, and its sub-folders."""

    __slots__ = ("_has_strays", "entries", "files", "folders", "links", "real")

    def __init__(self) -> None:
        self.files: dict[str, list[FileFacts]] = {}
        self.folders: list[str] = []
        self.links: set[str] = set()  # which of the sub-folders are symbolic links
        self.real: tuple[int, int] | None = None  # device and inode of a local folder
        self.entries = 0
        self._has_strays: bool | None = None

    def add(self, name: str, size: int, token: str) -> None:
        """Add a file."""
        stem, suffix = posixpath.splitext(name)
        self.files.setdefault(stem, []).append((suffix, size, token))
        self.entries += 1

    def find(self, name: str) -> list[FileFacts] | None:
        """Return the files of the record that the file ``name`` opens, None if that file is absent."""
        stem, suffix = posixpath.splitext(name)
        files = self.files.get(stem)
        if files is None or not any(found == suffix for found, _, _ in files):
            return None
        return files if suffix == HEADER_SUFFIX else [entry for entry in files if entry[0] == suffix]

    def names_others(self, name: str) -> bool:
        """Whether the header ``name`` may name files of another stem: it has none beside it, or there are some of nobody's."""
        stem, suffix = posixpath.splitext(name)
        if suffix != HEADER_SUFFIX or stem not in self.files:
            return False
        if self._has_strays is None:
            bare = [any(is_signal(found) for found, _, _ in files) for files in self._without_header()]
            self._has_strays = sum(bare) * _STRAYS_SHARE >= len(self.files) - len(bare) and any(bare)
        return self._has_strays or not any(is_signal(found) for found, _, _ in self.files[stem])

    def _without_header(self) -> list[list[FileFacts]]:
        return [files for files in self.files.values() if not any(found == HEADER_SUFFIX for found, _, _ in files)]

    def records(self) -> Iterator[str]:
        """Yield the names of the files that open a record, or may do so, sorted."""
        beside_headers = any(suffix == HEADER_SUFFIX for files in self.files.values() for suffix, _, _ in files)
        for stem in sorted(self.files):
            suffixes = sorted(suffix for suffix, _, _ in self.files[stem])
            is_wfdb = HEADER_SUFFIX in suffixes
            if is_wfdb:
                yield stem + HEADER_SUFFIX
            for suffix in suffixes:
                is_known = location_of(stem + suffix)[1] != "wfdb"
                is_header = suffix == HEADER_SUFFIX
                if (
                    is_known
                    or not (is_wfdb or is_header)
                    and may_be_record(stem + suffix, beside_headers=beside_headers)
                ):
                    yield stem + suffix

    def containers(self) -> int:
        """Return how many files are archives themselves."""
        return sum(is_container(suffix) for files in self.files.values() for suffix, _, _ in files)


class _Level(NamedTuple):
    """A folder in which a walk is."""

    below: Iterator[tuple[str, FolderContent]]
    folder: FolderContent
    is_linked: bool  # a symbolic link led here


class Listing:
    """Lists an archive's folders, each once for as long as it is in use, many at a time where that helps.

    Memory is bounded by the folders in use; a single folder is held whole.
    """

    def __init__(self, fs: AbstractFileSystem, root: str, pool: ThreadPoolExecutor) -> None:
        self._fs, self._root, self._pool = fs, root, pool
        self._is_local = isinstance(fs, LocalFileSystem)
        self._cache: OrderedDict[str, FolderContent] = OrderedDict()
        self._cached = 0
        self._real_root = os.path.realpath(root) if self._is_local else root
        self._linked: set[tuple[int, int]] = set()  # folders that a link led to
        self._records_read: set[str] = set()
        self.unnameable = 0  # headers whose names are not UTF-8: no table could hold them
        self.passed_over = 0  # folders that no path leads to, or one that leaves the archive
        self.containers = 0  # files that are archives themselves

    @property
    def left_out(self) -> int:
        """Members of a zip or tar file that have no place in it."""
        return self._fs.left_out if isinstance(self._fs, MemberArchive) else 0

    def find(self, locations: list[str]) -> list[list[FileFacts] | None]:
        """Return the files of each record, None where the file that opens it is absent."""
        return [folder.find(name) for folder, name in self._within(locations)]

    def names_others(self, locations: list[str]) -> list[bool]:
        """Return whether the header of each record may name files that do not share its stem; it is not read for that."""
        return [folder.names_others(name) for folder, name in self._within(locations)]

    def _within(self, locations: list[str]) -> list[tuple[FolderContent, str]]:
        """Return the folder of each location, and its name there."""
        folders = list(dict.fromkeys(posixpath.dirname(file_of(location)) for location in locations))
        new = [folder for folder in folders if folder not in self._cache]
        for group, folder_of in self._fetch(new, len(locations)):
            for folder, content in folder_of.items():
                self._keep(folder, content)
            if group not in folder_of:
                self._keep(group, FolderContent())
        for folder in folders:
            if folder in self._cache:
                self._cache.move_to_end(folder)
        empty = FolderContent()
        found = [
            (self._cache.get(posixpath.dirname(at), empty), posixpath.basename(at)) for at in map(file_of, locations)
        ]
        self._shrink()
        return found

    def walk(self, folder: str = "") -> Iterator[str]:
        """Yield the locations of all files below ``folder`` that open a record or may do so.

        Sorted within each folder, depth first. A file that only `may_be_record` is to be looked into.
        """
        levels = [_Level(iter([(folder, self._list(folder))]), FolderContent(), is_linked=False)]
        while levels:  # not by recursion: folders may be nested deeper than calls may
            above = levels[-1]
            at, content = next(above.below, ("", None))
            if content is None:
                levels.pop()
                continue
            # A folder that links to one above it would never end, and a hundred links to each of a few folders hardly.
            is_linked = above.is_linked or posixpath.basename(at) in above.folder.links
            if content.real is not None:
                if any(level.folder.real == content.real for level in levels) or (
                    is_linked and content.real in self._linked
                ):
                    continue
                if is_linked:
                    self._linked.add(content.real)
            self._keep(at, content)
            self._shrink()
            self.containers += content.containers()
            for name in content.records():
                if _is_text(posixpath.join(at, name)):
                    yield posixpath.join(at, name)
                else:
                    self.unnameable += 1
            levels.append(_Level(self._below(at, content), content, is_linked))

    def _below(self, folder: str, content: FolderContent) -> Iterator[tuple[str, FolderContent]]:
        """Yield the sub-folders of a folder that can be reached, listed ahead."""
        ahead: deque[tuple[str, Future[FolderContent]]] = deque()
        for name in sorted(content.folders):
            below = posixpath.join(folder, name)
            ahead.append((below, self._pool.submit(self._list, below)))
            if len(ahead) >= WORKERS:
                yield from self._reached(*ahead.popleft())
        for at, future in ahead:
            yield from self._reached(at, future)

    def _reached(self, at: str, future: Future[FolderContent]) -> Iterator[tuple[str, FolderContent]]:
        try:
            yield at, future.result()
        except OSError as error:
            if error.errno not in UNREACHABLE:
                raise
            self.passed_over += 1

    def records_files(self, folder: str = "", depth: int = 0, named_by: str = "") -> Iterator[str]:
        """Yield the paths that RECORDS files name, following lines that name folders ('p10/') to their RECORDS.

        Folders may bear the names of patients, so that messages tell lines: ``named_by`` is the one that led here.
        """
        here = join(self._root, folder)
        here = os.path.realpath(here) if self._is_local else here
        if here in self._records_read:  # named again, or by links that lead to one place in very many ways
            return
        self._records_read.add(here)
        shown = f"RECORDS in the folder of {named_by}" if named_by else "RECORDS"
        if depth > MAX_RECORDS_DEPTH:
            raise UserError(f"RECORDS files are nested more than {MAX_RECORDS_DEPTH} deep; mend {named_by}.")
        number = 0
        try:
            with open_within(self._fs, self._root, posixpath.join(folder, "RECORDS"), shown) as found:
                # Files of object stores do not take a limit of a line's length.
                stream = found if self._is_local else io.BufferedReader(cast(io.RawIOBase, found))
                while line := stream.readline(_MAX_LINE):
                    number += 1
                    if len(line) == _MAX_LINE:
                        raise UserError(f"Line {number} of {shown} has {_MAX_LINE} bytes and more; mend or remove it.")
                    if not (name := line.decode("utf-8").strip()):
                        continue
                    below = safe_location(posixpath.join(folder, name))
                    if name.endswith("/") and below is not None:
                        yield from self.records_files(below, depth + 1, f"line {number} of {shown}")
                    else:
                        yield posixpath.join(folder, name)
        except FileNotFoundError:
            # A RECORDS that names a folder without one: the folder is listed instead, so that nothing is lost.
            try:
                yield from self.walk(folder)
            except FileNotFoundError:
                raise UserError(
                    f"The folder of {named_by} is not in the archive; mend that line, or put the folder there."
                ) from None
        except UnicodeDecodeError:
            raise UserError(f"Line {number} of {shown} is not UTF-8 text; mend or remove it.") from None
        except DamagedMember as error:
            raise UserError(f"{shown} in the archive cannot be unpacked: {error}; make the archive anew.") from None

    def _keep(self, folder: str, content: FolderContent) -> None:
        if (old := self._cache.pop(folder, None)) is not None:
            self._cached -= old.entries + 1
        self._cache[folder] = content
        self._cached += content.entries + 1

    def _shrink(self) -> None:
        while self._cached > _CACHED_ENTRIES and len(self._cache) > 1:
            _, content = self._cache.popitem(last=False)
            self._cached -= content.entries + 1

    def _fetch(self, folders: list[str], n_records: int) -> Iterator[tuple[str, dict[str, FolderContent]]]:
        """Yield (folder, the folders listed with it) until all of ``folders`` are listed."""
        if self._is_local or len(folders) < WORKERS:
            for folder in folders:
                yield folder, {folder: self._list_if_there(folder)}
            return
        # MIMIC-IV-ECG has a folder a record: 800,000 requests. Listing a common parent recursively takes one per 1,000
        # files; we climb as long as that at least halves the requests, and never to the root.
        groups = set(folders)
        while n_records < _DENSE * len(groups):
            parents = {posixpath.dirname(group) for group in groups}
            if "" in parents or len(parents) * 2 > len(groups):
                break
            groups = parents
        groups = {group for group in groups if not any(above in groups for above in _above(group))}
        listed = self._list_if_there if groups == set(folders) else None
        ordered = sorted(groups)
        for start in range(0, len(ordered), 4 * WORKERS):
            chunk = ordered[start : start + 4 * WORKERS]
            if listed:
                yield from (
                    (at, {at: content}) for at, content in zip(chunk, self._pool.map(listed, chunk), strict=True)
                )
            else:
                yield from zip(chunk, self._pool.map(self._list_below, chunk), strict=True)

    def _list_if_there(self, folder: str) -> FolderContent:
        try:
            return self._list(folder)
        except OSError as error:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)) and error.errno not in UNREACHABLE:
                raise
            return FolderContent()

    def _list(self, folder: str) -> FolderContent:
        content, path = FolderContent(), join(self._root, folder)
        if self._is_local:
            if not is_inside(self._real_root, path):
                raise OSError(errno.ELOOP, "a symbolic link leads out of the archive")
            status = os.stat(path)
            content.real = (status.st_dev, status.st_ino)
            with os.scandir(path) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir():
                            content.folders.append(entry.name)
                            if entry.is_symlink():
                                content.links.add(entry.name)
                            continue
                        status = entry.stat()
                    except OSError as error:
                        # A link to nothing or to itself, or a file that was removed meanwhile.
                        if isinstance(error, (FileNotFoundError, NotADirectoryError)) or error.errno in UNREACHABLE:
                            continue
                        raise
                    if stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for its writer for ever
                        content.add(entry.name, status.st_size, str(status.st_mtime_ns))
            return content
        for info in self._fs.ls(path, detail=True):
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            if info["name"].rstrip("/") == path.rstrip("/"):
                continue  # some stores list the folder's own marker
            if info["type"] == "directory":
                content.folders.append(name)
            else:
                content.add(name, int(info.get("size") or 0), token_of(info))
        return content

    def _list_below(self, group: str) -> dict[str, FolderContent]:
        """Return all folders below ``group``, listed with one recursive request."""
        found: dict[str, FolderContent] = defaultdict(FolderContent)
        path = join(self._root, group)
        for name, info in self._fs.find(path, detail=True).items():
            below, _, file = (posixpath.join(group, name.split(path, 1)[1].lstrip("/"))).rpartition("/")
            found[below].add(file, int(info.get("size") or 0), token_of(info))
        return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _above(folder: str) -> Iterator[str]:
    while folder:
        folder = posixpath.dirname(folder)
        yield folder
