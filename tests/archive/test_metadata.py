"""What tables and headers say: real layouts, broken cells, and ids that stay text."""

from __future__ import annotations

import io
from collections import Counter
from datetime import datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screening.archive.facts import MAX_CELL_CHARACTERS, MAX_CODES, Facts, parse_age
from screening.archive.mapping import MIMIC_IV_ECG, PTBXL, ColumnMapping, known_mapping, load_mapping
from screening.archive.metadata import MetadataTable, read_superclasses
from screening.errors import UserError

LOCAL = fsspec.filesystem("file")


def table_of(path: Path, text: str | bytes) -> MetadataTable:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return MetadataTable(LOCAL, str(path), path.name)


def facts_of(
    path: Path, text: str | bytes, mapping: ColumnMapping
) -> tuple[list[tuple[str | None, Facts]], Counter[str]]:
    unreadable: Counter[str] = Counter()
    return list(table_of(path, text).rows(mapping, unreadable)), unreadable


def test_first_rows_of_ptbxl(ptbxl: Path) -> None:
    table = MetadataTable(LOCAL, str(ptbxl / "ptbxl_database.csv"), "ptbxl_database.csv")
    assert known_mapping(table.columns) == PTBXL
    unreadable: Counter[str] = Counter()
    rows = list(table.rows(PTBXL, unreadable))
    # Literal: the first line of ptbxl_database.csv, PTB-XL 1.0.3.
    assert rows[0] == (
        "records500/00000/00001_hr",
        Facts(
            patient_id="15709",
            acquired_at=datetime(1984, 11, 9, 9, 17, 34),
            age=56.0,
            sex="female",
            site="0",
            device="CS-12   E",
            statements={"NORM": 100.0, "LVOLT": 0.0, "SR": 0.0},
            fold=3,
        ),
    )
    assert len(rows) == 64
    assert not unreadable


def test_ages() -> None:
    assert [parse_age(text) for text in ("0", "56.0", "89", "90", "95", "300.0")] == [0, 56, 89, 90, 90, 90]
    for text in ("-1", "131", "nan", "old", "299"):
        with pytest.raises(ValueError, match=r"."):
            parse_age(text)


def test_ids_are_strings_with_their_zeros(tmp_path: Path) -> None:
    mapping = ColumnMapping(path="f", patient_id="p", site="s")
    rows, _ = facts_of(tmp_path / "t.csv", "f,p,s\na/0001,00042,0.0\na/0002,42.0,007\na/0003,1e3,A 1\n", mapping)
    assert [(path, facts.patient_id, facts.site) for path, facts in rows] == [
        ("a/0001", "00042", "0"),
        ("a/0002", "42", "007"),
        ("a/0003", "1e3", "A 1"),
    ]


def test_mapped_table_with_value_map_format_and_labels(tmp_path: Path) -> None:
    mapping = ColumnMapping(
        path="file",
        acquired_at="when",
        acquired_at_format="%d.%m.%Y %H:%M",
        sex="geschlecht",
        sex_values={"w": "female"},
        labels="dx",
        labels_separator="|",
    )
    text = "file;when;geschlecht;dx\nx;01.10.1990 08:30;W;MI | LVH\ny;;m;\n"
    rows, unreadable = facts_of(tmp_path / "t.csv", text, mapping)
    assert rows == [
        ("x", Facts(acquired_at=datetime(1990, 10, 1, 8, 30), sex="female", statements={"MI": None, "LVH": None})),
        ("y", Facts(sex="male")),
    ]
    assert not unreadable


def test_what_cannot_be_understood_is_null_and_counted(tmp_path: Path) -> None:
    header = "ecg_id,patient_id,age,sex,site,device,recording_date,scp_codes,strat_fold,filename_hr\n"
    bomb = '"' + "{'a': " + "(" * 3000 + '"'
    rows, unreadable = facts_of(
        tmp_path / "t.csv",
        header
        + "1,7,old,9,,,yesterday,\"{'MI': __import__('os')}\",ten,a\n"
        + f"2,8,50,0,,,2000-01-01,{bomb},1,b\n"
        + f'3,9,,,,,,"{"x" * 9000}",,c\n',
        PTBXL,
    )
    assert rows == [
        ("a", Facts(patient_id="7")),
        ("b", Facts(patient_id="8", age=50, sex="male", acquired_at=datetime(2000, 1, 1), fold=1)),
        ("c", Facts(patient_id="9")),
    ]
    assert unreadable == {"age": 1, "sex": 1, "acquired_at": 1, "labels": 3, "fold": 1}


def test_times_with_a_zone_become_utc(tmp_path: Path) -> None:
    rows, _ = facts_of(
        tmp_path / "t.csv", "f,t\na,2020-01-01T02:00:00+02:00\n", ColumnMapping(path="f", acquired_at="t")
    )
    assert rows[0][1].acquired_at == datetime(2020, 1, 1)


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    mapping = ColumnMapping(path="f", patient_id="p", age="a", labels="l", acquired_at="t")
    table = pa.table(
        {
            "f": ["a", "b"],
            "p": pa.array([15709.0, None]),
            "a": pa.array([56, 300], pa.int64()),
            "l": [["MI", "LVH"], None],
            "t": pa.array([datetime(2001, 2, 3, 4, 5), None], pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = MetadataTable(LOCAL, str(tmp_path / "t.parquet"), "t.parquet").rows(mapping, Counter())
    assert list(read) == [
        ("a", Facts("15709", datetime(2001, 2, 3, 4, 5), 56.0, statements={"MI": None, "LVH": None})),
        ("b", Facts(age=90.0)),
    ]


def test_quoted_newlines_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    import gzip

    text = b'\xef\xbb\xbff,note,p\na,"two\nlines",1\nb,"x, y",2\n'
    mapping = ColumnMapping(path="f", patient_id="p")
    plain, _ = facts_of(tmp_path / "t.csv", text, mapping)
    packed, _ = facts_of(tmp_path / "t.csv.gz", gzip.compress(text), mapping)
    assert [(path, facts.patient_id) for path, facts in plain] == [("a", "1"), ("b", "2")]
    assert plain == packed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"t\.csv cannot be read \(it is empty\); it must be Parquet, or CSV in UTF-8 with a header line"),
        (b"f,p\na,1\nb,2,3\n", r"t\.csv cannot be read \(CSV parse error: (Row #3: )?Expected 2 columns, got 3\);"),
        (b"f,p\nM\xfcller,1\n", r"t\.csv cannot be read \(.*UTF8"),
        (b"f,f\na,b\n", r"t\.csv has two columns named 'f'; rename one"),
        (b"g,p\na,b\n", r"t\.csv has no column 'f' \(it has g, p\); correct the column mapping"),
    ],
)
def test_unreadable_tables_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        facts_of(tmp_path / "t.csv", content, ColumnMapping(path="f", patient_id="p"))


def test_not_parquet_and_absent(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"t\.parquet cannot be read \("):
        MetadataTable(LOCAL, str(tmp_path / "t.parquet"), "t.parquet")
    with pytest.raises(UserError, match=r"There is no metadata table t\.csv; check the path given with --metadata"):
        MetadataTable(LOCAL, str(tmp_path / "t.csv"), "t.csv")


def test_known_tables_by_their_columns() -> None:
    assert known_mapping(["subject_id", "study_id", "file_name", "ecg_time", "path"]) == MIMIC_IV_ECG
    low = known_mapping(["ecg_id", "scp_codes", "filename_lr"])
    assert low is not None
    assert low.path == "filename_lr"
    assert known_mapping(["path", "age"]) is None


def test_mapping_file(tmp_path: Path) -> None:
    path = tmp_path / "columns.json"
    path.write_text('{"path": "f", "sex": "g", "sex_values": {"W": "female"}}')
    assert load_mapping(str(path)) == ColumnMapping(path="f", sex="g", sex_values={"W": "female"})
    path.write_text("patient_id: p")
    with pytest.raises(UserError, match=r"column mapping .*columns\.json has a bad setting path: Field required"):
        load_mapping(str(path))
    path.write_text("{path: f, sex_values: {x: divers}}")
    with pytest.raises(UserError, match=r"bad setting sex_values\.x: Input should be 'female' or 'male'"):
        load_mapping(str(path))


def test_superclasses_of_ptbxl(shared_data: Path) -> None:
    with (shared_data / "ptbxl" / "scp_statements.csv").open("rb") as stream:
        superclasses = read_superclasses(stream)
    assert (superclasses["IMI"], superclasses["NORM"], superclasses["INJAS"]) == ("MI", "NORM", "MI")
    assert "SR" not in superclasses  # a rhythm statement
    with pytest.raises(UserError, match=r"^scp_statements\.csv beside the metadata table cannot be read \(Error\)"):
        read_superclasses(io.BytesIO(b"code,diagnostic_class\n" + b"x" * 200_000 + b",MI\n"))


def test_statements_that_are_too_many_or_too_long_to_be_codes_are_null_and_counted(tmp_path: Path) -> None:
    cells = ["SR,AF", ",".join(f"C{n}" for n in range(MAX_CODES + 1)), "x" * 65, "SR," * MAX_CELL_CHARACTERS]
    text = "path,codes\n" + "".join(f'r{n},"{cell}"\n' for n, cell in enumerate(cells))
    rows, unreadable = facts_of(tmp_path / "t.csv", text, ColumnMapping(path="path", labels="codes"))
    assert [facts.statements for _, facts in rows] == [{"SR": None, "AF": None}, None, None, None]
    assert unreadable == {"labels": 3}
