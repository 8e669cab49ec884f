"""Lists, tables and zip files that attack: what tells of records must not lead a scan astray."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.archive.build import build_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.mapping import ColumnMapping
from screening.contract import Reason
from screening.errors import UserError
from tests import corpus
from tests.hostile_archives import SECRET, nothing_read, outcomes
from tests.wfdb_files import record

KEY = PseudonymKey.of(b"a key for tests, 32 characters long")
MAPPING = ColumnMapping(path="path", patient_id="patient")


# --- What tells of records --------------------------------------------------------------------------------------------


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _zeros(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path, _: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("name", ["RECORDS", "a/RECORDS", "ptbxl_database.csv", "scp_statements.csv"])
@pytest.mark.parametrize("make", [_pipe, _link, _zeros, _folder])
def test_pipes_devices_and_links_in_place_of_lists(
    tmp_path: Path, name: str, make: Callable[[Path, Path], None]
) -> None:
    archive, outside = tmp_path / "archive", tmp_path / "outside.csv"
    corpus.write([corpus.Case("a", {f"a/{k}": v for k, v in record().items()}, "a/r.hea")], archive)
    outside.write_text(f"ecg_id,scp_codes,filename_hr\n1,{{}},{SECRET.decode()}\n")
    (archive / "RECORDS").write_text("a/\n")
    if name == "scp_statements.csv":
        (archive / "ptbxl_database.csv").write_text(
            "ecg_id,scp_codes,filename_hr,patient_id,recording_date\n1,{},a/r,1,\n"
        )
    (archive / name).unlink(missing_ok=True)
    make(archive / name, outside)
    what = (
        "is a symbolic link that leads out of it; put the file itself there"
        if make is _link
        else ("is no ordinary file; replace it or remove it")
    )
    shown = {"RECORDS": "RECORDS", "a/RECORDS": "RECORDS in the folder of line 1 of RECORDS"}.get(name, f"'{name}'")
    with nothing_read(outside, Path("/dev/zero")), pytest.raises(UserError, match=f"^{shown} in the archive {what}"):
        build_catalog(str(archive), str(tmp_path / "c"), deidentified=True)
    assert not (tmp_path / "c" / "catalog.json").exists()


def records_of(folder: Path, text: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RECORDS").write_bytes(text)


def test_records_files_that_never_end(tmp_path: Path) -> None:
    """Each of ten folders names the next a hundred times, by a hundred links: 10**20 ways."""
    archive = tmp_path / "archive"
    corpus.write([corpus.Case("a", {f"9/{k}": v for k, v in record().items()}, "9/r.hea")], archive)
    for level in range(6):
        records_of(archive / str(level), b"".join(b"w%d/\n" % way for way in range(100)))
        for way in range(100):
            (archive / str(level) / f"w{way}").symlink_to(f"../{level + 1 if level < 5 else 9}")
    (archive / "9" / "RECORDS").write_text("r\n")
    records_of(archive, b"0/\n" * 1000)
    summary = build_catalog(str(archive), str(tmp_path / "c"), deidentified=True)
    assert summary.records == 1
    assert list(outcomes(tmp_path / "c").values()) == [None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a" * 70_000 + b"\n", r"^Line 1 of RECORDS has 65536 bytes and more; mend or remove it\.$"),
        (b"a/r\n\xff\xfe\n", r"^Line 2 of RECORDS is not UTF-8 text; mend or remove it\.$"),
        (
            b"\x1b[2J/\n",
            r"^The folder of line 1 of RECORDS is not in the archive; mend that line, or put the folder there\.$",
        ),
        (b"\n\n \n", r"^There are no records in .* \(its RECORDS files are empty\)"),
        (b"a/r\n" * 100_000, r"^\d+,\d+ rows of RECORDS name no record, or one named before, and only 1 name another"),
    ],
)
def test_records_files_that_are_broken(tmp_path: Path, text: bytes, message: str) -> None:
    records_of(tmp_path / "archive", text)
    with pytest.raises(UserError, match=message):
        build_catalog(str(tmp_path / "archive"), str(tmp_path / "c"), deidentified=True)


def test_a_table_that_unpacks_to_one_row_without_end(tmp_path: Path) -> None:
    corpus.write([corpus.Case("a", {f"a/{k}": v for k, v in record().items()}, "a/r.hea")], tmp_path / "archive")
    table = tmp_path / "t.csv.gz"
    with gzip.open(table, "wb") as stream:
        stream.write(b"path,patient\n")
        for _ in range(50):
            stream.write(b"a/r,1\n" * 100_000)
    assert table.stat().st_size < 60_000
    begun = time.process_time()
    with pytest.raises(UserError, match=r"rows of t\.csv\.gz name no record, or one named before"):
        build_catalog(str(tmp_path / "archive"), str(tmp_path / "c"), metadata=str(table), mapping=MAPPING, key=KEY)
    assert time.process_time() - begun < 10


def test_odd_rates_are_decoded_in_time(tmp_path: Path) -> None:
    rates = ("50.0001", "333.3333333", "499.9999999", "997.13", "1999.7")
    for rate in rates:
        files = record()
        files["r.hea"] = files["r.hea"].replace(b"r 12 500 ", f"r 12 {rate} ".encode())
        corpus.write([corpus.Case(rate, {f"{rate}/{k}": v for k, v in files.items()}, f"{rate}/r.hea")], tmp_path / "a")
    (tmp_path / "a" / "RECORDS").unlink()
    begun = time.process_time()
    build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True)
    found = outcomes(tmp_path / "c")
    assert len(found) == len(rates)
    assert set(found.values()) <= {None, Reason.TOO_SHORT, Reason.NOISE}
    assert time.process_time() - begun < 20
