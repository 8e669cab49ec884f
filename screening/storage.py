"""Folders on any fsspec file system, with the two things a ledger needs: whole-or-nothing writes and exclusive creation.

Object stores write an object whole or not at all; on a local disk the same is had by a temporary name and a rename. What a
store refuses for the moment is asked for again, a bounded number of times. Files are their owner's alone unless said otherwise.
"""

from __future__ import annotations

import errno
import importlib
import os
import random
import re
import secrets
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from screening.errors import ArchiveError, StorageError, UserError

ATTEMPTS = 5
RETRY_FIRST_S, RETRY_LONGEST_S = 0.25, 8.0
CONNECT_S, ANSWER_S = 10, 30
"""How long an object store may take to be reached, and to go on answering, before it is asked again."""
LONGEST_S = 120.0
"""Nothing is asked for again after this time: stalled connections would add up to hours."""
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, UserError)
"""What storage says of a file, and says again however often it is asked."""

REMOTE_READS = 64
"""Concurrent reads a task from an object store, so that 30 ms a request are not waited for; a local disk is read in line."""
FIRST_READS, AHEAD_BYTES = 16, 2**28
"""Reads ahead before any size is known, and what may wait in memory once it is."""

S = TypeVar("S")
T = TypeVar("T")


def ahead(
    pool: Executor,
    ask: Callable[[S], T],
    of: Iterable[S],
    *,
    most: int = 2 * REMOTE_READS,
    size: Callable[[T], int] = lambda _: 0,
) -> Iterator[T]:
    """Yield ``ask`` of each of ``of`` in order, at most ``most`` of them under way or waiting at a time.

    ``size`` gives a result's bytes: the larger they have been lately, the fewer are asked for ahead.
    """
    waiting: deque[Future[T]] = deque()
    allowed, largest = min(most, FIRST_READS), 0
    for one in of:
        waiting.append(pool.submit(ask, one))
        while len(waiting) >= allowed:
            found = waiting.popleft().result()
            largest = max(size(found), largest // 2)
            allowed = max(2, min(most, allowed + 2, AHEAD_BYTES // max(1, largest)))
            yield found
    while waiting:
        yield waiting.popleft().result()


def again(ask: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """Return ``ask()``, asking again with doubling pauses while storage fails.

    Raises
    ------
    FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, UserError
        At once: these are answers.
    MemoryError
        At once: it says something of this machine, or of what was asked for, and nothing of storage.
    StorageError
        In place of everything else, after ``attempts`` tries, or at once where the disk is full or closed to us.
    """
    begun = time.monotonic()
    for attempt in range(1, attempts + 1):
        try:
            return ask()
        except (*_ANSWERS, StorageError, MemoryError):
            raise
        except Exception as error:
            number = error.errno if isinstance(error, OSError) else None
            # Of others' errors the kind only: messages of storage libraries hold paths.
            what = f"{type(error).__name__} ({os.strerror(number)})" if number else type(error).__name__
            what = str(error) if isinstance(error, ArchiveError) else f"{what} from storage"
            if number in _LASTING or isinstance(error, PermissionError):
                raise StorageError(what) from error
            if attempt == attempts or time.monotonic() - begun > LONGEST_S:
                raise StorageError(f"{what}, {attempt} times") from error
            # Apart by chance, so that many workers do not come back together.
            time.sleep(min(RETRY_LONGEST_S, RETRY_FIRST_S * 2**attempt) * random.uniform(0.5, 1))
    raise AssertionError


def open_filesystem(url: str, storage_options: dict[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path on it; what cannot be opened raises as its library does.

    Listings are not cached, so that what others write is seen, and S3 is not waited for longer than `ANSWER_S`.
    """
    options = dict(storage_options or {})
    protocol = fsspec.utils.get_protocol(url)
    if protocol in ("s3", "s3a"):
        # s3fs asks again by itself, five times; if the library under it did too, tries would multiply.
        with suppress(ImportError, AttributeError):
            importlib.import_module("s3fs.core").set_custom_error_handler(_is_passing)
        waits = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "retries": {"max_attempts": 0}}
        options["config_kwargs"] = waits | options.get("config_kwargs", {})
    if protocol in ("tar", "zip"):
        importlib.import_module(f"screening.{protocol}")  # in place of fsspec's own
    if protocol not in ("file", "local"):
        options.setdefault("use_listings_cache", False)
    fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, path


def _is_passing(error: Exception) -> bool:
    """Whether an object store may answer otherwise next time, where s3fs by itself thinks that it will not."""
    response = getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return status >= 500 or type(error).__name__ == "FlexibleChecksumError"  # of a body that was cut


def make_folders(path: str, *, mode: int = 0o700) -> None:
    """Make a local folder and those above it that are missing, each with ``mode`` and no more."""
    if not path or os.path.isdir(path):
        return
    make_folders(os.path.dirname(path), mode=mode)
    with suppress(FileExistsError):
        os.mkdir(path, mode)


def sync_folder(path: str) -> None:
    """Have a local disk keep the names in a folder, as ``fsync`` of a file has it keep the bytes, when the power fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems that do not know it keep names in ways of their own
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(parent: str | None = None) -> str:
    """Return the folder of this user's temporary files, closed to everybody else (mode 0700); it is made where it is absent.

    Parameters
    ----------
    parent
        Where it lies; None means the system's folder for temporary files.

    Raises
    ------
    UserError
        Somebody else was there first, or could look into it.
    """
    path = os.path.join(parent or tempfile.gettempdir(), f"screening-{os.getuid()}")
    make_folders(path)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(
            f"{path} must be a folder of yours that is closed to others (chmod 700); remove it, or name another place for "
            "temporary files with TMPDIR"
        )
    return path


def forbid_pickled_columns() -> None:
    """Make Arrow forget a column type of Ray Data: its values are unpickled when they are read, and any file may name it.

    Called wherever Parquet of somebody else is opened in a process that may have loaded Ray Data.
    """
    import pyarrow as pa

    with suppress(pa.ArrowKeyError):
        pa.unregister_extension_type("ray.data.arrow_pickled_object")


@dataclass(frozen=True)
class Folder:
    """A folder by its fsspec URL. Picklable: the file system is opened where it is used.

    Parameters
    ----------
    url
        Any fsspec URL or local path, e.g. ``s3://bucket/runs`` or ``runs``.
    storage_options
        Handed to fsspec (credentials, endpoint); never written anywhere.
    """

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        if re.search(r"://[^/@]*:[^/@]*@", self.url):  # it would stand in manifests, messages and logs
            raise UserError(
                f"the URL {re.sub(r'(?<=://)[^/@]*@', '', self.url)} was given with a password; give that in the environment "
                "variable SCREENING_STORAGE_OPTIONS, and the URL without it"
            )
        try:
            fs, path = open_filesystem(self.url, self.storage_options)
        except (ValueError, ImportError) as error:
            raise UserError(f"cannot use {self.url!r} as a folder: {error}") from error
        return fs, path.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "storage_options": self.storage_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's own file system."""
        return isinstance(self._opened[0], LocalFileSystem)

    def absolute(self) -> Folder:
        """Return the same folder with an absolute URL, so that it holds in processes that start elsewhere."""
        return Folder(os.path.abspath(self._opened[1]), self.storage_options) if self.is_local else self

    def path(self, name: str) -> str:
        """Return the path of ``name`` as the file system spells it."""
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    @property
    def filesystem(self) -> Any:
        """The fsspec file system, for libraries that read through one."""
        return self._opened[0]

    def folder(self, name: str) -> Folder:
        """Return the folder ``name`` inside this one."""
        return Folder(f"{self.url.rstrip('/')}/{name}", self.storage_options)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say which folder it is whose disk is full or closed to us."""
        try:
            yield
        except OSError as error:
            if error.errno in _LASTING:
                raise StorageError(f"{self.url} cannot be written to ({os.strerror(error.errno)})") from error
            raise

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask again where that helps: of object stores; a local disk's fault would only come later."""
        return question() if self.is_local else again(question)

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder ``name`` is there now (listings are not cached)."""
        fs = self._opened[0]
        fs.invalidate_cache()
        try:
            self._ask(lambda: fs.info(self.path(name)))  # fsspec's own exists() takes every fault for absence
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of file ``name``, or those from ``start`` up to ``end``; FileNotFoundError if it is not there."""
        return self._ask(lambda: bytes(self._opened[0].cat_file(self.path(name), start=start, end=end)))

    def before_writing(self) -> None:
        """Raise UserError where nothing may be written or removed any more; asked right before each time."""

    def _change(self, ask: Callable[[], T]) -> T:
        self.before_writing()
        return ask()

    def write(self, name: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write file ``name`` whole or not at all, replacing what stood there. ``mode`` holds on local disks."""
        if not self.is_local:
            again(lambda: self._change(lambda: self._opened[0].pipe_file(self.path(name), data)))
            return
        with self.writer(name, mode=mode) as file:
            file.write(data)

    @contextmanager
    def writer(self, name: str, *, mode: int = 0o600) -> Iterator[BinaryIO]:
        """Open file ``name`` for writing a stream; it appears, whole, when the block ends without an error.

        Folders that are missing are made as open as the file: 0700, or 0755 where others may read it.
        """
        fs, path = self._opened[0], self.path(name)
        if not self.is_local:
            # Through a temporary file: an aborted block must leave nothing, and open uploads finish when collected.
            with tempfile.NamedTemporaryFile() as spool:
                yield spool  # type: ignore[misc]
                spool.flush()
                again(lambda: self._change(lambda: fs.put_file(spool.name, path)))
            return
        parent = os.path.dirname(path)
        temporary = f"{parent}/.{os.path.basename(path)}.{secrets.token_hex(6)}.tmp"
        with self._told():
            make_folders(parent, mode=_folder_mode(mode))
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                self._change(lambda: os.replace(temporary, path))
            except BaseException:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                raise

    def sync_names(self, *names: str) -> None:
        """Have a local disk keep what stands in these folders inside this one, whatever befalls the machine.

        `write` makes sure of a file's bytes, and not of its name, which would double its time: a shard that is lost so is made
        again. Called where something else is then said to be done.
        """
        for name in names if self.is_local else ():
            if os.path.isdir(self.path(name)):
                sync_folder(self.path(name))

    def create(self, name: str, data: bytes, *, mode: int = 0o600) -> bool:
        """Create file ``name`` if nobody has; return False, changing nothing, if it exists already.

        Exclusive on local disks and on stores with conditional writes (S3, memory); fsspec's own ``create`` mode is not
        exclusive on local disks, where it looks first and writes then. ``data`` should be the caller's alone (hold a random
        token): a store's answer that got lost is made good by looking whose bytes are there.
        """
        fs, path = self._opened[0], self.path(name)
        if not self.is_local:
            try:
                again(lambda: self._change(lambda: fs.pipe_file(path, data, mode="create")))
            except FileExistsError:
                return self.read(name) == data
            return True
        with self._told():
            return self._change(lambda: self._create_here(path, data, mode))

    def _create_here(self, path: str, data: bytes, mode: int) -> bool:
        make_folders(os.path.dirname(path), mode=_folder_mode(mode))
        temporary = f"{path}.{secrets.token_hex(6)}.tmp"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # one link to a name: whole and exclusive at once
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: exclusive, if not whole at once
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        sync_folder(os.path.dirname(path))
        return True

    def names(self, name: str = "") -> list[str]:
        """Return the sorted names of the files in folder ``name``; empty if there is no such folder."""
        fs = self._opened[0]
        fs.invalidate_cache()
        try:
            found = self._ask(lambda: fs.ls(self.path(name), detail=False))
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(p).name for p in found if not PurePosixPath(p).name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove file or folder ``name`` with all in it; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            self._ask(lambda: self._change(lambda: self._opened[0].rm(self.path(name), recursive=True)))

    def remove_unfinished(self, name: str = "") -> None:
        """Remove what writers that were killed left in folder ``name``, which `names` does not show; nobody may write there."""
        if self.is_local and os.path.isdir(self.path(name)):
            self.before_writing()
            for entry in os.scandir(self.path(name)):
                if entry.name.startswith(".") and entry.name.endswith(".tmp") and entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)

    def open(self, name: str) -> BinaryIO:
        """Open file ``name`` for reading, seekable."""
        fs, path = self._opened[0], self.path(name)
        file = fs.open(path, "rb") if self.is_local else AskedFile(again(lambda: fs.open(path, "rb")))
        return cast(BinaryIO, file)


def _folder_mode(mode: int) -> int:
    return 0o755 if mode & 0o044 else 0o700


class AskedFile:
    """A remote file, open for reading, whose reads are asked for again where storage fails."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, length: int = -1) -> bytes:
        """Return up to ``length`` bytes from where the file stands; StorageError where storage does not give them."""
        at = self._file.tell()

        def ask() -> bytes:
            self._file.seek(at)
            return bytes(self._file.read(length))

        return again(ask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> AskedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
