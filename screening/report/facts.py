"""Catalog, index and results joined in DuckDB: one row a catalogued record, one a row that counts, one a candidate ECG.

Records and patients are joined by 64-bit hashes: at 10^7 of either, two share one with a probability of 3e-6. Tables:

``frame``   every catalogued record that is not forgotten, with its outcome and the codes of its categories
``facts``   the rows of results that count and are in the frame
``picked``  scored ECGs without duplicates, and whether each stands for its patient: at all, in its year, in its month
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

import duckdb
import pyarrow as pa

from screening.archive.catalog import Catalog
from screening.archive.store import locate
from screening.contract import QUALITY_COLUMNS, Reason, result_schema
from screening.errors import UserError
from screening.report.tallies import OTHER, UNKNOWN
from screening.run.current import Current
from screening.run.duck import MEMORY_MB, database, literal, name_of, path_namer
from screening.run.winners import DUPLICATES, INDEX, VERSION

IndexRule = Literal["first", "latest", "all"]

OUTSIDE, NOT_SCREENED, CHANGED, REJECTED, SCORED = range(5)
"""Values of ``outcome``."""
DATED, UNDATED, FUTURE = range(3)
"""Values of ``dating``."""
SEXES = ("female", "male", UNKNOWN)
WIDE_MS = 120
"""QRS duration from which conduction is broken (AHA/ACCF/HRS 2009, doi.org/10.1161/CIRCULATIONAHA.108.191095)."""
CONDUCTION = ("none of these", "paced", "LBBB", "pre-excitation", f"other QRS of {WIDE_MS} ms or more", UNKNOWN)
OLDEST = 130
"""Years; above, the age is not known."""
LONGEST_NAME = 80
_CLIP = 1e-7
"""Least distance of a probability from 0 and 1: about the spacing of float32 below 1."""
_A_RUN = 2**40
"""Positions that are set apart for each run; of a shard, as many as it was planned with: patients may have left it since."""
_MANY_NAMES = 500
"""Most frequent names that are looked at; all others are among the small ones."""

_AS_WRITTEN = "SET disabled_optimizers = 'join_order,build_side_probe_side'"
"""The right side of a join is held in memory: so ours are narrow, whatever DuckDB guesses of views and files."""

NUMERIC_QUALITY = tuple(name for name, kind, _ in QUALITY_COLUMNS if kind.startswith("float"))
FEATURES = (*NUMERIC_QUALITY, "age", "log_odds")


@dataclass(frozen=True)
class Frame:
    """Of whom and how is counted."""

    index_rule: IndexRule
    since: date | None
    until: date | None
    today: date
    age_edges: Sequence[int]
    most_places: int
    smallest_place: int


@dataclass(frozen=True)
class Categories:
    """Names of the categories, in the order of their codes."""

    sex: tuple[str, ...]
    age: tuple[str, ...]
    site: tuple[str, ...]
    device: tuple[str, ...]
    months: tuple[int, ...] = field(default=())  # year * 12 + month - 1; 0 is unknown


@dataclass(frozen=True)
class Joined:
    """A population in an open database: the tables above, and what their codes mean."""

    db: duckdb.DuckDBPyConnection
    current: Current
    catalog: Catalog
    frame: Frame
    bundles: tuple[str, ...]  # bundle_sha256 by the number in ``model``
    places: Mapping[str, tuple[str, ...]]  # site, device -> names by code


@contextmanager
def joined(
    current: Current,
    catalog: Catalog,
    frame: Frame,
    *,
    features: Collection[str] = (),
    memory_mb: int = MEMORY_MB,
) -> Iterator[Joined]:
    """Join catalog, index and results, and hold the database open for whoever counts or lists.

    Parameters
    ----------
    features
        Those of `FEATURES` that ``facts`` is to have.
    memory_mb
        What DuckDB may hold; the rest is spilled to TMPDIR.

    Raises
    ------
    UserError
        Catalog, index or results cannot be read, or do not fit each other.
    """
    if frame.since and frame.until and frame.since > frame.until:
        raise UserError(f"the period ends ({frame.until}) before it starts ({frame.since}); swap --since and --until")
    bundles = tuple(dict.fromkeys(run.model["bundle_sha256"] for run in current.indexed))
    with database(memory_mb=memory_mb) as db:
        with told(current):
            db.execute("SET preserve_insertion_order = false")  # rows are known by position, not by order
            open_records(db, current, catalog, frame)
            places = {kind: name_places(db, kind, frame) for kind in ("site", "device")}
            make_frame(db, current, catalog, {sha256: number for number, sha256 in enumerate(bundles)}, places)
            load_results(db, current, features)
            pick(db, frame.index_rule)
        yield Joined(db, current, catalog, frame, bundles, places)


def age_bands(edges: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the bands that start at ``edges``, the last open, and that of the unknown.

    >>> age_bands((0, 20, 90))
    ('0-19', '20-89', '90 and over', '(unknown)')
    """
    bands = [f"{low}-{high - 1}" for low, high in zip(edges, edges[1:], strict=False)]
    return (*bands, f"{edges[-1]} and over", UNKNOWN)


def clean_name(name: str) -> str:
    """Return a site or device as it can be shown: without control characters, at most 80 long; may be empty."""
    unseen = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown = "".join(" " if unicodedata.category(c) in unseen else c for c in name).strip()
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


# --- Catalog ---------------------------------------------------------------------------------------------------------


def open_records(db: duckdb.DuckDBPyConnection, current: Current, catalog: Catalog, frame: Frame) -> None:
    """Make view ``records`` of the catalog, without what is forgotten; it is read where it lies."""
    db.execute("SET VARIABLE catalog = $path", {"path": literal(catalog_path(db, catalog))})
    db.register("forgotten_record", pa.table({"id": pa.array(current.forgotten_records, pa.string())}))
    db.register("forgotten_patient", pa.table({"id": pa.array(current.forgotten_patients, pa.string())}))
    forgotten = bool(current.forgotten_records or current.forgotten_patients)
    left_out = "record_id IN (FROM forgotten_record) OR coalesce(patient_key IN (FROM forgotten_patient), false)"
    unknown_age = f"age IS NULL OR isnan(age) OR age < {int(frame.age_edges[0])} OR age > {OLDEST}"
    band = " + ".join(f"(age >= {int(edge)})::UTINYINT" for edge in frame.age_edges[1:]) or "0"
    db.execute(f"""
        CREATE TEMP VIEW records AS
        SELECT hash(record_id) AS h, {VERSION} AS v,
               CASE WHEN patient_key IS NULL THEN hash(record_id) | (1::UBIGINT << 63)
                    ELSE hash(patient_key) & ((1::UBIGINT << 63) - 1) END AS p,
               patient_key IS NOT NULL AS keyed, acquired_at AS t,
               (CASE WHEN acquired_at IS NULL OR acquired_at < TIMESTAMP '0001-01-01' THEN {UNDATED}
                     WHEN acquired_at >= {_day(frame.today, 1)} THEN {FUTURE} ELSE {DATED} END)::UTINYINT AS dating,
               {_inside(frame)} AS inside,
               CASE WHEN {unknown_age} THEN NULL ELSE age END AS age,
               (CASE WHEN {unknown_age} THEN {len(frame.age_edges)} ELSE {band} END)::UTINYINT AS band,
               (CASE sex WHEN 'female' THEN 0 WHEN 'male' THEN 1 ELSE 2 END)::UTINYINT AS sex,
               site, device,
               (CASE WHEN paced THEN 1 WHEN lbbb THEN 2 WHEN wpw THEN 3 WHEN qrs_ms >= {WIDE_MS} THEN 4
                     WHEN coalesce(paced, lbbb, wpw, qrs_ms >= {WIDE_MS}) IS NULL THEN 5 ELSE 0 END)::UTINYINT AS conduction
        FROM read_parquet(getvariable('catalog')) {f"WHERE NOT ({left_out})" if forgotten else ""}""")


def catalog_path(db: duckdb.DuckDBPyConnection, catalog: Catalog) -> str:
    """Return how DuckDB names the catalog's file of rows; UserError if another scan has replaced it."""
    with locate(catalog.fs, catalog.folder, "catalog", catalog.catalog_id) as stream:
        return name_of(db, catalog.fs, getattr(stream, "path", ""))


def _day(day: date, later: int = 0) -> str:
    return f"TIMESTAMP '{day + timedelta(days=later):%Y-%m-%d}'"


def _inside(frame: Frame) -> str:
    """Return SQL for "in the period"; where one is asked for, records without a usable date are not."""
    bounds = [
        *([f"acquired_at >= {_day(frame.since)}"] if frame.since else []),
        *([f"acquired_at < {_day(frame.until, 1)}"] if frame.until else []),
    ]
    return f"dating = {DATED} AND {' AND '.join(bounds)}" if bounds else "true"


def name_places(db: duckdb.DuckDBPyConnection, kind: str, frame: Frame) -> tuple[str, ...]:
    """Make table ``<kind>s`` (raw name -> code) of the places that stand for themselves, and return all their names.

    These are the largest, with enough records in the frame; the others are pooled as `OTHER`.
    """
    common = db.execute(f"""
        SELECT {kind}, count(*) AS n FROM records WHERE inside AND {kind} IS NOT NULL GROUP BY 1
        ORDER BY n DESC, 1 LIMIT {_MANY_NAMES}""").fetchall()
    sizes: dict[str, int] = {}
    for raw, n in common:
        sizes[clean_name(raw)] = sizes.get(clean_name(raw), 0) + n
    own = [
        name
        for name, n in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        if name not in ("", UNKNOWN, OTHER) and n >= frame.smallest_place
    ][: frame.most_places]
    names = (*own, OTHER, UNKNOWN)
    code = {name: at for at, name in enumerate(names)} | {"": len(own) + 1}
    rows = [(raw, code.get(clean_name(raw), len(own))) for raw, _ in common]
    given = pa.table(
        {"raw": pa.array([r for r, _ in rows], pa.string()), "code": pa.array([c for _, c in rows], pa.uint8())}
    )
    db.register("given", given)
    db.execute(f"CREATE TABLE {kind}s AS FROM given")
    return names


# --- Frame and facts -------------------------------------------------------------------------------------------------


def make_frame(
    db: duckdb.DuckDBPyConnection,
    current: Current,
    catalog: Catalog,
    models: Mapping[str, int],
    names: Mapping[str, Sequence[str]],
) -> None:
    """Make ``frame`` from ``records`` and the index.

    Parameters
    ----------
    catalog
        Behind ``records``.
    models
        bundle_sha256 -> number of the model.
    names
        Of sites and devices, from `name_places`.
    """
    runs = [
        (at, at * _A_RUN, run.shard_records, models[run.model["bundle_sha256"]])
        for at, run in enumerate(current.indexed)
    ]
    db.execute("CREATE TABLE runs (run INTEGER, base BIGINT, shard_records INTEGER, model UTINYINT)")
    if runs:
        db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?)", runs)
    spelt = path_namer(db, current.folder)
    files = {name: literal(spelt(current.files[name]["path"])) for name in (INDEX, DUPLICATES)}
    db.execute(
        """CREATE TABLE same AS
           SELECT DISTINCT hash(unnest([record_id, same_as])) AS h, hash(same_as) AS g FROM read_parquet($duplicates)""",
        {"duplicates": files[DUPLICATES]},
    )
    places = ", ".join(
        f"""coalesce({kind}s.code, CASE WHEN r.{kind} IS NULL OR trim(r.{kind}) = '' THEN {len(names[kind]) - 1}
                                        ELSE {len(names[kind]) - 2} END)::UTINYINT AS {kind}"""
        for kind in ("site", "device")
    )
    db.execute(_AS_WRITTEN)
    db.execute(
        f"""CREATE TABLE frame AS
            SELECT CASE WHEN NOT r.inside THEN {OUTSIDE} WHEN i.h IS NULL THEN {NOT_SCREENED}
                        WHEN i.v <> r.v THEN {CHANGED} WHEN i.scored THEN {SCORED} ELSE {REJECTED} END::UTINYINT AS outcome,
                   r.p, r.keyed, r.t, r.dating,
                   CASE WHEN r.dating = {DATED} THEN (year(r.t) * 12 + month(r.t) - 1)::INTEGER ELSE 0 END AS month,
                   r.age, r.band, r.sex, r.conduction, {places}, i.ord, i.pos, i.run, i.model, same.g
            FROM records r
            LEFT JOIN (
                SELECT hash(record_id) AS h, version AS v, file_row_number AS ord, scored, run,
                       runs.base + shard::BIGINT * runs.shard_records + "row" AS pos, runs.model
                FROM read_parquet($index, file_row_number = true) JOIN runs USING (run)
            ) i ON i.h = r.h
            LEFT JOIN same ON same.h = r.h
            LEFT JOIN sites ON sites.raw = r.site
            LEFT JOIN devices ON devices.raw = r.device""",
        {"index": files[INDEX]},
    )
    db.execute("RESET disabled_optimizers")
    catalog_path(db, catalog)  # still the same


def load_results(db: duckdb.DuckDBPyConnection, current: Current, features: Collection[str]) -> None:
    """Make ``facts``: of every scored or rejected record of the frame, the row that counts, with these features."""
    list_files(db, current)
    quality = "".join(f", {name}" for name in NUMERIC_QUALITY if name in features)
    reasons = list(Reason)
    db.execute(_AS_WRITTEN)
    db.execute(
        f"""CREATE TABLE facts AS
            SELECT f.outcome, f.p, f.t, f.dating, f.month, f.age, f.band, f.sex, f.conduction, f.site, f.device, f.ord, f.pos,
                   f.run, f.model, f.g, r.flagged, list_position($reasons, r.reason)::UTINYINT AS reason, r.quality_flags,
                   ln(r.p1 / (1 - r.p1))::FLOAT AS log_odds{quality}
            FROM (
                SELECT pos, flagged, reason, quality_flags,
                       least(greatest(probability::DOUBLE, {_CLIP}), {1 - _CLIP}) AS p1{quality}
                FROM results
            ) r JOIN frame f ON f.pos = r.pos
            WHERE f.outcome IN ({REJECTED}, {SCORED})""",
        {"reasons": reasons},
    )
    db.execute("RESET disabled_optimizers")


def list_files(db: duckdb.DuckDBPyConnection, current: Current) -> None:
    """Make view ``results`` of all rows of the files that hold some of the frame, with their ``pos`` over all runs.

    Raises
    ------
    UserError
        A file has another number of rows than its manifest says.
    """
    used = {run for (run,) in db.execute("SELECT DISTINCT run FROM frame WHERE run IS NOT NULL").fetchall()}
    paths: list[str] = []
    starts: list[int] = []
    rows: list[int] = []
    for at, run in enumerate(current.indexed):
        if at in used:
            spelt = path_namer(db, current.runs)
            for shard, file in enumerate(current.manifest(run.run_id)["files"]):
                paths.append(spelt(f"{run.run_id}/{file['name']}"))
                starts.append(at * _A_RUN + shard * run.shard_records)
                rows.append(file["rows"])
    index = pa.array(range(len(paths)), pa.uint64())
    files = pa.table({"file_index": index, "base": pa.array(starts, pa.int64()), "rows": rows, "path": paths})
    db.register("listed", files)
    db.execute("CREATE TABLE files AS FROM listed")
    db.execute("SET VARIABLE paths = $paths", {"paths": [literal(path) for path in paths]})
    if not paths:
        db.register("results", pa.schema([("pos", pa.int64()), *result_schema()]).empty_table())
        return
    db.execute("""
        CREATE VIEW results AS SELECT files.base + file_row_number AS pos, r.*
        FROM read_parquet(getvariable('paths'), file_row_number = true) r JOIN files USING (file_index)""")
    wrong = db.execute("""
        SELECT path FROM files LEFT JOIN parquet_file_metadata(getvariable('paths')) m ON m.file_name = files.path
        WHERE m.num_rows IS DISTINCT FROM files.rows ORDER BY path LIMIT 1""").fetchall()
    if wrong:
        raise UserError(
            f"{wrong[0][0]} has not the rows that its manifest says; `screening verify` on its run names what is damaged"
        )


# --- Index ECGs ------------------------------------------------------------------------------------------------------


def pick(db: duckdb.DuckDBPyConnection, index_rule: IndexRule) -> None:
    """Make ``picked``: the scored ECGs, of duplicates one, and which of a patient's counts: at all, by year, by month.

    ECGs without a usable date come after the dated ones under either rule; ties go to the smallest record_id.
    """
    db.execute(f"""
        CREATE TABLE repeated AS
        SELECT ord FROM (SELECT ord, row_number() OVER (PARTITION BY g ORDER BY ord) AS place FROM facts
                         WHERE g IS NOT NULL AND outcome = {SCORED}) WHERE place > 1""")
    columns = "p, month, band, sex, conduction, site, device, model, flagged, log_odds, ord, pos"
    source = f"FROM facts WHERE outcome = {SCORED} AND ord NOT IN (FROM repeated)"
    if index_rule == "all":
        db.execute(
            f"CREATE TABLE picked AS SELECT {columns}, true AS once, true AS once_a_year, true AS once_a_month {source}"
        )
        return
    # The last of a patient in this order is the index ECG, the last of each month the month's: months are contiguous.
    order = f"dating = {DATED}, epoch_us(t) {'ASC' if index_rule == 'latest' else 'DESC'} NULLS FIRST, ord DESC"
    db.execute(f"""
        CREATE TABLE picked AS
        SELECT {columns}, following IS NULL AS once,
               following IS NULL OR following // 12 <> month // 12 AS once_a_year,
               following IS NULL OR following <> month AS once_a_month
        FROM (SELECT {columns}, lead(month) OVER (PARTITION BY p ORDER BY {order}) AS following {source})""")


@contextmanager
def told(current: Current) -> Iterator[None]:
    """Say in one sentence that a file cannot be read."""
    try:
        yield
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.BinderException) as error:
        raise UserError(
            f"results or index in {current.runs.url} cannot be read ({str(error).splitlines()[0]}); "
            "`screening verify` on a run names what is damaged"
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            "there is too little memory or space under TMPDIR for this report; give it more, or name a larger TMPDIR"
        ) from error
