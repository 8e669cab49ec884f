"""Distributions over the population: histograms of scores and features, importances, clustering in patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from screening.contract import OPERATORS, importance_column
from screening.report.facts import SCORED
from screening.report.tallies import LEADING, NO_TERRITORY, Histogram, Importance
from screening.run.current import Current


def histograms(
    db: duckdb.DuckDBPyConnection, source: str, column: str, edges: np.ndarray, by: str, groups: Mapping[int, Any]
) -> list[Histogram]:
    """Return a histogram of ``column`` for each value of column ``by`` in ``groups``."""
    # DuckDB's bins end at their boundary, ours start there: so what is counted is -x.
    inner = [-float(edge) for edge in reversed(edges[1:-1])]
    usable = f"{column} IS NOT NULL AND NOT isnan({column})"
    binned = f"histogram(-{column}::DOUBLE, {inner}::DOUBLE[]) FILTER ({usable})" if inner else "NULL"
    rows = db.execute(
        f"SELECT {by}, count(*) FILTER ({usable}), count(*), {binned} FROM {source} GROUP BY {by}"
    ).fetchall()
    found = {group: (n, total, bins or {}) for group, n, total, bins in rows}
    made = []
    for group in groups:
        n, total, bins = found.get(group, (0, 0, {}))
        counts = np.array([bins.get(boundary, 0) for boundary in reversed(inner)], dtype=np.int64)
        made.append(Histogram(np.asarray(edges, np.float64), np.concatenate([[n - counts.sum()], counts]), total - n))
    return made


def feature_by_run(
    db: duckdb.DuckDBPyConnection, current: Current, name: str, edges: np.ndarray
) -> dict[str, Histogram]:
    """Return run id -> histogram of a feature of the scored records."""
    source = f"facts WHERE outcome = {SCORED}"
    runs = [run for (run,) in db.execute(f"SELECT DISTINCT run FROM {source} ORDER BY run").fetchall()]
    found = histograms(db, source, name, edges, "run", dict.fromkeys(runs))
    return {current.indexed[run].run_id: histogram for run, histogram in zip(runs, found, strict=True)}


def importance(db: duckdb.DuckDBPyConnection, names: Mapping[str, Mapping[int, str]]) -> tuple[Importance, ...]:
    """Return importances over flagged, explained index ECGs, of each operator of `LEADING`: of all, by sex and by site.

    ``names`` are the categories, dimension -> code -> name. Those without an explained ECG are left out.
    """
    columns = {operator: [importance_column(operator, part) for part in OPERATORS[operator]] for operator in LEADING}
    every = ", ".join(column for of in columns.values() for column in of)
    known = {operator: " AND ".join(f"{column} IS NOT NULL" for column in of) for operator, of in columns.items()}
    db.execute(f"""
        CREATE TABLE explained AS
        SELECT p.sex, p.site, r.* EXCLUDE (pos)
        FROM (SELECT pos, coalesce(leading_territory, '{NO_TERRITORY}') AS first_territory, {every} FROM results
              WHERE flagged AND ({" OR ".join(known.values())})) r
        JOIN picked p ON p.pos = r.pos WHERE p.once AND p.flagged""")
    return tuple(
        one
        for operator, of in columns.items()
        for dimension in ("all", "sex", "site")
        for one in _importance(db, operator, of, known[operator], dimension, names)
    )


def _importance(
    db: duckdb.DuckDBPyConnection,
    operator: str,
    columns: Sequence[str],
    known: str,
    dimension: str,
    names: Mapping[str, Mapping[int, str]],
) -> list[Importance]:
    category = "0" if dimension == "all" else dimension
    figures = [f"{of}({column}::DOUBLE)" for of in ("avg", "stddev_samp") for column in columns]
    listed = f"[{', '.join(columns)}]"
    leading = "first_territory" if operator == "territory" else f"list_position({listed}, list_max({listed}))"
    named = LEADING[operator] if operator == "territory" else range(1, len(LEADING[operator]) + 1)
    counted = [f"count(*) FILTER (foremost = {name!r})" for name in named]
    rows = {
        code: rest
        for code, *rest in db.execute(f"""
            SELECT {category} AS c, count(*), {", ".join([*figures, *counted])}
            FROM (SELECT *, {leading} AS foremost FROM explained WHERE {known}) GROUP BY c""").fetchall()
    }
    found = []
    for code, name in ({0: "all"} if dimension == "all" else names[dimension]).items():
        if code in rows:
            patients, *rest = rows[code]
            moments = np.array([math.nan if x is None else x for x in rest[: len(figures)]], dtype=np.float64)
            mean, sd = moments.reshape(2, len(columns))
            first = np.array(rest[len(figures) :], dtype=np.int64)
            found.append(Importance(operator, dimension, name, patients, mean, sd, first))
    return found


def design_effect(db: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Return the design effect of the share flagged among all ECGs, with patients as clusters.

    The variance of a ratio estimator, linearised over patients (Cochran, Sampling Techniques, 3rd ed., 1977, section 2.11),
    over that of as many independent ECGs.
    """
    clusters, ecgs, flagged, yy, ym, mm = db.execute(
        """SELECT count(*), sum(m), sum(y), sum(y * y), sum(y * m), sum(m * m)
           FROM (SELECT count(*)::DOUBLE AS m, count(*) FILTER (flagged)::DOUBLE AS y FROM picked GROUP BY p)"""
    ).fetchall()[0]
    share = flagged / ecgs if ecgs else 0.0
    if clusters < 2 or not 0 < share < 1:
        return {"all": 1.0}
    squares = yy - 2 * share * ym + share**2 * mm
    variance = clusters / (clusters - 1) * squares / ecgs**2
    return {"all": variance / (share * (1 - share) / ecgs)}
