"""Local validation: a two-phase sample of flagged and unflagged patients, and what its readings say.

Every patient of the archive has a score (phase one); some, drawn within strata of it, get a reading (phase two). Comparing
the flag with readings of flagged patients alone would be verification bias (Begg & Greenes, Biometrics 39:207, 1983; Pepe,
The Statistical Evaluation of Medical Tests, 2003, ch. 7), so unflagged patients are drawn too, and every stratum h counts
with its N_h patients: with p_h the share of infarcts in it, D = sum N_h p_h infarcts, A of them flagged, of N patients, F
of them flagged,

    Se = A / D,    1 - Sp = (F - A) / (N - D),    prevalence = D / N.

Rogan-Gladen with these Se and Sp and the apparent prevalence F / N gives (F/N + Sp - 1) / (Se + Sp - 1) with

    F/N - (F - A)/(N - D) = (N A - F D) / (N (N - D))    and    A/D - (F - A)/(N - D) = (N A - F D) / (D (N - D)),

whose quotient is D / N: the direct stratified estimate, exactly, for whatever p_h. It therefore holds draw by draw, and the
covariance of Se and Sp, which comes from their common p_h, is what makes the variances agree too. With F / N held at the
archive's own value both give one interval; an estimator that lets F / N vary by itself, as of another sample, gives a wider
one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from screening.contract import NOTICE, sha256_of
from screening.errors import UserError
from screening.model.bundle import Counts
from screening.report.accuracy import Accuracy
from screening.report.document import Estimate
from screening.report.sampling import Stratum, allocate
from screening.storage import Folder

SCHEMA_VERSION = 1
DRAWS, DRAWS_SEED = 20_000, 0
_TAILS = (2.5, 97.5)


# --- Estimation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StratumReadings:
    """What was read in a stratum. A sheet that is unread or unreadable counts as missing at random within it."""

    stratum: Stratum
    infarct: int
    none: int
    unreadable: int = 0

    @property
    def read(self) -> int:
        """Readings that decide."""
        return self.infarct + self.none


@dataclass(frozen=True)
class Validation:
    """A local validation: counts by stratum, and what they were counted on."""

    date: str  # YYYY-MM-DD of the import
    bundle_sha256: str
    model: str  # name and version
    threshold: float  # on the calibrated probability
    catalog_id: str
    index_rule: str
    reference: str  # the reference standard, in words
    readers: tuple[str, ...]
    strata: tuple[StratumReadings, ...]
    agreement: Sequence[Mapping[str, Any]] = ()  # of each two readers: readers, sheets, raw, kappa with its interval

    @property
    def bands(self) -> tuple[Band, ...]:
        """What the estimates are made of: the score bands of each flag, of all sites together."""
        return _bands(self.strata)


@dataclass(frozen=True)
class Band:
    """Patients of one flag and one score band, and what was read of them at all sites, weighted by stratum."""

    flagged: bool
    patients: int
    read: int
    share: float  # of infarcts: mean of the strata's, weighted by their patients
    effective: float  # readings of a simple sample with the same variance (Kish, Survey Sampling, 1965, sec. 11.7)


@dataclass(frozen=True)
class Estimates:
    """What the readings say of the archive's patients: intervals are 95%, posterior."""

    sensitivity: Estimate
    specificity: Estimate
    prevalence: Estimate
    var_sensitivity: float
    var_specificity: float
    covariance: float
    n_sensitivity: float  # effective patients
    n_specificity: float
    draws: np.ndarray  # float64 (draws, 3): joint draws of sensitivity, specificity, prevalence


def estimate(validation: Validation, *, draws: int = DRAWS) -> Estimates:
    """Estimate sensitivity, specificity and prevalence among the archive's patients from the stratified readings.

    The values are the design-weighted ones, without bias whatever the strata. Their uncertainty is that of score bands b,
    all sites together, because strata of a few readings say nothing of their own scatter: draws are of p_b ~ Beta(m_b s_b +
    a_b, m_b (1 - s_b) + a_b), with s_b the weighted share and m_b the effective number of readings, and, of the N_b - n_b
    patients not read, of Binomial(N_b - n_b, p_b) infarcts, so that a band read wholly is known. a_b = N_b / (2 x patients of
    the same flag): Jeffreys' half event for each side of the threshold as a whole, spread over its bands. With half an event
    for every band, coverage at a prevalence of 2% would fall to 91% of 300 readings and 76% of 100, because each band
    without an infarct adds its own (what it is now: tests/studies/local_validation.py).

    Raises
    ------
    UserError
        One side of the threshold has no reading, or the readings hold no infarct or nothing else.
    """
    bands = validation.bands
    if not any(band.share for band in bands) or all(band.share == 1 for band in bands):
        found = "an infarct" if any(band.share for band in bands) else "no infarct"
        raise UserError(
            f"every one of the {sum(band.read for band in bands)} readings is {found}, so that sensitivity and specificity "
            "cannot both be estimated; read more sheets, or draw more."
        )
    patients, flagged = _column(bands, "patients"), _column(bands, "flagged")
    sensitivity, specificity, prevalence = _shares(patients * _column(bands, "share"), patients, flagged)
    joint = _posterior(bands, draws)
    covariance = np.cov(joint[:, :2], rowvar=False)
    mean = joint[:, :2].mean(axis=0)
    effective = np.maximum(mean * (1 - mean) / np.diag(covariance), 1.0)
    intervals = [
        Estimate(value, min(value, below), max(value, above))
        for value, below, above in zip(
            map(float, (sensitivity, specificity, prevalence)),
            *np.percentile(joint, _TAILS, axis=0).tolist(),
            strict=True,
        )
    ]
    return Estimates(
        sensitivity=intervals[0],
        specificity=intervals[1],
        prevalence=intervals[2],
        var_sensitivity=float(covariance[0, 0]),
        var_specificity=float(covariance[1, 1]),
        covariance=float(covariance[0, 1]),
        n_sensitivity=float(effective[0]),
        n_specificity=float(effective[1]),
        draws=joint,
    )


def accuracy(validation: Validation) -> Accuracy:
    """Return sensitivity and specificity in the form that every estimator of prevalence takes."""
    found = estimate(validation)
    return Accuracy(
        sensitivity=found.sensitivity.value,
        specificity=found.specificity.value,
        n_sensitivity=found.n_sensitivity,
        n_specificity=found.n_specificity,
        covariance=found.covariance,
        source="local validation",
        data=f"{sum(s.read for s in validation.strata):,} readings of {validation.date}, weighted to this archive",
        reference=validation.reference,
        draws=np.ascontiguousarray(found.draws[:, :2]),
    )


def _column(bands: Sequence[Band], name: str) -> np.ndarray:
    return np.array([getattr(band, name) for band in bands])


def _prior(bands: Sequence[Band]) -> np.ndarray:
    patients, flagged = _column(bands, "patients"), _column(bands, "flagged")
    prior: np.ndarray = 0.5 * patients / np.where(flagged, patients[flagged].sum(), patients[~flagged].sum())
    return prior


def _posterior(bands: Sequence[Band], draws: int) -> np.ndarray:
    patients, read, share, effective = (_column(bands, name) for name in ("patients", "read", "share", "effective"))
    rng, prior = np.random.default_rng(DRAWS_SEED), _prior(bands)
    p = rng.beta(effective * share + prior, effective * (1 - share) + prior, (draws, len(bands)))
    infarcts = read * share + rng.binomial(patients - read, p)
    # Where a draw has no infarct at all, or nothing else, its expectation stands for it: a share of nobody is no number.
    nothing = (infarcts.sum(axis=1) == 0) | (infarcts.sum(axis=1) == patients.sum())
    infarcts = np.where(nothing[:, None], read * share + (patients - read) * p, infarcts)
    return np.stack(_shares(infarcts, patients, _column(bands, "flagged")), axis=1)


def _shares(
    infarcts: np.ndarray, patients: np.ndarray, flagged: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sensitivity, specificity and prevalence of infarcts (..., strata) among patients (strata,)."""
    everyone, all_infarcts = patients.sum(), infarcts.sum(axis=-1)
    missed = infarcts[..., ~flagged].sum(axis=-1)
    return (
        1 - missed / all_infarcts,
        (patients[~flagged].sum() - missed) / (everyone - all_infarcts),
        all_infarcts / everyone,
    )


def _bands(strata: Sequence[StratumReadings]) -> tuple[Band, ...]:
    bands: list[Band] = []
    for side in (False, True):
        groups: dict[tuple[float | None, float | None], list[StratumReadings]] = {}
        for s in strata:
            if s.stratum.flagged == side:
                groups.setdefault((s.stratum.low, s.stratum.high), []).append(s)
        ordered = [groups[ends] for ends in sorted(groups, key=lambda ends: -np.inf if ends[0] is None else ends[0])]
        told = [at for at, group in enumerate(ordered) if any(s.read for s in group)]
        if not told:
            raise UserError(
                f"no {'flagged' if side else 'unflagged'} patient has a reading yet, and a validation needs both; read more "
                "sheets."
            )
        # A band without a reading counts with its nearest neighbour.
        near = [min(told, key=lambda other, at=at: abs(other - at)) for at in range(len(ordered))]  # type: ignore[misc]
        for at in told:
            bands.append(_band(side, [s for group, n in zip(ordered, near, strict=True) if n == at for s in group]))
    return tuple(bands)


def _band(flagged: bool, strata: Sequence[StratumReadings]) -> Band:
    """Take strata together; those without a reading count as the others."""
    read = [s for s in strata if s.read]
    patients = np.array([s.stratum.patients for s in read], np.float64)
    n = np.array([s.read for s in read])
    share = np.array([s.infarct for s in read]) / n
    return Band(
        flagged=flagged,
        patients=sum(s.stratum.patients for s in strata),
        read=int(n.sum()),
        share=float(patients @ share / patients.sum()),
        effective=float(patients.sum() ** 2 / (patients**2 / n).sum()),
    )


# --- Against the bundle's own counts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transport:
    """Local minus the bundle's own figure, and what that means."""

    sensitivity: Estimate
    specificity: Estimate
    verdict: str


def transport(validation: Validation, counts: Counts) -> Transport | None:
    """Compare the local sensitivity and specificity with the counts that came with the bundle; None where it has none.

    The bundle's are drawn from Beta(count + 1/2, ...), independently: they are other patients.
    """
    if not (counts.TP + counts.FN and counts.TN + counts.FP):
        return None
    local = estimate(validation)
    rng = np.random.default_rng(DRAWS_SEED + 1)
    own = (
        rng.beta(counts.TP + 0.5, counts.FN + 0.5, len(local.draws)),
        rng.beta(counts.TN + 0.5, counts.FP + 0.5, len(local.draws)),
    )
    found = []
    for i, (value, stated) in enumerate(
        ((local.sensitivity.value, counts.sensitivity), (local.specificity.value, counts.specificity))
    ):
        low, high = np.percentile(local.draws[:, i] - own[i], _TAILS).tolist()
        found.append(Estimate(value - stated, low, high))
    said = [_said(word, e) for word, e in zip(("sensitivity", "specificity"), found, strict=True)]
    differ = any(e.low > 0 or e.high < 0 for e in found)
    verdict = (
        "The bundle's own figures do not transport to this archive: "
        if differ
        else "The readings do not contradict the bundle's own figures: "
    ) + f"{said[0]}; {said[1]}."
    return Transport(found[0], found[1], verdict)


def _said(word: str, difference: Estimate) -> str:
    points = f"{100 * difference.value:+.1f} points (95% interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    if difference.high < 0:
        return f"{word} is lower here, {points}"
    if difference.low > 0:
        return f"{word} is higher here, {points}"
    return f"no difference in {word} is shown, {points}"


# --- Planning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MoreReadings:
    """What so many more readings would bring."""

    extra: int
    flagged: int  # of them
    unflagged: int
    width: float  # expected, of the prevalence's 95% interval
    by_band: tuple[int, ...]  # in the order of Validation.bands


def more_readings(validation: Validation, extra: Sequence[int]) -> list[MoreReadings]:
    """Return how narrow the prevalence's interval would become with more readings, allocated by Neyman's rule.

    The standard error is the delta method's, sum of W_b^2 p_b (1 - p_b) (1 - n_b / N_b) / m_b over score bands, with p_b the
    posterior means; the width is today's times the quotient of the standard errors.

    Parameters
    ----------
    validation
        With the readings so far.
    extra : sequence of int
        Numbers of further readings; more than there are patients left count as all of these.
    """
    bands = validation.bands
    patients, read, effective = (_column(bands, name) for name in ("patients", "read", "effective"))
    flagged, prior = _column(bands, "flagged"), _prior(bands)
    share = (effective * _column(bands, "share") + prior) / (effective + 2 * prior)
    now = estimate(validation).prevalence
    variance = (patients / patients.sum()) ** 2 * share * (1 - share)

    def standard_error(added: np.ndarray) -> float:
        return float(np.sqrt((variance * (1 - (read + added) / patients) / (effective + added)).sum()))

    rows = []
    for more in extra:
        total = int(min(read.sum() + more, patients.sum()))
        added = allocate(patients, share, start=read, total=total) - read
        today = standard_error(np.zeros_like(read))
        rows.append(
            MoreReadings(
                extra=int(added.sum()),
                flagged=int(added[flagged].sum()),
                unflagged=int(added[~flagged].sum()),
                width=(now.high - now.low) * (standard_error(added) / today if today else 1.0),
                by_band=tuple(added.tolist()),
            )
        )
    return rows


# --- Kept beside the runs --------------------------------------------------------------------------------------------


def store_validation(runs: Folder, validation: Validation) -> str:
    """Write ``RUNS/validations/<id>.json``, for its owner's eyes only, and return its name; equal contents, equal id.

    It holds counts by stratum and no record. The estimates in it are for people; they are computed anew when it is read.
    """
    facts = {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(asdict(validation)))}
    found = estimate(validation)
    estimates = {k: asdict(v) if isinstance(v, Estimate) else v for k, v in vars(found).items() if k != "draws"}
    name = f"validations/{sha256_of(facts)[:16]}.json"
    data = json.dumps({"notice": NOTICE, **facts, "estimates": estimates}, indent=1).encode()
    runs.write(name, data)
    return name


def load_validations(runs: Folder, bundle_sha256: str) -> list[Validation]:
    """Return the validations of a bundle that are kept beside the runs, the latest last.

    Raises
    ------
    UserError
        A file there cannot be read, or is of another version.
    """
    found = []
    for name in runs.names("validations"):
        if not name.endswith(".json"):
            continue
        where = f"{runs.url.rstrip('/')}/validations/{name}"
        try:
            facts = json.loads(runs.read(f"validations/{name}"))
            if facts["bundle_sha256"] != bundle_sha256:
                continue
            if facts.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError("another version")
            found.append((facts["date"], name, _validation(facts)))
        except PermissionError:
            raise UserError(f"{where} is not readable for you; ask its owner (mode 0600 is on purpose).") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{where} is damaged or of another version; import its readings again.") from None
    return [validation for _, _, validation in sorted(found, key=lambda item: item[:2])]


def _validation(facts: Mapping[str, Any]) -> Validation:
    strata = tuple(StratumReadings(**{**row, "stratum": Stratum(**row["stratum"])}) for row in facts["strata"])
    for row in strata:
        if min(row.infarct, row.none, row.unreadable) < 0 or row.read + row.unreadable > row.stratum.sampled:
            raise ValueError("counts that cannot be")
    known = {key: facts[key] for key in Validation.__dataclass_fields__ if key != "strata"}
    return Validation(
        **{**known, "readers": tuple(facts["readers"]), "agreement": tuple(facts["agreement"]), "strata": strata}
    )
