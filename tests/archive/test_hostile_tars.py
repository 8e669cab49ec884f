"""Tar files that attack: sizes that lead backwards, names of gigabytes, members that are not where they say."""

from __future__ import annotations

import io
import os
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.archive.build import build_catalog
from screening.archive.reader import ArchiveReader
from screening.errors import UserError
from screening.tar import MAX_EXTENDED_BYTES, members
from tests.hostile_archives import outcomes
from tests.wfdb_files import record


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header that claims any size."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 2**88).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def good(*names: str, form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar file of records, without its end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name in names:
            for file, data in record().items():
                member = tarfile.TarInfo(f"{name}/{file}")
                member.size = len(data)
                member.pax_headers = {"mtime": "1000000000.25"} if form == tarfile.PAX_FORMAT else {}
                tar.addfile(member, io.BytesIO(data))
        return out.getvalue()[: tar.offset]


def extended(text: str) -> bytes:
    line = f"{len(text) + 2 + len(str(len(text) + 3))} {text}\n".encode()
    return header("x", len(line), tarfile.XHDTYPE) + line.ljust(-(-len(line) // 512) * 512, b"\0")


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "leads_to_itself": (lambda: header("c/r.hea", -512), "claims -512 bytes"),
    "leads_backwards": (lambda: header("c/r.hea", -1024), "claims -1024 bytes"),
    "name_of_gigabytes": (lambda: header("././@LongLink", 3 * 2**30, tarfile.GNUTYPE_LONGNAME), "claims 3221225472"),
    "link_backwards": (lambda: header("././@LongLink", -512, tarfile.GNUTYPE_LONGLINK), "claims -512 bytes"),
    "extended_of_gigabytes": (lambda: header("x", 3 * 2**30, tarfile.XHDTYPE), "claims 3221225472"),
    "extended_of_all": (lambda: header("x", MAX_EXTENDED_BYTES + 1, tarfile.XGLTYPE), "claims 1048577"),
    "extended_backwards": (lambda: extended("size=-512") + header("c/r.hea", 0), "claims -512 bytes"),
    "extended_far": (lambda: extended("size=99999999999") + header("c/r.hea", 0), "it is cut off"),
    "extended_no_size": (lambda: extended("size=much") + header("c/r.hea", 0), "a size or a time that is no number"),
    "extended_no_lines": (lambda: header("x", 512, tarfile.XHDTYPE) + b"7" * 512, "cannot be understood"),
    "extended_cut": (lambda: header("x", 5000, tarfile.XHDTYPE), "it is cut off"),
    "member_cut": (lambda: header("c/r.hea", 10_000), "it is cut off"),
    "no_header": (lambda: b"x" * 512, "invalid header"),
    "half_a_header": (lambda: b"x" * 100, "truncated header"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tar_file_that_attacks_is_told_at_once(attack: str, tmp_path: Path) -> None:
    data, why = ATTACKS[attack]
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(good("a") + data())
        if "gigabytes" in attack:  # they are there, and take no place on the disk
            file.truncate(4 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=f"it is no tar file, a packed one, or cut off: .*{why}.*; unpack it"):
        build_catalog(f"tar::file://{tmp_path}/a.tar", str(tmp_path / "catalog"), deidentified=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_pass_over_the_headers_finds_what_pythons_own_does(form: int, tmp_path: Path) -> None:
    long = "/".join(["n" * 90] * (1 if form == tarfile.USTAR_FORMAT else 4))
    data = good("a", long, "umlaut ü", form=form) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = [(member.name, member.size, member.mtime, member.offset_data) for member in tar]
    found = [(member.name, member.size, member.mtime, member.offset_data) for member in members(io.BytesIO(data))]
    assert found == wanted
    (tmp_path / "a.tar").write_bytes(data)
    build_catalog(f"tar::file://{tmp_path}/a.tar", str(tmp_path / "catalog"), deidentified=True)
    assert outcomes(tmp_path / "catalog") == {f"{name}/r": None for name in ("a", long, "umlaut ü")}


def test_sparse_members_are_left_out() -> None:
    """Their bytes are not those in the tar file: the program tar writes them, and Python does not."""
    claimed = bytearray(header("b/r.dat", 512, tarfile.GNUTYPE_SPARSE))
    claimed[482] = 1
    claimed[148:156] = b" " * 8
    claimed[148:156] = b"%06o\0 " % sum(claimed)
    data = bytes(claimed) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"s" * 512
    pax = extended("GNU.sparse.major=1") + header("c/r.dat", 512) + b"s" * 512
    found = [member.name for member in members(io.BytesIO(data + pax + good("a") + bytes(1024)))]
    assert sorted(found) == ["a/r.dat", "a/r.hea"]


def test_names_and_links_of_a_tar_file(tmp_path: Path) -> None:
    link = header("link.hea", 0, tarfile.SYMTYPE)
    deep = extended(f"path={'d/' * 1000}r.hea") + header("x", 0)
    (tmp_path / "a.tar").write_bytes(good("/a", "./b", "../c") + link + deep + bytes(1024))
    summary = build_catalog(f"tar::file://{tmp_path}/a.tar", str(tmp_path / "catalog"), deidentified=True)
    assert outcomes(tmp_path / "catalog") == {"a/r": None, "b/r": None, "../c/r": "unsafe_path"}
    assert "2 members of the zip or tar file were left out: they are links or devices" in " ".join(summary.warnings)


def test_a_tar_file_that_was_cut_since_costs_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(good("a", "b") + bytes(1024))
    url = f"tar::file://{tmp_path}/a.tar"
    build_catalog(url, str(tmp_path / "catalog"), deidentified=True)
    reader = ArchiveReader(url)
    assert reader.read("a/r.hea", "x")
    os.truncate(tmp_path / "a.tar", 100_000)
    for location in ("a/r.hea", "b/r.hea"):
        got = reader.read(location, "x")
        assert got.reason in ("truncated", "empty_file")  # type: ignore[union-attr]
