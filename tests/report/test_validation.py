"""What readings of a two-phase sample say: estimates, their uncertainty, transport and planning."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from screening.errors import UserError
from screening.model.bundle import Counts
from screening.report.sampling import Stratum
from screening.report.validation import (
    StratumReadings,
    Validation,
    accuracy,
    estimate,
    load_validations,
    more_readings,
    store_validation,
    transport,
)
from screening.storage import Folder


def validation(*strata: tuple[bool, int, int, int]) -> Validation:
    """Return a validation of strata (flagged, patients, infarcts, others read)."""
    edges = [None, *(float(i) for i in range(1, len(strata))), None]
    return Validation(
        date="2026-03-01",
        bundle_sha256="a" * 64,
        model="tiny 1",
        threshold=0.3,
        catalog_id="c" * 64,
        index_rule="first",
        reference="two readers",
        readers=("one", "two"),
        strata=tuple(
            StratumReadings(Stratum(flagged, edges[i], edges[i + 1], None, patients, y + no), y, no)
            for i, (flagged, patients, y, no) in enumerate(strata)
        ),
    )


# Liver scans (Drum & Christacopoulos, J Nucl Med 13:908, 1972), the worked example of Begg & Greenes (1983): 429 positive
# scans, 231 with and 32 without disease among the 263 verified; 221 negative, 27 and 54 among the 81 verified.
LIVER_SCANS = validation((False, 221, 27, 54), (True, 429, 231, 32))
USUAL = validation(
    (False, 850, 1, 28),
    (False, 510, 2, 60),
    (False, 250, 6, 50),
    (False, 90, 3, 20),
    (True, 150, 6, 32),
    (True, 150, 18, 14),
)


def test_verification_bias_is_corrected_as_begg_and_greenes_do() -> None:
    found = estimate(LIVER_SCANS)
    assert found.sensitivity.value == pytest.approx(0.836, abs=5e-4)
    assert found.specificity.value == pytest.approx(0.738, abs=5e-4)
    assert found.prevalence.value == pytest.approx((429 * 231 / 263 + 221 * 27 / 81) / 650)


@pytest.mark.parametrize("of", [LIVER_SCANS, USUAL])
def test_rogan_gladen_with_the_local_figures_is_the_direct_estimate(of: Validation) -> None:
    found = estimate(of)
    flagged = sum(s.stratum.patients for s in of.strata if s.stratum.flagged)
    apparent = flagged / sum(s.stratum.patients for s in of.strata)
    local = accuracy(of)
    adjusted = (apparent + local.specificity - 1) / (local.sensitivity + local.specificity - 1)
    assert adjusted == pytest.approx(found.prevalence.value, rel=1e-12)
    se, sp, prevalence = found.draws.T
    np.testing.assert_allclose((apparent + sp - 1) / (se + sp - 1), prevalence, rtol=1e-9, atol=1e-12)
    assert local.draws is not None
    np.testing.assert_array_equal(local.draws, found.draws[:, :2])


def test_the_intervals_are_as_wide_as_the_estimator_scatters() -> None:
    patients = np.array([8500, 5100, 2500, 900, 1500, 1500])
    infarcts = np.array([255, 357, 300, 135, 285, 630])
    flagged = np.array([False, False, False, False, True, True])
    n = np.array([150, 150, 150, 60, 120, 120])
    rng = np.random.default_rng(1)
    values, sds, covariances = [], [], []
    for _ in range(300):
        y = rng.hypergeometric(infarcts, patients - infarcts, n)
        rows = [(bool(f), int(N), int(a), int(b)) for f, N, a, b in zip(flagged, patients, y, n - y, strict=True)]
        found = estimate(validation(*rows), draws=1500)
        values.append([found.sensitivity.value, found.specificity.value, found.prevalence.value])
        sds.append(found.draws.std(axis=0))
        covariances.append(found.covariance)
    np.testing.assert_allclose(np.mean(sds, axis=0), np.std(values, axis=0), rtol=0.12)
    assert np.mean(covariances) == pytest.approx(np.cov(np.transpose(values)[:2])[0, 1], rel=0.35)
    truth = [infarcts[flagged].sum() / infarcts.sum(), 1 - (3000 - 915) / (20000 - 1962), 1962 / 20000]
    np.testing.assert_allclose(np.mean(values, axis=0), truth, atol=4 * np.std(values, axis=0).max() / np.sqrt(300))


def test_effective_sizes_reproduce_the_variances() -> None:
    found = estimate(USUAL)
    for value, n, variance in (
        (found.draws[:, 0].mean(), found.n_sensitivity, found.var_sensitivity),
        (found.draws[:, 1].mean(), found.n_specificity, found.var_specificity),
    ):
        assert value * (1 - value) / n == pytest.approx(variance)
    read = sum(s.read for s in USUAL.strata)
    assert 1 < found.n_sensitivity < read


def test_what_was_read_wholly_is_known() -> None:
    found = estimate(validation((False, 60, 3, 57), (True, 20, 8, 12)))
    for quantity in (found.prevalence, found.sensitivity, found.specificity):
        assert quantity.low == quantity.high == pytest.approx(quantity.value)
    assert found.prevalence.value == 11 / 80


def test_no_missed_infarct_is_not_certainty() -> None:
    found = estimate(validation((False, 1700, 0, 150), (True, 300, 40, 60)))
    assert found.sensitivity.value == 1
    assert found.sensitivity.high == 1
    assert found.sensitivity.low < 0.95
    assert accuracy(validation((False, 1700, 0, 150), (True, 300, 40, 60))).n_sensitivity > 1


def test_splitting_a_stratum_changes_little() -> None:
    """The prior is shared out over a side's strata, so many strata without an infarct do not add up to one."""
    whole = estimate(validation((False, 1800, 0, 200), (True, 200, 10, 90)))
    split = estimate(validation(*[(False, 180, 0, 20)] * 10, (True, 200, 10, 90)))
    assert split.prevalence.high == pytest.approx(whole.prevalence.high, rel=0.05)


def test_a_band_without_a_reading_counts_with_its_neighbour() -> None:
    rows = list(USUAL.strata)
    rows[3] = StratumReadings(rows[3].stratum, 0, 0, unreadable=5)
    partial = replace(USUAL, strata=tuple(rows))
    assert [band.patients for band in partial.bands] == [850, 510, 340, 150, 150]
    assert estimate(partial).prevalence.value == pytest.approx(
        (850 / 29 + 510 * 2 / 62 + 340 * 6 / 56 + 150 * 6 / 38 + 150 * 18 / 32) / 2000
    )


def test_a_site_without_a_reading_counts_as_the_others_of_its_band() -> None:
    def at(low: float | None, high: float | None, site: str, infarct: int, none: int) -> StratumReadings:
        return StratumReadings(Stratum(False, low, high, site, 100, 20), infarct, none)

    rows = (at(None, -2.0, "north", 1, 19), at(-2.0, 0.0, "north", 0, 0), at(-2.0, 0.0, "south", 5, 15))
    flagged = StratumReadings(Stratum(True, 0.0, None, None, 50, 20), 10, 10)
    bands = replace(USUAL, strata=(rows[1], flagged, rows[0], rows[2])).bands
    assert [(band.patients, band.read, band.share) for band in bands] == [
        (100, 20, 0.05),
        (200, 20, 0.25),
        (50, 20, 0.5),
    ]


def test_sites_weigh_by_their_patients() -> None:
    rows = (
        StratumReadings(Stratum(False, None, None, "north", 900, 30), 3, 27),
        StratumReadings(Stratum(False, None, None, "south", 100, 30), 15, 15),
        StratumReadings(Stratum(True, 0.0, None, None, 50, 20), 10, 10),
    )
    of = replace(USUAL, strata=rows)
    assert of.bands[0].share == pytest.approx(0.9 * 0.1 + 0.1 * 0.5)
    assert of.bands[0].effective == pytest.approx(1 / (0.9**2 / 30 + 0.1**2 / 30))
    assert estimate(of).prevalence.value == pytest.approx((90 + 50 + 25) / 1050)


def test_many_sites_of_a_few_readings_do_not_make_the_interval_too_narrow() -> None:
    rng = np.random.default_rng(8)
    patients = np.array([*[100] * 8, *[60] * 8, *[20] * 8])
    n = np.array([*[8] * 8, *[8] * 8, *[4] * 8])
    covered = 0
    for _ in range(400):
        p = np.clip(np.repeat([0.03, 0.15, 0.4], 8) + rng.normal(0, 0.01, 24), 0, 1)
        infarcts = rng.binomial(patients, p)
        y = rng.hypergeometric(infarcts, patients - infarcts, n)
        strata = [Stratum(h >= 16, h // 8, h // 8 + 1, f"site {h % 8}", int(patients[h]), int(n[h])) for h in range(24)]
        rows = tuple(StratumReadings(*row) for row in zip(strata, y.tolist(), (n - y).tolist(), strict=True))
        interval = estimate(replace(USUAL, strata=rows), draws=2000).prevalence
        covered += interval.low <= infarcts.sum() / patients.sum() <= interval.high
    assert covered >= 0.93 * 400


def test_what_cannot_be_estimated_is_said() -> None:
    with pytest.raises(UserError, match="no flagged patient has a reading yet, and a validation needs both"):
        estimate(validation((False, 100, 2, 20), (True, 30, 0, 0)))
    with pytest.raises(UserError, match="every one of the 60 readings is no infarct"):
        estimate(validation((False, 100, 0, 30), (True, 40, 0, 30)))
    with pytest.raises(UserError, match="every one of the 60 readings is an infarct"):
        estimate(validation((False, 100, 30, 0), (True, 40, 30, 0)))


def test_transport_is_judged_by_the_interval_of_the_difference() -> None:
    same = transport(LIVER_SCANS, Counts(TP=836, FN=164, TN=738, FP=262))
    assert same is not None
    assert same.sensitivity.low < 0 < same.sensitivity.high
    assert same.sensitivity.value == pytest.approx(0.0, abs=1e-3)
    assert same.verdict.startswith(
        "The readings do not contradict the bundle's own figures: no difference in sensitivity"
    )
    other = transport(LIVER_SCANS, Counts(TP=990, FN=10, TN=500, FP=500))
    assert other is not None
    assert other.sensitivity.high < 0 < other.specificity.low
    assert other.verdict.startswith(
        "The bundle's own figures do not transport to this archive: sensitivity is lower here"
    )
    assert "specificity is higher here, +23.8 points" in other.verdict


def test_the_difference_has_the_variance_of_both() -> None:
    few = transport(LIVER_SCANS, Counts(TP=20, FN=5, TN=20, FP=5))
    many = transport(LIVER_SCANS, Counts(TP=20000, FN=5000, TN=20000, FP=5000))
    assert few is not None
    assert many is not None
    local = estimate(LIVER_SCANS).sensitivity
    width = many.sensitivity.high - many.sensitivity.low
    assert width == pytest.approx(local.high - local.low, rel=0.05)
    assert few.sensitivity.high - few.sensitivity.low > 1.5 * width
    assert transport(LIVER_SCANS, Counts(TP=0, FN=0, TN=9, FP=1)) is None


# --- Planning --------------------------------------------------------------------------------------------------------


def test_more_readings_narrow_the_interval() -> None:
    now = estimate(USUAL).prevalence
    rows = more_readings(USUAL, [0, 50, 200, 1000, 10**6])
    assert rows[0].width == pytest.approx(now.high - now.low)
    widths = [row.width for row in rows]
    assert widths == sorted(widths, reverse=True)
    assert [row.extra for row in rows[:4]] == [0, 50, 200, 1000]
    assert rows[4].extra == 2000 - sum(s.read for s in USUAL.strata)
    assert rows[4].width == 0
    assert all(row.flagged + row.unflagged == row.extra == sum(row.by_band) for row in rows)


def test_the_width_that_is_promised_comes_true() -> None:
    """Read so many more sheets, of archives that today's readings make likely, and look at the interval."""
    rng = np.random.default_rng(4)
    patients = np.array([s.stratum.patients for s in USUAL.strata])
    n = np.array([s.read for s in USUAL.strata])
    y = np.array([s.infarct for s in USUAL.strata])
    for row in more_readings(USUAL, [100, 400]):
        widths = []
        for _ in range(80):
            left = rng.binomial(patients - n, rng.beta(y + 0.2, n - y + 0.2))
            more = rng.hypergeometric(left, patients - n - left, np.array(row.by_band))
            total, found = n + np.array(row.by_band), y + more
            flags = [s.stratum.flagged for s in USUAL.strata]
            rows = [
                (f, int(N), int(a), int(b)) for f, N, a, b in zip(flags, patients, found, total - found, strict=True)
            ]
            interval = estimate(validation(*rows), draws=3000).prevalence
            widths.append(interval.high - interval.low)
        assert np.mean(widths) == pytest.approx(row.width, rel=0.1)


# --- Beside the runs -------------------------------------------------------------------------------------------------


def test_a_validation_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    runs = Folder(str(tmp_path))
    later = replace(LIVER_SCANS, date="2026-04-01")
    names = [store_validation(runs, v) for v in (later, USUAL)]
    assert store_validation(runs, USUAL) == names[1]
    assert load_validations(runs, "a" * 64) == [USUAL, later]
    assert load_validations(runs, "b" * 64) == []
    assert load_validations(Folder(str(tmp_path / "nowhere")), "a" * 64) == []
    path = tmp_path / names[1]
    assert os.stat(path).st_mode & 0o777 == 0o600
    stored = json.loads(path.read_text())
    assert stored["estimates"]["prevalence"]["value"] == estimate(USUAL).prevalence.value
    assert "record_id" not in path.read_text()


@pytest.mark.parametrize(
    "broken",
    [
        lambda facts: "{",
        lambda facts: "[]",
        lambda facts: json.dumps({**facts, "schema_version": 99}),
        lambda facts: json.dumps({k: v for k, v in facts.items() if k != "strata"}),
        lambda facts: json.dumps({**facts, "strata": [{**facts["strata"][0], "infarct": 10**6}]}),
        lambda facts: json.dumps({**facts, "strata": [{**facts["strata"][0], "infarct": -1}]}),
    ],
)
def test_a_damaged_validation_is_named(tmp_path: Path, broken: object) -> None:
    runs = Folder(str(tmp_path))
    path = tmp_path / store_validation(runs, USUAL)
    path.write_text(broken(json.loads(path.read_text())))  # type: ignore[operator]
    with pytest.raises(UserError, match=f"{path.name} is damaged or of another version; import its readings again"):
        load_validations(runs, "a" * 64)
