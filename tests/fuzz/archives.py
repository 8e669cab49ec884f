"""Archives in one file as targets: what stands in them is listed, read and decoded, as a scan and a run do it."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import fsspec

from screening.archive.listing import Listing
from screening.archive.location import file_of
from screening.archive.reader import ArchiveReader
from screening.archive.root import open_root, open_within
from screening.contract import MAX_RECORD_BYTES
from screening.errors import UserError
from screening.members import DamagedMember, MemberArchive
from tests.fuzz.judge import judged

_RECORDS = 20
"""Looked at of one archive: a directory of some kilobytes names thousands."""


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def _archive(kind: str, data: bytes) -> str:
    url = f"memory://fuzz-{os.getpid()}/a.{kind}"
    fsspec.filesystem("memory").pipe_file(url, data)
    try:
        fs, root = open_root(f"{kind}::{url}")
    except UserError as error:
        if len(str(error)) > 1500:
            raise AssertionError("a message without end") from None
        return "refused"
    reader = ArchiveReader(f"{kind}::{url}")
    listing = Listing(fs, root, _pool())
    for read in (listing.records_files, listing.walk):  # the first may be refused: RECORDS is text, and may be damaged
        with suppress(UserError):
            found = list(itertools.islice(read(), _RECORDS))
            if read == listing.walk:
                listing.find(found)
    outcomes = set()
    for location in found:
        outcome = reader.read(location, "id")
        outcomes.add(judged(outcome))
        _whole(fs, file_of(location))
    return "empty" if not outcomes else "read" if "read" in outcomes else min(outcomes)


def _whole(fs: MemberArchive, path: str) -> None:
    """Read a member as tables and HDF5 files are: from its beginning, and anywhere."""
    with suppress(UserError, DamagedMember, FileNotFoundError), open_within(fs, "", path) as stream:
        if len(stream.read(MAX_RECORD_BYTES)) > MAX_RECORD_BYTES:
            raise AssertionError("more than was asked for")
    with suppress(DamagedMember, FileNotFoundError):
        window = fs.window(path)
        end = window.seek(0, io.SEEK_END)
        window.seek(end // 2)
        if len(window.read(1000)) > 1000:
            raise AssertionError("more than was asked for")


def tar(data: bytes) -> str:
    """Return what became of a tar file."""
    return _archive("tar", data)


def zip(data: bytes) -> str:
    """Return what became of a zip file."""
    return _archive("zip", data)


def tar_seeds(files: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Return tar files in every form, one with a link."""
    return tuple(map(lambda form: _tarred(files, form), (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))


def _tarred(files: Mapping[str, bytes], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as packed:
        link = tarfile.TarInfo("link.hea")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
        for name, data in files.items():
            long = tarfile.TarInfo(f"{'patients/' * 14}{name}")  # longer than a header holds
            long.size = len(data)
            packed.addfile(long, io.BytesIO(data))
    return stream.getvalue()


class _Unseekable(io.BytesIO):
    """What a zip file is piped to: sizes then stand behind the members."""

    def seek(self, *_: int) -> int:
        raise OSError

    def seekable(self) -> bool:
        return False


def zip_seeds(files: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Return zip files as programs write them, and some that nobody should."""
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        made.append(_zipped({f"a/{name}": data for name, data in files.items()}, method))
    for form in (
        "./a/{}",
        "/a/{}",
        "a\\{}",
        "../a/{}",
        "a/../../{}",
        "a/{}/x",
        "M\N{LATIN SMALL LETTER U WITH DIAERESIS}/{}",
    ):
        made.append(_zipped({form.format(name): data for name, data in files.items()}, zipfile.ZIP_STORED, system=0))
    piped = _Unseekable()
    made.append(_zipped({f"a/{name}": data for name, data in files.items()}, zipfile.ZIP_DEFLATED, stream=piped))
    many = {**files, "RECORDS": b"r\na/\n../x\n", "a/": b"", "a": b"", "a/r.hea": files["r.hea"]}
    made.append(_zipped(many, zipfile.ZIP_STORED, zip64=True, comment=b"PK\5\6"))
    made.append(b"MZ" * 50 + made[1])
    encrypted = bytearray(made[0])
    for at in (made[0].find(b"PK\3\4") + 6, made[0].find(b"PK\1\2") + 8):
        encrypted[at] |= 1
    made.append(bytes(encrypted))
    made.append(_zipped({"bomb/r.hea": files["r.hea"], "bomb/r.dat": bytes(2**20)}, zipfile.ZIP_DEFLATED))
    return tuple(made)


def _zipped(
    files: Mapping[str, bytes],
    method: int,
    *,
    system: int = 3,
    stream: io.BytesIO | None = None,
    zip64: bool = False,
    comment: bytes = b"",
) -> bytes:
    stream = io.BytesIO() if stream is None else stream
    with zipfile.ZipFile(stream, "w") as packed:
        packed.comment = comment
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.compress_type = system, method
            with packed.open(entry, "w", force_zip64=zip64) as member:
                member.write(data)
    return stream.getvalue()
