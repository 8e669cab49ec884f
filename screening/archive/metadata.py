"""What an archive's table says about its records: PTB-XL, MIMIC-IV-ECG, or any CSV or Parquet with a column mapping.

Everything is read as text first: identifiers are strings ("00123" is not 123), and a value that cannot be understood
becomes null and is counted, never guessed.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from fsspec.spec import AbstractFileSystem

from screening.archive.facts import (
    MAX_CELL_CHARACTERS,
    MAX_NAME_CHARACTERS,
    SEXES,
    Facts,
    as_id,
    parse_age,
    parse_codes,
    parse_likelihoods,
    parse_time,
)
from screening.archive.labels import Statements
from screening.archive.mapping import ColumnMapping
from screening.archive.parquet_table import open_parquet, values_of
from screening.errors import UserError, printable
from screening.storage import forbid_pickled_columns

TABLE_BLOCK_BYTES = 2**20
TABLE_ROWS = 4_096
NULLS = ["", "NaN", "nan", "NA", "N/A", "n/a", "null", "NULL", "None"]
_NULLS = frozenset(NULLS)
STATEMENTS_TABLE = "scp_statements.csv"
"""PTB-XL's table of statement codes, which stands beside its metadata table."""
_MAX_STATEMENTS_BYTES = 2**22
_UNREADABLE = (OSError, EOFError, ValueError, csv.Error, zlib.error, pa.ArrowException)


class MetadataTable:
    """A CSV or Parquet table on any file system, read in blocks, all values as text.

    Raises
    ------
    UserError
        The table is absent, empty or cannot be read, or a mapped column is missing.
    """

    def __init__(self, fs: AbstractFileSystem, path: str, name: str) -> None:
        forbid_pickled_columns()
        self._fs, self._path, self.name = fs, path, name
        self._is_parquet = bool(re.search(r"\.(parquet|pq)$", path, re.IGNORECASE))
        self._delimiter = ","
        try:
            self.columns = self._columns()
        except FileNotFoundError:
            raise UserError(f"There is no metadata table {name}; check the path given with --metadata.") from None
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        twice = [column for column, count in Counter(self.columns).items() if count > 1]
        if twice:
            raise UserError(f"The metadata table {name} has two columns named {twice[0][:40]!r}; rename one.")

    def rows(self, mapping: ColumnMapping, unreadable: Counter[str]) -> Iterator[tuple[str | None, Facts]]:
        """Yield (path, facts) for every row, in order; values that cannot be understood are counted by column."""
        missing = [column for column in mapping.columns if column not in self.columns]
        if missing:
            raise UserError(
                f"The metadata table {self.name} has no column {missing[0]!r} (it has {some(self.columns)}); "
                "correct the column mapping."
            )
        parse = _RowParser(mapping, unreadable)
        try:
            for batch in self._batches(mapping.columns):
                for start in range(0, batch.num_rows, TABLE_ROWS):
                    yield from parse.batch(batch.slice(start, TABLE_ROWS))
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def first_path(self, mapping: ColumnMapping) -> str | None:
        """Return the first path in the table, None if there is none."""
        return next((path for path, _ in self.rows(mapping, Counter()) if path), None)

    def _columns(self) -> list[str]:
        if self._is_parquet:
            with self._fs.open(self._path, "rb") as stream:
                return list(open_parquet(stream).schema_arrow.names)
        with self._open_text() as stream:
            head = stream.read(2**18).decode("utf-8-sig", "replace")
        first = head.splitlines()[0] if head.strip() else ""
        if not first:
            raise ValueError("it is empty")
        self._delimiter = max(",;\t", key=first.count)
        columns = next(csv.reader(io.StringIO(head), delimiter=self._delimiter))
        if any(map(_VALUE.fullmatch, columns)):  # said before they are quoted as names of columns
            raise ValueError("its first line holds numbers or dates, and not names of columns")
        return columns

    def _open_text(self) -> IO[bytes]:
        stream: IO[bytes] = self._fs.open(self._path, "rb", compression="infer")
        return stream

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if self._is_parquet:
            with self._fs.open(self._path, "rb") as stream:
                yield from open_parquet(stream).iter_batches(batch_size=TABLE_ROWS, columns=columns)
            return
        with self._open_text() as stream:
            yield from pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(block_size=TABLE_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=columns,
                    column_types={column: pa.string() for column in columns},
                    null_values=NULLS,
                    strings_can_be_null=True,
                ),
            )

    def _unreadable(self, error: Exception) -> UserError:
        if "straddling" in str(error):
            raise UserError(
                f"The metadata table {self.name} cannot be read: a row of it is longer than {TABLE_BLOCK_BYTES:,} bytes, or a "
                "quotation mark is not closed; mend that row."
            ) from error
        # Arrow quotes the row it stumbles over; a row may hold a patient's identifiers.
        why = printable(re.sub(r"(got \d+):.*", r"\1", " ".join(str(error).split()))[:200])
        return UserError(
            f"The metadata table {self.name} cannot be read ({why}); it must be Parquet, or CSV in UTF-8 with a "
            "header line."
        )


def some(names: Sequence[str]) -> str:
    """Return the first names of many, for a message."""
    return ", ".join(printable(name[:40]) for name in names[:20]) + (", ..." if len(names) > 20 else "")


_VALUE = re.compile(r"\s*[-+]?\d[\d.,:/ T-]*\s*")


class _RowParser:
    """Turns the text columns of a table into Facts, counting what it cannot understand."""

    def __init__(self, mapping: ColumnMapping, unreadable: Counter[str]) -> None:
        self._mapping, self._unreadable = mapping, unreadable
        self._sexes = {**SEXES, **{key.strip().lower(): sex for key, sex in mapping.sex_values.items()}}
        self._statements = lru_cache(maxsize=16_384)(self._parse_statements)

    def batch(self, batch: pa.RecordBatch) -> Iterator[tuple[str | None, Facts]]:
        mapping, size = self._mapping, batch.num_rows

        def column(what: str) -> list[Any]:
            name = getattr(mapping, what)
            if name is None:
                return [None] * size
            values = values_of(batch.column(name), lists=what == "labels")
            if values is None:  # structures, or lists of what is no statement
                self._unreadable[what] += size - batch.column(name).null_count
                return [None] * size
            return [None if isinstance(value, str) and value in _NULLS else value for value in values]

        stated = (
            "path",
            "member",
            "patient_id",
            "acquired_at",
            "age",
            "sex",
            "site",
            "device",
            "qrs_ms",
            "labels",
            "fold",
        )
        rows = zip(*map(column, stated), self._columns(batch), strict=True)
        for path, member, patient, acquired, age, sex, site, device, qrs_ms, labels, fold, true in rows:
            yield (
                _path(path, as_id(member)) if path and path.strip() else None,
                Facts(
                    patient_id=as_id(patient),
                    acquired_at=self._value("acquired_at", acquired, self._time),
                    age=self._value("age", age, parse_age),
                    sex=self._value("sex", sex, self._sex),
                    site=self._value("site", site, _name),
                    device=self._value("device", device, _name),
                    statements=_joined(
                        self._value("labels", tuple(labels) if isinstance(labels, list) else labels, self._statements),
                        true,
                    ),
                    fold=self._value("fold", fold, _fold),
                    qrs_ms=self._value("qrs_ms", qrs_ms, float),
                ),
            )

    def _columns(self, batch: pa.RecordBatch) -> list[Statements | None]:
        """Return for each row the statements whose own columns say that they hold; None without such columns."""
        if not self._mapping.label_columns:
            return [None] * batch.num_rows
        true: list[dict[str, float | None]] = [{} for _ in range(batch.num_rows)]
        for name in self._mapping.label_columns:
            for row, value in zip(true, values_of(batch.column(name), lists=False) or [], strict=False):
                if str(value).strip().lower() in _TRUE:
                    row[name] = None
        return list(true)

    def _value(self, what: str, value: Any, parse: Any) -> Any:
        if value is None:
            return None
        try:
            return parse(value)
        except (ValueError, KeyError, TypeError, OverflowError):
            self._unreadable[what] += 1
            return None

    def _time(self, value: str) -> datetime:
        return parse_time(value, self._mapping.acquired_at_format)

    def _sex(self, value: str) -> str:
        return self._sexes[(as_id(value) or "").lower()]

    def _parse_statements(self, value: str | tuple[str, ...]) -> Statements:
        if isinstance(value, tuple):
            return parse_codes(map(str, value))
        if len(value) > MAX_CELL_CHARACTERS:
            raise ValueError("too long")
        if self._mapping.labels_format == "list":
            return parse_codes(value.split(self._mapping.labels_separator))
        return parse_likelihoods(value)


_TRUE = frozenset(("1", "1.0", "true", "t", "yes", "y"))


def _path(path: str, member: str | None) -> str:
    return path.strip() if member is None else f"{path.strip()}#{member}"


def _joined(one: Statements | None, other: Statements | None) -> Statements | None:
    return one if other is None else {**(one or {}), **other}


def _name(value: str) -> str | None:
    if len(value) > MAX_NAME_CHARACTERS:
        raise ValueError("too long for a name")
    return as_id(value)


def _fold(value: str) -> int:
    number = int(as_id(value) or "")
    if not -32_768 <= number < 32_768:
        raise ValueError("not a fold")
    return number


def read_superclasses(stream: IO[bytes]) -> dict[str, str]:
    """Return code -> diagnostic_class of PTB-XL's ``scp_statements.csv``."""
    name = f"{STATEMENTS_TABLE} beside the metadata table"
    try:
        text = stream.read(_MAX_STATEMENTS_BYTES).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text))
        fields = list(rows.fieldnames or [""])
        read = list(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{name} cannot be read ({type(error).__name__}); restore PTB-XL's file.") from error
    code, superclass = fields[0], "diagnostic_class"
    if superclass not in fields:
        raise UserError(f"{name} has no column 'diagnostic_class'; restore PTB-XL's file.")
    return {row[code]: row[superclass] for row in read if row[superclass]}
