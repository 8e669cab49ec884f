"""Direct standardisation by age to a reference population, and change over calendar time.

Estimates of strata are weighted as they are, also below zero, and the sum alone is truncated: truncating first would
push every standardised estimate up where prevalence is low.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screening.errors import UserError
from screening.report.document import Estimate, NotEstimable
from screening.report.prevalence import Corrected, Drawn, interval

WANTED_EDGES = (0, 40, 50, 60, 70, 80)
"""Bands in which bundles count their errors (`train.subgroups`): finer ones of the young and the very old would be hidden,
and then be corrected with errors that are not theirs."""
DEFAULT = Path(__file__).resolve().parent / "populations" / "esp2013.csv"
OLDEST_EDGE = 90
"""Ages from here on are one band everywhere: they identify people (45 CFR 164.514(b)(2)(i)(C))."""


@dataclass(frozen=True)
class ReferencePopulation:
    """How many of a population are of which age: weights from each lower edge to the next, the last band open."""

    name: str
    source: str
    edges: tuple[int, ...]
    weights: tuple[float, ...]
    sexes: Mapping[str, tuple[float, ...]] | None = None  # female, male -> weights, where the file tells them apart

    def bands(self, wanted: Sequence[int] = WANTED_EDGES) -> tuple[int, ...]:
        """Return the wanted lower edges that are edges of this population too; the others cannot be weighted."""
        return tuple(edge for edge in wanted if edge in self.edges)

    def weight(self, low: int, high: float, sex: str | None = None) -> float:
        """Return the weight of ages ``low`` up to, not including, ``high``, both of them edges (``high`` may be infinite)."""
        weights = self.weights if sex is None or self.sexes is None else self.sexes.get(sex, ())
        return float(sum(w for edge, w in zip(self.edges, weights, strict=False) if low <= edge < high))


def load_reference_population(path: str | Path | None = None) -> ReferencePopulation:
    """Return the reference population in a CSV file; None: the European Standard Population 2013.

    The file has columns ``age_from`` and ``weight``, perhaps ``sex`` (female, male), a line ``# source: ...`` and
    perhaps a line ``# name: ...``. Weights may be persons or shares.

    Raises
    ------
    UserError
        Naming the file, the line and what is wrong with it.
    """
    file = Path(path) if path is not None else DEFAULT
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"the reference population {file} cannot be read ({why}); name a CSV file") from None
    said = {
        key.strip().lower(): value.strip()
        for line in lines
        if line.startswith("#") and ":" in line
        for key, value in [line[1:].split(":", 1)]
    }
    if not said.get("source"):
        raise UserError(
            f"the reference population {file} does not say where it is from; add a line '# source: ...', which the "
            "report cites"
        )
    numbered = [
        (number, line) for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")
    ]
    if torn := [number for number, line in numbered if line.count('"') % 2]:
        raise UserError(f"{file}, line {torn[0]}: a quotation mark is not closed")
    rows = csv.DictReader(io.StringIO("\n".join(line for _, line in numbered)), skipinitialspace=True)
    columns = set(rows.fieldnames or ())
    if not {"age_from", "weight"} <= columns:
        raise UserError(f"the reference population {file} needs a first line with the columns age_from and weight")
    of: dict[str | None, list[tuple[int, float]]] = {}
    for (number, _), row in zip(numbered[1:], rows, strict=True):
        if None in row:
            raise UserError(f"{file}, line {number}: there are more cells than columns; write decimals with a point")
        sex = (row.get("sex") or "").strip().lower() or None
        if "sex" in columns and sex not in ("female", "male"):
            raise UserError(f"{file}, line {number}: sex is {row.get('sex')!r}; write female or male")
        try:
            age, weight = int(row["age_from"]), float(row["weight"])
        except (TypeError, ValueError):
            raise UserError(f"{file}, line {number}: age_from must be a whole number and weight a number") from None
        if age < 0 or not 0 <= weight < math.inf:
            raise UserError(
                f"{file}, line {number}: age_from and weight must not be negative, and weight must be finite"
            )
        before = of.setdefault(sex, [])
        if before and age <= before[-1][0]:
            raise UserError(f"{file}, line {number}: ages must ascend, and {age} comes after {before[-1][0]}")
        before.append((age, weight))
    edges = {tuple(age for age, _ in bands) for bands in of.values()}
    if not of or len(edges) != 1 or next(iter(edges))[:1] != (0,):
        raise UserError(f"the reference population {file} must begin at age_from 0, with the same ages for both sexes")
    if len(of) == 1 and None not in of:
        raise UserError(f"the reference population {file} has one sex only; give both, or leave the column out")
    found = {sex: tuple(weight for _, weight in bands) for sex, bands in of.items()}
    together = tuple(float(sum(column)) for column in zip(*found.values(), strict=True))
    if not 0 < sum(together) < math.inf:
        raise UserError(f"the weights of the reference population {file} add up to nothing, or to too much")
    return ReferencePopulation(
        name=said.get("name") or file.stem,
        source=said["source"],
        edges=next(iter(edges)),
        weights=together,
        sexes={str(sex): weights for sex, weights in found.items()} if None not in found else None,
    )


@dataclass(frozen=True)
class Weighted:
    """A stratum with its weight in the reference population."""

    name: str
    weight: float
    of: Drawn


@dataclass(frozen=True)
class Standard:
    """A directly standardised share of flagged patients, and prevalence."""

    apparent: Estimate
    prevalence: Corrected
    strata: tuple[str, ...]


def direct(strata: Sequence[Weighted]) -> Standard | NotEstimable:
    """Return what the reference population would have with the strata's shares: sum of w P / sum of w, by joint draws."""
    total = sum(one.weight for one in strata)
    if not total:
        return NotEstimable("no age band has enough patients to be shown")
    parts = [(one.weight / total, one.of) for one in strata]
    observed = sum(w * of.observed for w, of in parts)
    raw = sum(w * of.raw for w, of in parts)
    share = np.sum([w * of.share for w, of in parts], axis=0)
    drawn = np.sum([w * of.corrected for w, of in parts], axis=0)
    return Standard(
        interval(observed, share), Corrected(interval(raw, drawn), float(raw)), tuple(one.name for one in strata)
    )


def trend(years: Sequence[int], patients: Sequence[int], drawn: Sequence[np.ndarray]) -> Estimate | None:
    """Return the change of prevalence a year, as a fraction, by a line fitted to each draw; None with fewer than three years.

    Years are weighted by their patients. As all years share the draws of sensitivity and specificity, the uncertainty of
    these scales the slope but does not make one.

    Parameters
    ----------
    drawn
        For each year joint draws of its prevalence, not truncated.
    """
    if len(years) < 3:
        return None
    x, w = np.asarray(years, np.float64), np.asarray(patients, np.float64)
    w = w / w.sum()
    x = x - (w * x).sum()
    pull = w * x / (w * x * x).sum()
    slope = np.sum([p * of for p, of in zip(pull, drawn, strict=True)], axis=0)
    low, middle, high = np.quantile(slope, [0.025, 0.5, 0.975]).tolist()
    return Estimate(middle, low, high)
