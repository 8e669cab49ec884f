"""The root of an archive on any fsspec file system: opening it, and the files in it that tell of its records."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from screening.errors import UserError
from screening.members import DamagedMember
from screening.storage import open_filesystem

UNREACHABLE = (errno.ELOOP, errno.ENAMETOOLONG)  # of a path, not of the storage


def open_root(url: str, storage_options: dict[str, Any] | None = None) -> tuple[AbstractFileSystem, str]:
    """Return the file system and the path of an archive's root.

    Raises
    ------
    UserError
        The URL is of no known kind, cannot be reached, or names no folder.
    """
    shown = without_credentials(url)
    try:
        fs, root = open_filesystem(url, storage_options)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"The archive URL {shown!r} cannot be used ({error}); give a folder or a URL such as s3://bucket/ecg."
        ) from error
    except ImportError as error:
        raise UserError(f"The archive URL {shown!r} needs a package that is not installed: {error}.") from error
    except Exception as error:  # every file system raises its own
        raise UserError(f"The archive {shown!r} cannot be opened ({type(error).__name__}: {error}).") from error
    root = root.rstrip("/")
    try:
        is_folder = fs.isdir(root) if root else True
        exists = is_folder or fs.exists(root)
    except Exception as error:
        raise UserError(f"The archive {shown!r} cannot be reached ({type(error).__name__}: {error}).") from error
    if not exists:
        raise UserError(f"There is no archive at {shown!r}; check the path or URL.")
    if not is_folder:
        raise UserError(
            f"The archive {shown!r} is a file; give the folder that holds the records (or zip::URL for a zip file, tar::URL "
            "for a tar file)."
        )
    return fs, root


def without_credentials(url: str) -> str:
    """Return ``url`` without user, password, query and fragment; local paths stay as they are.

    >>> without_credentials("https://ann:secret@host/ecg?X-Amz-Signature=1")
    'https://host/ecg'
    """
    if "://" not in url:
        return url
    return re.sub(r"(?<=://)[^/@]*@", "", re.sub(r"[?#][^:]*$", "", url))


def join(root: str, location: str) -> str:
    """Return the file system's path of a root-relative location."""
    return f"{root}/{location}" if root else location


def open_within(fs: AbstractFileSystem, root: str, location: str, shown: str | None = None) -> IO[bytes]:
    """Open a file of an archive that tells of its records, as opposed to one of a record.

    ``shown`` is what it is called in messages, where the location may be that of a patient's folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    UserError
        It leads out of the archive, or is a pipe, a device or a folder, or cannot be unpacked from a zip file.
    """
    path, shown = join(root, location), shown or repr(location)
    if isinstance(fs, LocalFileSystem):
        try:
            is_file = stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:
            if error.errno not in UNREACHABLE:
                raise
            is_file = False
        if not is_file:
            raise UserError(f"{shown} in the archive is no ordinary file; replace it or remove it.")
        if not is_inside(os.path.realpath(root), path):
            raise UserError(
                f"{shown} in the archive is a symbolic link that leads out of it; put the file itself there."
            )
    try:
        stream: IO[bytes] = fs.open(path, "rb")
    except DamagedMember as error:
        raise UserError(f"{shown} in the archive cannot be unpacked: {error}.") from None
    return stream


def is_inside(real_root: str, path: str) -> bool:
    """Whether a local path leads to somewhere below a root without symbolic links."""
    real = os.path.realpath(path)
    return real == real_root or real.startswith(real_root.rstrip("/") + "/")
