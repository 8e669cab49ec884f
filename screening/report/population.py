"""Counting a population: every catalogued record by what became of it, every patient once, exactly.

Demographics come from the catalog, which is newer than the rows. What is counted are the definitions in `tallies`; that they
add up is checked at the end, and a tally that does not is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from screening.archive.catalog import Catalog
from screening.contract import Reason
from screening.errors import UserError
from screening.report.distributions import design_effect, feature_by_run, histograms, importance
from screening.report.facts import (
    CHANGED,
    CONDUCTION,
    DATED,
    FUTURE,
    NOT_SCREENED,
    OUTSIDE,
    REJECTED,
    SCORED,
    SEXES,
    UNDATED,
    Frame,
    IndexRule,
    Joined,
    age_bands,
    told,
)
from screening.report.tallies import DIMENSIONS, UNKNOWN, CountTable, ScreenedBy, Tallies
from screening.run.current import Current
from screening.run.duck import literal, path_namer
from screening.run.winners import INDEX
from screening.signal.quality import FLAGS

OUTCOMES = {"scored": SCORED, "rejected": REJECTED, "not_screened": NOT_SCREENED, "changed": CHANGED}
_COLUMN = {name: name for name in DIMENSIONS} | {"age": "band", "year": "month // 12"}
_ONCE = {"year": "once_a_year", "month": "once_a_month"}


def tally(
    of: Joined,
    *,
    log_odds_edges: np.ndarray,
    feature_edges: Mapping[str, np.ndarray],
    seen: Mapping[str, Collection[str]],
) -> Tallies:
    """Count a population.

    Parameters
    ----------
    of
        Joined with these features.
    log_odds_edges
        Of the histograms of scores, float64 (bins + 1,).
    feature_edges
        Feature (a name of `facts.FEATURES`) -> edges of its histogram.
    seen
        bundle_sha256 -> record_sha256 of the records that made it.

    Raises
    ------
    UserError
        Results cannot be read, or are not all that the index names.
    """
    db, current, catalog, frame, bundles, places = of.db, of.current, of.catalog, of.frame, of.bundles, of.places
    index_rule = frame.index_rule
    with told(current):
        models, number = _models(db, current, bundles)
        names = _category_names(db, frame, places)
        patients = {
            "all": _patients(db, "all", names, number),
            **{dimension: _patients(db, dimension, names, number) for dimension in DIMENSIONS},
            "age and sex": _age_and_sex(db, names, number),
        }
        tallies = Tallies(
            models=models,
            flow=_flow(db, current, catalog, seen, bundles, index_rule),
            records={key: _records(db, key, names) for key in ("all", *DIMENSIONS)},
            reasons=_reasons(db, names),
            patients=patients,
            quality_flags=_quality_flags(db),
            scores=tuple(histograms(db, "picked WHERE once", "log_odds", log_odds_edges, "model", number)),
            features={name: feature_by_run(db, current, name, edges) for name, edges in feature_edges.items()},
            importance=importance(db, names),
            **_period(db),
            clustering=design_effect(db) if index_rule == "all" else {},
        )
    check_identities(tallies, index_rule)
    return tallies


def check_identities(tallies: Tallies, index_rule: IndexRule) -> None:
    """Raise ArithmeticError where the tallies do not add up as they must."""
    flow = tallies.flow

    def same(what: str, whole: int, parts: int) -> None:
        if whole != parts:
            raise ArithmeticError(f"the tallies do not add up: {what} is {whole} and its parts are {parts}")

    same("catalogued", flow["catalogued"], sum(flow[key] for key in ("outside_period", *OUTCOMES)))
    same("scored", flow["scored"], flow["duplicates"] + flow["repeats"] + flow["index"])
    same("patients", flow["patients_catalogued"], flow["patients_without_score"] + flow["patients_with_score"])
    if index_rule != "all":
        same("patients with a score", flow["patients_with_score"], flow["index"])
    for key, table in tallies.records.items():
        for column, total in zip(table.columns, table.counts.sum(axis=0), strict=True):
            same(f"records by {key}, {column}", flow[column], int(total))
        by_row = table.counts[:, table.columns.index("rejected")]
        for row, rejected, found in zip(table.rows, by_row, tallies.reasons[key].counts.sum(axis=1), strict=True):
            same(f"reasons by {key}, {row}", int(rejected), int(found))
    for key, table in tallies.patients.items():
        if key not in _ONCE:
            same(f"patients by {key}", flow["index"], int(table.counts.sum()))
    same("index ECGs in histograms", flow["index"], sum(int(h.counts.sum()) + h.missing for h in tallies.scores))
    for feature, by_run in tallies.features.items():
        same(f"histograms of {feature}", flow["scored"], sum(int(h.counts.sum()) + h.missing for h in by_run.values()))
    flags = tallies.quality_flags
    for row, total in zip(flags.rows, flags.counts.sum(axis=1), strict=True):
        same(f"records by quality flag {row}", flow["scored"], int(total))


# --- Flow ------------------------------------------------------------------------------------------------------------


def _one(db: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    return tuple(db.execute(sql).fetchall()[0])


def _flow(
    db: duckdb.DuckDBPyConnection,
    current: Current,
    catalog: Catalog,
    seen: Mapping[str, Collection[str]],
    bundles: Sequence[str],
    index_rule: IndexRule,
) -> dict[str, int]:
    parts = {"outside_period": OUTSIDE, **OUTCOMES}
    counted = ", ".join(f"count(*) FILTER (outcome = {outcome})" for outcome in parts.values())
    inside = f"outcome <> {OUTSIDE}"
    catalogued, undated, future, unkeyed, patients, matched, *by_outcome = _one(
        db,
        f"""SELECT count(*), count(*) FILTER (dating = {UNDATED}), count(*) FILTER (dating = {FUTURE}),
                   count(*) FILTER (NOT keyed AND {inside}), count(DISTINCT p) FILTER ({inside}), count(ord), {counted}
            FROM frame""",
    )
    forgotten = catalog.records - catalogued
    if forgotten < 0 or (forgotten and not current.forgotten_records and not current.forgotten_patients):
        raise UserError(
            f"the catalog {catalog.path} has other records than the {catalog.records} that it says; make it again with "
            "`screening catalog`"
        )
    flow = {"catalogued": catalogued, **dict(zip(parts, by_outcome, strict=True))}
    if _one(db, "SELECT count(*) FROM facts")[0] != flow["scored"] + flow["rejected"]:
        raise UserError(
            f"results in {current.runs.url} have not every row that the index names; remove {current.folder.url} "
            "except its newest version-*.json, and start again"
        )
    index, with_score = _one(
        db, f"SELECT count(*), {'count(DISTINCT p)' if index_rule == 'all' else 'count(*)'} FROM picked WHERE once"
    )
    (duplicates,) = _one(db, "SELECT count(*) FROM repeated")
    return flow | {
        "duplicates": duplicates,
        "repeats": flow["scored"] - duplicates - index,
        "index": index,
        "patients_catalogued": patients,
        "patients_with_score": with_score,
        "patients_without_score": patients - with_score,
        "undated": undated,
        "future_dated": future,
        "without_patient_key": unkeyed,
        "forgotten": forgotten,
        "gone": current.counts["records"] - matched,
        "seen_in_training": _seen(db, current, seen, bundles),
    }


def _seen(
    db: duckdb.DuckDBPyConnection, current: Current, seen: Mapping[str, Collection[str]], bundles: Sequence[str]
) -> int:
    content = [int(sha256[:16], 16) for bundle in bundles for sha256 in seen.get(bundle, ())]
    model = [number for number, bundle in enumerate(bundles) for _ in seen.get(bundle, ())]
    known = pa.table({"content": pa.array(content, pa.uint64()), "model": pa.array(model, pa.uint8())})
    db.register("seen", known)
    path = literal(path_namer(db, current.folder)(current.files[INDEX]["path"]))
    found = db.execute(
        """SELECT count(*) FROM picked JOIN (
               SELECT DISTINCT file_row_number AS ord, seen.model
               FROM read_parquet($index, file_row_number = true) i JOIN seen USING (content)
           ) s ON s.ord = picked.ord AND s.model = picked.model WHERE once""",
        {"index": path},
    ).fetchall()
    return int(found[0][0])


def _models(
    db: duckdb.DuckDBPyConnection, current: Current, bundles: Sequence[str]
) -> tuple[tuple[ScreenedBy, ...], dict[int, int]]:
    """Return the bundles that scored rows of the frame, and the number in ``facts`` -> place among them."""
    used = {run for (run,) in db.execute(f"SELECT DISTINCT run FROM facts WHERE outcome = {SCORED}").fetchall()}
    models: list[ScreenedBy] = []
    number: dict[int, int] = {}
    for at, sha256 in enumerate(bundles):
        runs = [
            run for place, run in enumerate(current.indexed) if place in used and run.model["bundle_sha256"] == sha256
        ]
        if runs:
            number[at] = len(models)
            model = runs[-1].model
            models.append(ScreenedBy(model["name"], model["version"], sha256, tuple(run.run_id for run in runs)))
    return tuple(models), number


def _period(db: duckdb.DuckDBPyConnection) -> dict[str, str | None]:
    first, last = _one(db, f"SELECT min(month), max(month) FROM frame WHERE outcome <> {OUTSIDE} AND dating = {DATED}")
    return {
        "first_acquired": None if first is None else _month(first),
        "last_acquired": None if last is None else _month(last),
    }


# --- Tables by category ----------------------------------------------------------------------------------------------

_Names = Mapping[str, Mapping[int, str]]
"""Dimension -> code -> name, in the order of the rows."""


def _month(code: int) -> str:
    return f"{code // 12:04d}-{code % 12 + 1:02d}" if code else UNKNOWN


def _category_names(db: duckdb.DuckDBPyConnection, frame: Frame, places: Mapping[str, Sequence[str]]) -> _Names:
    """Return the categories: all bands and both sexes; places, dates and "(unknown)" where records have them."""
    named = {
        "sex": SEXES,
        "age": age_bands(frame.age_edges),
        "site": places["site"],
        "device": places["device"],
        "conduction": CONDUCTION,
    }
    found = {
        dimension: {
            code
            for (code,) in db.execute(
                f"SELECT DISTINCT {_COLUMN[dimension]} FROM frame WHERE outcome <> {OUTSIDE}"
            ).fetchall()
        }
        for dimension in DIMENSIONS
    }
    names: dict[str, dict[int, str]] = {}
    for dimension, all_names in named.items():
        fixed = len(all_names) - 1 if dimension in ("sex", "age") else 0
        names[dimension] = {
            code: name for code, name in enumerate(all_names) if code < fixed or code in found[dimension]
        }
    dated = sorted(found["month"], key=lambda month: (month == 0, month))
    names["month"] = {month: _month(month) for month in dated}
    names["year"] = {month // 12: f"{month // 12:04d}" if month else UNKNOWN for month in dated}
    return names


def _cross(
    db: duckdb.DuckDBPyConnection, dimension: str, column: str, source: str, rows: Mapping[int, Any], columns: list[int]
) -> np.ndarray:
    """Count ``source`` by the dimension's categories and an integer column, int64 (rows, columns)."""
    category = "0" if dimension == "all" else _COLUMN[dimension]
    row_at = {code: at for at, code in enumerate(rows)}
    column_at = {code: at for at, code in enumerate(columns)}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for code, value, n in db.execute(
        f"SELECT {category} AS a, {column} AS b, count(*) {source} GROUP BY a, b"
    ).fetchall():
        counts[row_at[code], column_at[value]] += n
    return counts


def _rows(dimension: str, names: _Names) -> tuple[Mapping[int, str], tuple[str, ...] | None]:
    """Return the rows of a dimension's tables and, of months, their years."""
    rows = {0: "all"} if dimension == "all" else names[dimension]
    parents = tuple(f"{code // 12:04d}" if code else UNKNOWN for code in rows) if dimension == "month" else None
    return rows, parents


def _table(what: str, dimension: str, names: _Names, columns: Sequence[str], counts: np.ndarray) -> CountTable:
    rows, parents = _rows(dimension, names)
    key = what if dimension == "all" else f"{what} by {dimension}"
    return CountTable(key, tuple(rows.values()), tuple(columns), counts, parents=parents)


def _records(db: duckdb.DuckDBPyConnection, dimension: str, names: _Names) -> CountTable:
    rows, _ = _rows(dimension, names)
    source = f"FROM frame WHERE outcome <> {OUTSIDE}"
    counts = _cross(db, dimension, "outcome", source, rows, list(OUTCOMES.values()))
    return _table("records", dimension, names, tuple(OUTCOMES), counts)


def _reasons(db: duckdb.DuckDBPyConnection, names: _Names) -> dict[str, CountTable]:
    source = f"FROM facts WHERE outcome = {REJECTED}"
    reason = "coalesce(reason, 0)"  # 0: none that this program knows
    found = [code for (code,) in db.execute(f"SELECT DISTINCT {reason} AS r {source} ORDER BY r").fetchall()]
    known = dict(enumerate(Reason, start=1))
    columns = [str(known.get(code, UNKNOWN)) for code in found]
    return {
        dimension: _table(
            "reasons",
            dimension,
            names,
            columns,
            _cross(db, dimension, reason, source, _rows(dimension, names)[0], found),
        )
        for dimension in ("all", *DIMENSIONS)
    }


def _by_model(number: Mapping[int, int]) -> tuple[list[str], list[int]]:
    """Return the columns of tables of patients, and their codes: 2 * model, and one more where not flagged."""
    columns = [f"{flag} {at}" for at in number.values() for flag in ("flagged", "unflagged")]
    return columns, [2 * model + unflagged for model in number for unflagged in (0, 1)]


_BY_MODEL = "2 * model::INTEGER + (NOT flagged)::INTEGER"


def _patients(db: duckdb.DuckDBPyConnection, dimension: str, names: _Names, number: Mapping[int, int]) -> CountTable:
    columns, codes = _by_model(number)
    source = f"FROM picked WHERE {_ONCE.get(dimension, 'once')}"
    counts = _cross(db, dimension, _BY_MODEL, source, _rows(dimension, names)[0], codes)
    return _table("patients", dimension, names, columns, counts)


def _age_and_sex(db: duckdb.DuckDBPyConnection, names: _Names, number: Mapping[int, int]) -> CountTable:
    columns, codes = _by_model(number)
    rows = {
        (band, sex): f"{band_name}|{sex_name}"
        for band, band_name in names["age"].items()
        for sex, sex_name in names["sex"].items()
    }
    row_at, column_at = {code: at for at, code in enumerate(rows)}, {code: at for at, code in enumerate(codes)}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    sql = f"SELECT band, sex, {_BY_MODEL} AS c, count(*) FROM picked WHERE once GROUP BY ALL"
    for band, sex, code, n in db.execute(sql).fetchall():
        counts[row_at[band, sex], column_at[code]] += n
    return CountTable("patients by age and sex", tuple(rows.values()), tuple(columns), counts)


def _quality_flags(db: duckdb.DuckDBPyConnection) -> CountTable:
    found = db.execute(
        f"SELECT coalesce(quality_flags, ''), count(*) FROM facts WHERE outcome = {SCORED} GROUP BY 1"
    ).fetchall()
    total = sum(n for _, n in found)
    having: dict[str, int] = dict.fromkeys(FLAGS, 0)
    for flags, n in found:
        for flag in filter(None, set(flags.split(","))):
            having[flag] = having.get(flag, 0) + n
    counts = np.array([[n, total - n] for n in having.values()], dtype=np.int64).reshape(-1, 2)
    return CountTable("records by quality flag", tuple(having), ("with", "without"), counts, partition=False)
