"""What an archive's table says about its records: PTB-XL, MIMIC-IV-ECG, or any CSV or Parquet with a column mapping.

Everything is read as text first: identifiers are strings ("00123" is not 123), and a value that cannot be understood
becomes null and is counted, never guessed.
"""

from __future__ import annotations

import csv
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
from fsspec.spec import AbstractFileSystem
from pydantic import BaseModel, ConfigDict, Field

from screening.archive.labels import Statements, read_settings
from screening.archive.parquet_table import open_parquet, values_of
from screening.errors import UserError, printable
from screening.storage import forbid_pickled_columns

MAX_CELL_CHARACTERS = 8_192
MAX_CODES = 256
MAX_NAME_CHARACTERS = 256
TABLE_BLOCK_BYTES = 2**20
TABLE_ROWS = 4_096
NULLS = ["", "NaN", "nan", "NA", "N/A", "n/a", "null", "NULL", "None"]
_NULLS = frozenset(NULLS)
MAX_AGE = 90.0  # ages over 89 identify people (45 CFR 164.514(b)(2)(i)(C)); PTB-XL writes 300 for them


@dataclass(slots=True)
class Facts:
    """What an archive states about one record; None where it is silent."""

    patient_id: str | None = None
    acquired_at: datetime | None = None
    age: float | None = None
    sex: str | None = None
    site: str | None = None
    device: str | None = None
    statements: Statements | None = None  # codes, and the machine's own sentences
    in_words: bool = False  # the statements are sentences: one of a single word is no code, and may be a name
    fold: int | None = None
    rate_hz: float | None = None  # of the rhythm strip
    duration_s: float | None = None
    qrs_ms: float | None = None  # what the machine measured
    paced: bool | None = None  # what the machine noticed, where it looks for it

    def bounded(self, unreadable: Counter[str]) -> Facts:
        """Return the same without texts that are too long to be what they are said to be, which are counted."""
        for what in ("patient_id", "site", "device"):
            if len(getattr(self, what) or "") > MAX_NAME_CHARACTERS:
                setattr(self, what, None)
                unreadable[what] += 1
        if self.statements and (
            len(self.statements) > MAX_CODES or any(len(text) > MAX_CELL_CHARACTERS for text in self.statements)
        ):
            self.statements = None
            unreadable["labels"] += 1
        return self


# --- Column mappings -------------------------------------------------------------------------------------------------

SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}


class ColumnMapping(BaseModel):
    """Which column of a metadata table holds what; columns left out are taken as unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str  # of the record, relative to the archive's root, with or without suffix
    member: str | None = None  # which of the records of an HDF5 file
    patient_id: str | None = None
    acquired_at: str | None = None
    acquired_at_format: str | None = None  # as for strptime; ISO 8601 if left out
    age: str | None = None
    sex: str | None = None
    sex_values: dict[str, Literal["female", "male"]] = Field(default_factory=dict)  # beyond f, m, female, male
    site: str | None = None
    device: str | None = None
    qrs_ms: str | None = None  # what the machine measured
    labels: str | None = None
    labels_format: Literal["list", "likelihoods"] = "list"  # codes between separators, or {'CODE': percent}
    labels_separator: str = ","
    label_columns: list[str] = Field(
        default_factory=list, max_length=MAX_CODES
    )  # true where the statement of that name holds
    fold: str | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns that are read, each once."""
        named = (
            self.path,
            self.member,
            self.patient_id,
            self.acquired_at,
            self.age,
            self.sex,
            self.site,
            self.device,
            self.qrs_ms,
            self.labels,
            self.fold,
            *self.label_columns,
        )
        return list(dict.fromkeys(name for name in named if name is not None))


PTBXL = ColumnMapping(
    path="filename_hr",
    patient_id="patient_id",
    acquired_at="recording_date",
    age="age",
    sex="sex",
    sex_values={"0": "male", "1": "female"},  # Wagner et al. 2020, doi.org/10.1038/s41597-020-0495-6, table 3
    site="site",
    device="device",
    labels="scp_codes",
    labels_format="likelihoods",
    fold="strat_fold",
)
MIMIC_IV_ECG = ColumnMapping(path="path", patient_id="subject_id", acquired_at="ecg_time")

CODE_15 = ColumnMapping(
    path="trace_file",
    member="exam_id",
    patient_id="patient_id",
    age="age",
    sex="is_male",
    sex_values={"true": "male", "false": "female", "1": "male", "0": "female"},
    label_columns=["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"],
)
"""Ribeiro et al. 2021, doi.org/10.5281/zenodo.4916206: ``exams.csv``."""

CONVERTED = ColumnMapping(
    path="path",
    patient_id="patient_key",
    age="age",
    sex="sex",
    device="device",
    qrs_ms="qrs_ms",
    label_columns=["PACE", "LBBB", "WPW"],
)
"""``converted.csv`` of `screening convert`."""

KNOWN_TABLES = ("ptbxl_database.csv", "record_list.csv", "exams.csv", "converted.csv")
"""Names under which a known metadata table stands in an archive's root."""


STATEMENTS_TABLE = "scp_statements.csv"
"""PTB-XL's table of statement codes, which stands beside its metadata table."""
_MAX_STATEMENTS_BYTES = 2**22


def load_mapping(path: str) -> ColumnMapping:
    """Return the column mapping in a YAML or JSON file; UserError names the file and the key."""
    return ColumnMapping.model_validate(read_settings(Path(path).expanduser(), ColumnMapping, "column mapping"))


def known_mapping(columns: Sequence[str]) -> ColumnMapping | None:
    """Return the mapping of a table whose columns we know, else None."""
    present = set(columns)
    if {"ecg_id", "scp_codes"} <= present and present & {"filename_hr", "filename_lr"}:
        path = "filename_hr" if "filename_hr" in present else "filename_lr"
        return PTBXL.model_copy(update={"path": path})
    if {"subject_id", "study_id", "path"} <= present:
        return MIMIC_IV_ECG if "ecg_time" in present else MIMIC_IV_ECG.model_copy(update={"acquired_at": None})
    if {"exam_id", "trace_file", "is_male"} <= present:
        labels = [column for column in CODE_15.label_columns if column in present]
        patient = "patient_id" if "patient_id" in present else None
        return CODE_15.model_copy(update={"label_columns": labels, "patient_id": patient})
    if {*CONVERTED.columns, "max_difference_uV"} <= present:
        return CONVERTED
    return None


# --- Tables ----------------------------------------------------------------------------------------------------------


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
_WHOLE = re.compile(r"^(-?\d+)\.0+$")


def as_id(value: str | None) -> str | None:
    """Return an identifier without the '.0' that a numeric detour left on it; leading zeros stay.

    >>> as_id("15709.0"), as_id("00012"), as_id("  "), as_id("a.0")
    ('15709', '00012', None, 'a.0')
    """
    if value is None or not (value := value.strip()):
        return None
    whole = _WHOLE.match(value) if len(value) <= MAX_NAME_CHARACTERS else None
    return whole.group(1) if whole else value


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


_LIKELIHOOD = re.compile(
    r"""\s*(?:'([^'\\]*)'|"([^"\\]*)"|(\d+))\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(?:,|(?=\}))"""
)


def parse_likelihoods(text: str) -> dict[str, float | None]:
    """Return statement codes with likelihoods, as PTB-XL writes them: a Python dictionary. Nothing is evaluated.

    >>> parse_likelihoods("{'IMI': 80.0, 'SR': 0}")
    {'IMI': 80.0, 'SR': 0.0}

    Raises
    ------
    ValueError
        It is none, or one of too many codes.
    """
    text = text.strip()
    found: dict[str, float] = {}
    at = 1
    while len(found) < MAX_CODES and (match := _LIKELIHOOD.match(text, at)):
        found[match[1] or match[2] or match[3] or ""] = float(match[4])
        at = match.end()
    if not text.startswith("{") or text[at:].strip() != "}" or math.inf in map(abs, found.values()):
        raise ValueError("not statements with likelihoods")
    parse_codes(found)
    return dict(found)


def parse_codes(values: Iterable[str]) -> dict[str, float | None]:
    """Return statement codes without likelihood, each once; ValueError where they can be none."""
    codes: dict[str, float | None] = dict.fromkeys(code for value in values if (code := value.strip()))
    if len(codes) > MAX_CODES or any(len(code) > 64 for code in codes):
        raise ValueError("not codes")
    return codes


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


@lru_cache(maxsize=1024)
def parse_age(value: str) -> float:
    """Return an age in years, 90 for all above 89 (and for PTB-XL's 300); ValueError if it is none."""
    age = float(value)
    if math.isnan(age) or age < 0 or (age > 130 and age != 300):
        raise ValueError(f"{value} is no age")
    return MAX_AGE if age > 89 else age


def age_at(moment: datetime | None, born: datetime | None) -> float | None:
    """Return the age in whole years, as `parse_age` gives it; None where either is unknown, or they contradict each other."""
    try:
        return parse_age(str((moment - born).days // 365.25)) if moment and born else None
    except ValueError:
        return None


def parse_time(value: str, form: str | None = None) -> datetime:
    """Return a time as stated, without zone; one with a zone is turned into UTC."""
    time = datetime.strptime(value.strip(), form) if form else datetime.fromisoformat(value.strip())
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


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
