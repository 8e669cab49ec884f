"""Archives that somebody else arranged: links, pipes, names, tables. Each says what must become of it; no tests."""

from __future__ import annotations

import gzip
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from screening.archive.catalog import open_catalog
from screening.archive.reader import ArchiveReader
from screening.contract import CARRIED_COLUMNS, Reason
from screening.recording import Recording
from screening.run.stages import decode_shard
from screening.signal.preprocess import Preprocessing
from tests.wfdb_files import record

SECRET = b"the secret of another folder"


@dataclass(frozen=True)
class ArchiveCase:
    """How an archive is built, and what becomes of its records: how many of each reason (None: read), or a sentence."""

    name: str
    build: Callable[[Path], None]
    outcomes: dict[Reason | None, int] = field(default_factory=dict)
    error: str = ""  # regular expression of a UserError
    warning: str = ""  # regular expression of a warning of the catalog
    null: tuple[str, ...] = ()  # columns of the catalog that hold nothing


def put(folder: Path, name: str = "r", files: dict[str, bytes] | None = None) -> Path:
    """Write a good record into ``folder`` under ``name``, which may hold slashes; return its header."""
    stem = folder / name
    stem.parent.mkdir(parents=True, exist_ok=True)
    for file, data in (files or record()).items():
        # The header names its file in text that a strange name could not stand in.
        (stem.parent / (stem.name + ".hea" if file.endswith(".hea") else file)).write_bytes(data)
    return stem.parent / (stem.name + ".hea")


def _outside(folder: Path) -> Path:
    """Return a folder beside the archive with a good record and a secret."""
    outside = folder.parent / "outside"
    put(outside)
    (outside / "secret").write_bytes(SECRET)
    return outside


def _linked_signals(folder: Path) -> None:
    put(folder)
    (folder / "r.dat").unlink()
    (folder / "r.dat").symlink_to(_outside(folder) / "r.dat")


def _linked_header(folder: Path) -> None:
    put(folder)
    (folder / "r.hea").unlink()
    (folder / "r.hea").symlink_to(_outside(folder) / "r.hea")


def _linked_folder(folder: Path) -> None:
    put(folder, "good/r")
    (folder / "way_out").symlink_to(_outside(folder))


def _linked_inside(folder: Path) -> None:
    put(folder, "a/r")
    (folder / "b").mkdir()
    (folder / "b" / "r.hea").symlink_to(folder / "a" / "r.hea")
    (folder / "b" / "r.dat").symlink_to("../a/r.dat")


def _link_to_itself(folder: Path) -> None:
    put(folder)
    (folder / "r.dat").unlink()
    (folder / "r.dat").symlink_to("r.dat")


def _link_upwards(folder: Path) -> None:
    put(folder, "a/r")
    (folder / "a" / "again").symlink_to(folder, target_is_directory=True)


def _link_to_device(folder: Path) -> None:
    put(folder)
    (folder / "r.dat").unlink()
    (folder / "r.dat").symlink_to("/dev/zero")


def _pipe(of: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        put(folder)
        (folder / of).unlink()
        os.mkfifo(folder / of)
        (folder / "RECORDS").write_text("r\n")

    return build


def _socket(folder: Path) -> None:
    put(folder)
    (folder / "r.dat").unlink()
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("r.dat")
    finally:
        os.chdir(here)


def _folder_for_file(folder: Path) -> None:
    put(folder)
    (folder / "r.dat").unlink()
    (folder / "r.dat").mkdir()


def _listed(*names: str, good: bool = True) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        if good:
            put(folder)
        _outside(folder)
        (folder / "RECORDS").write_bytes("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))

    return build


NAMES = {
    "space": "a name",
    "quotes": 'o\'neil "x"',
    "unicode": "Müller Ёж 心电图",
    "decomposed": "Mu\N{COMBINING DIAERESIS}ller",
    "right_to_left": "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "emoji": "\N{BROKEN HEART}",
    "dash": "-rf",
    "percent": "100%25",
    "dots": "a..b",
    "shell": "$(id);`id`|x&",
    "html": "<script>alert(1)<",
    "sql": "'; drop table records; --",
    "long": "n" * 240,
    "deep": "/".join(["d"] * 40) + "/r",
    "equals": "=cmd()",
    "brace": "{0}{x}%s",
}
"""Names of files that are allowed, and break what handles text carelessly."""
CONTROL_NAMES = {"escape": "\x1b[31mred\x07", "newline": "two\nlines"}
"""Names that no record has."""

_HEAD = "ecg_id,patient_id,age,sex,recording_date,scp_codes,filename_hr,strat_fold,site,device\n"


def _table(**cells: str) -> Callable[[Path], None]:
    """Return what builds a PTB-XL-like archive of two records, the second with these cells."""

    def build(folder: Path) -> None:
        usual = {
            "ecg_id": "1",
            "patient_id": "15709.0",
            "age": "56.0",
            "sex": "1",
            "recording_date": "1984-11-09 09:17:34",
            "scp_codes": "{'NORM': 100.0}",
            "filename_hr": "a/r",
            "strat_fold": "3",
            "site": "0",
            "device": "CS-12",
        }
        rows = [usual, usual | {"filename_hr": "b/r"} | cells]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in rows]
        put(folder, "a/r")
        put(folder, "b/r")
        (folder / "ptbxl_database.csv").write_bytes(
            (_HEAD + "\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
        )

    return build


def _bytes_of_table(data: Callable[[], bytes], name: str = "ptbxl_database.csv") -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        put(folder, "a/r")
        (folder / name).write_bytes(data())

    return build


def _parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def _damaged(data: bytes, at: float) -> bytes:
    changed = bytearray(data)
    changed[int(at * len(data))] ^= 0x55
    return bytes(changed)


WRONG_TYPES = {
    "subject_id": [True, False],
    "study_id": [[1, 2], [3]],
    "ecg_time": pa.array([1.5, float("nan")]),
    "path": [1, 2],
}


def archive_cases() -> list[ArchiveCase]:
    """Return every case; their names are unique."""
    read, unsafe, missing = None, Reason.UNSAFE_PATH, Reason.MISSING_FILE
    two = {read: 2}
    cases = [
        ArchiveCase("link_signals_out", _linked_signals, {unsafe: 1}),
        ArchiveCase("link_header_out", _linked_header, {unsafe: 1}),
        ArchiveCase("link_folder_out", _linked_folder, {read: 1}, warning="1 folders were passed over: they are links"),
        ArchiveCase("link_inside", _linked_inside, {read: 2}),
        ArchiveCase("link_to_itself", _link_to_itself, {unsafe: 1}),
        ArchiveCase("link_upwards", _link_upwards, {read: 1}),
        ArchiveCase("link_to_device", _link_to_device, {unsafe: 1}),
        ArchiveCase("pipe_for_signals", _pipe("r.dat"), {missing: 1}),
        ArchiveCase("pipe_for_header", _pipe("r.hea"), {missing: 1}),
        ArchiveCase("socket_for_signals", _socket, {unsafe: 1}),
        ArchiveCase("folder_for_signals", _folder_for_file, {missing: 1}),
        ArchiveCase("listed_parent", _listed("r", "../outside/r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_absolute", _listed("r", "/etc/passwd"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_http", _listed("r", "http://198.51.100.1/r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_s3", _listed("r", "s3://bucket/r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_file_url", _listed("r", "file:///etc/passwd"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_chain", _listed("r", "simplecache::r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_home", _listed("r", "~root/r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_nul", _listed("r", "r\0x"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_backslash", _listed("r", "..\\r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_endless", _listed("r", "n" * 10_000), {read: 1, unsafe: 1}),
        ArchiveCase("listed_endless_path", _listed("r", "n/" * 5_000 + "r"), {read: 1, unsafe: 1}),
        ArchiveCase("listed_twice", _listed("r", "r", "./r", "x/../r"), {read: 1}, warning="3 records are listed more"),
        ArchiveCase("listed_absent", _listed("r", "not_there"), {read: 1, missing: 1}, warning="1 records of RECORDS"),
        ArchiveCase("listed_not_utf8", _listed("r", "caf\udce9"), error=r"Line 2 of RECORDS is not UTF-8 text"),
        ArchiveCase("listed_folder_outside", _listed("r", "../outside/"), {read: 1, unsafe: 1}),
        ArchiveCase("table_age_text", _table(age="old"), two, null=("age",), warning="1 values of age"),
        ArchiveCase("table_age_infinite", _table(age="1e999"), two, null=("age",)),
        ArchiveCase("table_age_negative", _table(age="-5"), two, null=("age",)),
        ArchiveCase("table_age_nan", _table(age="nan"), two, null=("age",)),
        ArchiveCase("table_sex_unknown", _table(sex="7"), two, null=("sex",), warning="1 values of sex"),
        ArchiveCase("table_date_text", _table(recording_date="yesterday"), two, null=("acquired_at",)),
        ArchiveCase("table_date_far", _table(recording_date="99999-01-01 00:00:00"), two, null=("acquired_at",)),
        ArchiveCase("table_date_number", _table(recording_date="30629.4"), two, null=("acquired_at",)),
        ArchiveCase("table_fold_huge", _table(strat_fold="99999999999999999999"), two, null=("fold",)),
        ArchiveCase(
            "table_codes_call", _table(scp_codes="__import__('os').system('touch MARK')"), two, null=("labels",)
        ),
        ArchiveCase("table_codes_nested", _table(scp_codes="{" * 90_000), two, null=("labels",)),
        ArchiveCase("table_codes_brackets", _table(scp_codes="[" * 5_000 + "]" * 5_000), two, null=("labels",)),
        ArchiveCase("table_codes_infinite", _table(scp_codes="{'MI': 1e999}"), two, null=("labels",)),
        ArchiveCase("table_codes_long", _table(scp_codes="{'" + "M" * 10_000 + "': 1}"), two, null=("labels",)),
        ArchiveCase(
            "table_codes_many", _table(scp_codes=str({f"c{n}": 1 for n in range(20_000)})), two, null=("labels",)
        ),
        ArchiveCase("table_cell_huge", _table(device="x" * 3_000_000), error="a row of it is longer than"),
        ArchiveCase("table_formula", _table(device="=cmd|' /C calc'!A0", site="@SUM(1)"), two),
        ArchiveCase("table_html", _table(device="<script>alert(1)</script>", site="<img src=x onerror=alert(1)>"), two),
        ArchiveCase("table_sql", _table(device="'; DROP TABLE x; --"), two),
        ArchiveCase("table_escapes", _table(device="\x1b]0;title\x07\x1b[2J"), two),
        ArchiveCase("table_lines_in_cell", _table(device="two\nlines\r\nthree"), two),
        ArchiveCase("table_path_out", _table(filename_hr="../outside/r"), {read: 1, unsafe: 1}),
        ArchiveCase("table_path_url", _table(filename_hr="http://198.51.100.1/r"), {read: 1, unsafe: 1}),
        ArchiveCase(
            "table_path_empty", _table(filename_hr=""), {read: 1}, warning="1 rows of ptbxl_database.csv name no"
        ),
        ArchiveCase("table_path_endless", _table(filename_hr="n" * 10_000), {read: 1, unsafe: 1}),
        ArchiveCase("table_twice", _table(filename_hr="a/r"), {read: 1}, warning="1 records are listed more than once"),
        ArchiveCase("table_empty", _bytes_of_table(lambda: b""), error=r"cannot be read \(it is empty\)"),
        ArchiveCase("table_head_only", _bytes_of_table(_HEAD.encode), error=r"no row of ptbxl_database.csv names one"),
        ArchiveCase("table_binary", _bytes_of_table(lambda: bytes(range(256)) * 50), error=r"ptbxl_database.csv"),
        ArchiveCase(
            "table_ragged",
            _bytes_of_table(lambda: (_HEAD + "1,2,3\n").encode()),
            error=r"cannot be read \(CSV parse error: Row #2: Expected 10 columns, got 3",
        ),
        ArchiveCase(
            "table_open_quote",
            _bytes_of_table(lambda: (_HEAD + '1,"2,3,' + "x" * 100_000).encode()),
            error=r"The metadata table ptbxl_database.csv cannot be read",
        ),
        ArchiveCase(
            "table_columns_twice", _bytes_of_table(lambda: b"path,path\na,b\n"), error=r"has two columns named 'path'"
        ),
        ArchiveCase(
            "table_columns_huge",
            _bytes_of_table(lambda: ",".join("c" * 9_000 + str(n) for n in range(9)).encode() + b"\n1\n"),
            error=r"The columns of ptbxl_database.csv are not known",
        ),
    ]
    return cases


def table_cases() -> list[tuple[str, str, Callable[[], bytes], str]]:
    """Return (name, file name, bytes, expected sentence; empty: it is read) of tables that are named with --metadata."""
    good = _parquet({"subject_id": ["1", "2"], "study_id": ["1", "2"], "path": ["a/r", "b/r"]})
    return [
        ("parquet_wrong_types", "t.parquet", lambda: _parquet(WRONG_TYPES), ""),
        (
            "parquet_nulls",
            "t.parquet",
            lambda: _parquet(dict.fromkeys(WRONG_TYPES, pa.nulls(3))),
            "no row of t.parquet names one",
        ),
        ("parquet_cut", "t.parquet", lambda: good[:-50], "cannot be read"),
        ("parquet_cut_short", "t.parquet", lambda: good[:10], "cannot be read"),
        ("parquet_footer_flipped", "t.parquet", lambda: _damaged(good, 0.9), "cannot be read"),
        ("parquet_is_text", "t.parquet", lambda: b"path\na\n", "cannot be read"),
        ("csv_gzip_bomb", "t.csv.gz", lambda: gzip.compress(b"subject_id,study_id,path\n" + b"0" * 2**28), "cannot be"),
        ("csv_gzip_broken", "t.csv.gz", lambda: b"\x1f\x8b\x08" + b"x" * 100, "cannot be read"),
        ("csv_bare_carriage_return", "t.csv", lambda: b'a"b\rc,d\n\r"\n', "cannot be read|not known"),
    ]


# --- What becomes of them ----------------------------------------------------------------------------------------------

_watched: list[str] = []
_opened: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        _opened.append(str(arguments[1] if event == "socket.connect" else arguments[0]))


sys.addaudithook(_hook)  # one for all tests: none can be taken away again


@contextmanager
def nothing_read(*places: Path) -> Iterator[None]:
    """Fail where something in ``places``, or on the network, is opened."""
    _watched.append("on")
    _opened.clear()
    try:
        yield
    finally:
        _watched.clear()
    assert _opened, "the hook heard nothing"
    wrong = [path for path in _opened if any(path.startswith(str(place)) for place in places) or "198.51" in path]
    assert wrong == []


def outcomes(catalog: Path) -> dict[str, Reason | None]:
    """Read and decode what a catalog holds, as a run does; return the reason of each record by its id, None: read."""
    opened = open_catalog(str(catalog))
    reader = ArchiveReader(opened.root_url)
    found: dict[str, Reason | None] = {}
    for batch in opened.iter_batches([*CARRIED_COLUMNS, "version"], with_location=True, batch_size=64):
        rows = batch.to_pylist()
        read = [reader.read(row["location"], row["record_id"], version=row["version"]) for row in rows]
        for one in read:
            assert one.record_id not in found, "a record with two outcomes"
            found[one.record_id] = None if isinstance(one, Recording) else one.reason
            detail = "" if isinstance(one, Recording) else one.detail
            assert detail.isprintable()
            assert not any(word in detail for word in ("outside/", "passwd", SECRET.decode()))
        assert decode_shard(
            pa.Table.from_batches([batch.select(CARRIED_COLUMNS)]), read, Preprocessing()
        ).num_rows == len(rows)
    return found
