"""Folders on any fsspec file system, with the two things a ledger needs: whole-or-nothing writes and exclusive creation.

Object stores write an object whole or not at all; on a local disk the same is had by a temporary name and a rename.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from screening.errors import UserError


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
        try:
            fs, path = fsspec.core.url_to_fs(self.url, **self.storage_options)
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

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder ``name`` is there now (listings are not cached)."""
        fs = self._opened[0]
        fs.invalidate_cache()
        return bool(fs.exists(self.path(name)))

    def read(self, name: str) -> bytes:
        """Return the bytes of file ``name``; FileNotFoundError if it is not there."""
        return bytes(self._opened[0].cat_file(self.path(name)))

    def write(self, name: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write file ``name`` whole or not at all, replacing what stood there. ``mode`` holds on local disks."""
        if not self.is_local:
            self._opened[0].pipe_file(self.path(name), data)
            return
        with self.writer(name, mode=mode) as file:
            file.write(data)

    @contextmanager
    def writer(self, name: str, *, mode: int = 0o644) -> Iterator[BinaryIO]:
        """Open file ``name`` for writing a stream; it appears, whole, when the block ends without an error."""
        fs, path = self._opened[0], self.path(name)
        if not self.is_local:
            # Through a temporary file: an aborted block must leave nothing, and open uploads finish when collected.
            with tempfile.NamedTemporaryFile() as spool:
                yield spool  # type: ignore[misc]
                spool.flush()
                fs.put_file(spool.name, path)
            return
        parent = os.path.dirname(path)
        os.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/.{os.path.basename(path)}.{secrets.token_hex(6)}.tmp"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def create(self, name: str, data: bytes) -> bool:
        """Create file ``name`` if nobody has; return False, changing nothing, if it exists already.

        Exclusive on local disks and on stores with conditional writes (S3, memory); fsspec's own ``create`` mode is not
        exclusive on local disks, where it looks first and writes then.
        """
        fs, path = self._opened[0], self.path(name)
        if not self.is_local:
            try:
                fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(6)}.tmp"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                file.write(data)
            try:
                os.link(temporary, path)  # one link to a name: whole and exclusive at once
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: exclusive, if not whole at once
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        return True

    def names(self, name: str = "") -> list[str]:
        """Return the sorted names of the files in folder ``name``; empty if there is no such folder."""
        fs = self._opened[0]
        fs.invalidate_cache()
        try:
            found = fs.ls(self.path(name), detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(p).name for p in found if not PurePosixPath(p).name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove file or folder ``name`` with all in it; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            self._opened[0].rm(self.path(name), recursive=True)

    def open(self, name: str) -> BinaryIO:
        """Open file ``name`` for reading, seekable."""
        return self._opened[0].open(self.path(name), "rb")
