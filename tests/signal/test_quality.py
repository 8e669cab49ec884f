from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from screening.archive.reader import ArchiveReader
from screening.contract import CARRIED_COLUMNS, LEADS, QUALITY_COLUMNS, QUALITY_LIMITS, REASONS, Reason, result_schema
from screening.recording import Recording
from screening.run.stages import decode_shard
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.quality import FLAGS, assess, quality_settings, verdicts
from tests.corpus import Case, poor_cases, write

RATE_HZ = 500.0


@pytest.fixture(scope="module")
def real(ptbxl: Path) -> np.ndarray:
    """64 real recordings, (64, 12, 5000) at 500 Hz."""
    reader = ArchiveReader(str(ptbxl))
    found = [reader.read(f"{name}.hea", name) for name in (ptbxl / "RECORDS").read_text().split()]
    return np.stack([recording.signal_mV for recording in found if isinstance(recording, Recording)])


@pytest.fixture(scope="module")
def good(real: np.ndarray) -> np.ndarray:
    """One of them of which nothing is doubtful, (12, 5000)."""
    flags = assess(real, RATE_HZ)["quality_flags"]
    return real[list(flags).index("")]


def judged(signal: np.ndarray, rate_hz: float = RATE_HZ) -> tuple[tuple[Reason, str] | None, list[str]]:
    """Return the verdict on one recording (12, n), and its flags."""
    quality = assess(signal[None], rate_hz)
    return verdicts(quality)[0], [flag for flag in quality["quality_flags"][0].split(",") if flag]


def lead(name: str) -> int:
    return LEADS.index(name)


def sine(hz: float, height_mV: float, samples: int, rate_hz: float = RATE_HZ) -> np.ndarray:
    return (height_mV * np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz)).astype(np.float32)


def noise(size_mV: float, shape: tuple[int, ...]) -> np.ndarray:
    """White noise of this root mean square above 40 Hz and up to 125 Hz, of 250 Hz that there are."""
    drawn = np.random.default_rng(5).standard_normal(shape)
    return (drawn * size_mV * np.sqrt(250 / 85)).astype(np.float32)


def decimated(signal: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return a recording at another rate."""
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(signal, round(rate_hz * 2), 1000, axis=-1), np.float32)


# --- Defects that refuse a record ------------------------------------------------------------------------------------


def _with(signal: np.ndarray, name: str, samples: slice, value: float) -> np.ndarray:
    signal[lead(name), samples] = value
    return signal


def _swapped(signal: np.ndarray, one: str, two: str) -> np.ndarray:
    signal[[lead(one), lead(two)]] = signal[[lead(two), lead(one)]]
    return signal


def _clipped(signal: np.ndarray, share: float) -> np.ndarray:
    low, high = np.quantile(signal[lead("V3")], [share / 2, 1 - share / 2])
    signal[lead("V3")] = np.clip(signal[lead("V3")], low, high)
    return signal


REFUSED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Reason, str]] = {
    "a tenth missing": (
        lambda s: _with(s, "V2", slice(1000, 1500), np.nan),
        Reason.MISSING_SAMPLES,
        r"^10% of a lead's samples are missing \(limit 5%\)$",
    ),
    "a lead all missing": (lambda s: _with(s, "V2", slice(None), np.nan), Reason.MISSING_SAMPLES, "^100% of a lead's"),
    "all missing": (lambda s: np.full_like(s, np.nan), Reason.MISSING_SAMPLES, "^100% of a lead's"),
    "infinite": (lambda s: _with(s, "I", slice(None), np.inf), Reason.MISSING_SAMPLES, "^100% of a lead's"),
    "infinite both ways": (
        lambda s: _with(_with(s, "I", slice(0, 500), np.inf), "I", slice(500, 900), -np.inf),
        Reason.MISSING_SAMPLES,
        "^18% of a lead's",
    ),
    "all zero": (np.zeros_like, Reason.FLAT_LEAD, r"^a lead stands still for 100% of the time \(limit 50%\)$"),
    "one lead zero": (lambda s: _with(s, "V5", slice(None), 0), Reason.FLAT_LEAD, "^a lead stands still for 100%"),
    "an electrode off": (lambda s: _with(s, "V5", slice(2000, None), 1.7), Reason.FLAT_LEAD, "stands still for 60%"),
    "a lead of amplifier noise": (
        lambda s: _with(s, "V5", slice(None), 0) + noise(0.002, s.shape),
        Reason.FLAT_LEAD,
        r"^a lead has 0.0\d+ mV peak to peak \(at least 0.03 mV\)$",
    ),
    "microvolts as millivolts": (
        lambda s: s * 1000,
        Reason.IMPLAUSIBLE_AMPLITUDE,
        r"^the largest lead has \S+ mV peak to peak \(limit 15 mV\)$",
    ),
    "millivolts as volts": (
        lambda s: s / 1000,
        Reason.IMPLAUSIBLE_AMPLITUDE,
        r"^the largest lead has 0.00\d+ mV peak to peak \(at least 0.15 mV\)$",
    ),
    "as large as numbers go": (
        lambda s: s * np.float32(1e37),
        Reason.IMPLAUSIBLE_AMPLITUDE,
        r"^the largest lead has \S+e\+37",
    ),
    "clipped": (
        lambda s: _clipped(s, 0.4),
        Reason.CLIPPED,
        r"^a lead is clipped for [1-4]\d% of the time \(limit 10%\)$",
    ),
    "limb labels swapped": (
        lambda s: _swapped(s, "aVR", "aVL"),
        Reason.INCONSISTENT_LIMB_LEADS,
        r"^the limb leads miss Einthoven's law by 0.\d+ mV, \d+% of their size \(limit 50%\)$",
    ),
    "a limb and a chest lead swapped": (
        lambda s: _swapped(s, "II", "V2"),
        Reason.INCONSISTENT_LIMB_LEADS,
        "miss Einthoven's law",
    ),
    "a limb lead upside down": (lambda s: s * _sign("III"), Reason.INCONSISTENT_LIMB_LEADS, "miss Einthoven's law"),
    "drowned in noise": (
        lambda s: s + noise(0.4, s.shape) * _chest(),
        Reason.NOISE,
        r"^noise of 0.\d+ mV above 40 Hz \(limit 0.3 mV\)$",
    ),
}


def _sign(name: str) -> np.ndarray:
    sign = np.ones((12, 1), np.float32)
    sign[lead(name)] = -1
    return sign


def _chest() -> np.ndarray:
    return np.repeat(np.float32([[0], [1]]), 6, axis=0)


@pytest.mark.parametrize("name", REFUSED)
def test_a_defect_is_refused_with_its_reason(name: str, good: np.ndarray) -> None:
    spoil, reason, message = REFUSED[name]
    verdict, _ = judged(spoil(good.copy()))
    assert verdict is not None
    assert verdict[0] is reason
    assert re.search(message, verdict[1]), verdict[1]


def test_every_reason_that_quality_can_give_is_tried_above() -> None:
    source = (Path(__file__).parents[2] / "screening" / "signal" / "quality.py").read_text()
    assert {f"Reason.{reason.name}" for _, reason, _ in REFUSED.values()} == set(re.findall(r"Reason\.[A-Z_]+", source))


def test_the_record_without_a_defect_is_accepted(good: np.ndarray) -> None:
    assert judged(good) == (None, [])


# --- Defects that raise a flag ---------------------------------------------------------------------------------------


def _derived(signal: np.ndarray) -> np.ndarray:
    i, ii = signal[0].copy(), signal[1].copy()
    signal[2:6] = ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2
    return signal


def _arms_swapped(signal: np.ndarray) -> np.ndarray:
    """RA and LA exchanged: I turns over, II and III change places, and so do aVR and aVL; the rest stays."""
    signal[0] *= -1
    signal[[1, 2]] = signal[[2, 1]]
    return _swapped(signal, "aVR", "aVL")


def _near_clipping(signal: np.ndarray) -> np.ndarray:
    for start in range(200, 5000, 500):
        signal[lead("V4"), start : start + 25] = signal[lead("V4")].max()
    return signal


def _artefacts(signal: np.ndarray) -> np.ndarray:
    signal[lead("V2"), 100::400] += 12
    signal[lead("V2"), 101::400] += 12
    signal[lead("V2"), 102::400] += 12
    signal[lead("V2"), 103::400] += 12
    signal[lead("V2"), 104::400] += 12
    return signal


FLAGGED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "missing": lambda s: _with(s, "V2", slice(1000, 1150), np.nan),
    "flat": lambda s: _with(s, "V6", slice(4000, None), 0.0),
    "clipped": _near_clipping,
    "einthoven": lambda s: s + sine(3.3, 0.064, 5000) * (np.arange(12) == lead("aVF"))[:, None],
    "mains": lambda s: s + sine(50, 0.06, 5000),
    "baseline": lambda s: s + sine(0.3, 1.5, 5000),
    "noise": lambda s: s + noise(0.08, s.shape) * _chest(),
    "amplitude": _artefacts,
    "suspected_limb_reversal": _arms_swapped,
    "identical_chest_leads": lambda s: _with(s, "V3", slice(None), 0) + s[lead("V2")] * (np.arange(12) == 8)[:, None],
}


def test_every_flag_is_tried_and_has_a_meaning() -> None:
    assert list(FLAGGED) == list(FLAGS)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in FLAGS)  # they are joined by commas
    assert all(FLAGS.values())


@pytest.mark.parametrize("name", FLAGGED)
def test_what_is_doubtful_is_flagged_and_nothing_else(name: str, good: np.ndarray) -> None:
    verdict, flags = judged(FLAGGED[name](good.copy()).astype(np.float32))
    assert verdict is None
    assert name in flags
    # 12 mV spikes are wide in frequency, too
    assert set(flags) - {name} <= {"amplitude": {"noise", "baseline"}}.get(name, set())


def test_missing_samples_are_flagged_up_to_the_limit_and_refused_beyond(good: np.ndarray) -> None:
    for count, refused in ((1, False), (150, False), (245, False), (255, True)):
        quality = assess(_with(good.copy(), "V1", slice(700, 700 + count), np.nan)[None], RATE_HZ)
        assert quality["missing_fraction"][0] == pytest.approx(count / 5000)
        assert (verdicts(quality)[0] is not None) == refused
        assert quality["quality_flags"][0] == "missing"


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
@pytest.mark.parametrize("rate_hz", [250.0, 500.0, 1000.0])
def test_mains_are_measured_at_every_rate(mains_hz: float, rate_hz: float, good: np.ndarray) -> None:
    signal = decimated(good, rate_hz)
    before = assess(signal[None], rate_hz)
    assert "mains" not in before["quality_flags"][0]
    for off_hz in (0.0, 0.13):  # the grid wanders
        humming = signal.copy()
        humming[3] += sine(mains_hz + off_hz, 0.1, signal.shape[1], rate_hz)
        after = assess(humming[None], rate_hz)
        assert after["mains_mV"][0] == pytest.approx(0.1 / np.sqrt(2), rel=0.1)
        assert after["quality_flags"][0] == "mains"
        assert after["noise_mV"][0] == pytest.approx(before["noise_mV"][0], rel=0.2)  # mains are no noise


def test_a_step_of_the_baseline_is_no_mains(good: np.ndarray) -> None:
    stepped = good.copy()
    stepped[lead("I"), 4820:] += 30
    assert "mains" not in judged(_derived(stepped))[1]
    assert "baseline" in judged(_derived(stepped))[1]


def test_one_artefact_does_not_make_an_amplitude(good: np.ndarray) -> None:
    before = float(assess(good[None], RATE_HZ)["amplitude_mV"][0])
    knocked = good.copy()
    knocked[lead("V2"), 2400:2420] += 40
    quality = assess(knocked[None], RATE_HZ)
    assert quality["amplitude_mV"][0] < 1.5 * before
    assert verdicts(quality) == [None]


def test_noise_is_measured_in_millivolts(good: np.ndarray) -> None:
    for size_mV in (0.05, 0.1, 0.2):
        found = float(assess((good + noise(size_mV, good.shape))[None], RATE_HZ)["noise_mV"][0])
        assert found == pytest.approx(size_mV, rel=0.2)


def test_arm_electrodes_swapped_are_suspected_and_right_ones_are_not(real: np.ndarray) -> None:
    swapped = np.stack([_arms_swapped(signal.copy()) for signal in real])
    before = assess(real, RATE_HZ)["quality_flags"]
    after = assess(swapped, RATE_HZ)
    assert verdicts(after) == [None] * len(real)  # Einthoven's law holds
    suspected = [
        sum("suspected_limb_reversal" in flags for flags in found) for found in (before, after["quality_flags"])
    ]
    assert suspected[0] <= 1
    assert suspected[1] >= 0.85 * len(real)


# --- Lengths and rates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_hz", "seconds"),
    [
        (500.0, 1.0),
        (500.0, 0.002),
        (500.0, 0.004),
        (500.0, 0.1),
        (62.5, 10.0),
        (50.0, 5.0),
        (1000.0, 38.0),
        (20000.0, 5.0),
    ],
)
def test_no_length_or_rate_is_too_odd(rate_hz: float, seconds: float) -> None:
    time = np.arange(round(rate_hz * seconds)) / rate_hz
    beat = np.exp(-0.5 * (((time % 0.8) - 0.4) / 0.03) ** 2)
    quality = assess(np.outer(np.linspace(0.3, 1.2, 12), beat).astype(np.float32)[None], rate_hz)
    assert quality["duration_s"][0] == pytest.approx(seconds)
    assert len(verdicts(quality)) == 1
    if seconds >= 1:
        assert quality["amplitude_mV"][0] > 0.2


def test_no_samples_are_missing_ones() -> None:
    verdict, flags = judged(np.zeros((12, 0), np.float32))
    assert verdict is not None
    assert verdict[0] is Reason.MISSING_SAMPLES
    assert flags == ["missing"]


def test_of_a_long_recording_the_window_that_is_scored_is_judged(good: np.ndarray) -> None:
    long = np.tile(good, (1, 4))
    around = long.copy()
    around[:, :7000] = np.nan
    around[:, 13500:] = 0
    assert judged(around) == (None, [])
    assert np.isfinite(preprocess(around[None], RATE_HZ, Preprocessing())).all()
    hole = long.copy()
    hole[lead("V1"), 9000:9600] = np.nan
    assert judged(hole)[0] == (Reason.MISSING_SAMPLES, "12% of a lead's samples are missing (limit 5%)")


@pytest.mark.parametrize("rate_hz", [250.0, 1000.0, 128.0])
def test_measures_hardly_depend_on_the_rate(rate_hz: float, real: np.ndarray) -> None:
    at_500, other = assess(real[:8], 500.0), assess(decimated(real[:8], rate_hz), rate_hz)
    for name, tolerance in (("amplitude_mV", 0.05), ("lead_amplitude_mV", 0.1), ("baseline_mV", 0.1)):
        np.testing.assert_allclose(other[name], at_500[name], rtol=tolerance)
    assert verdicts(other) == verdicts(at_500) == [None] * 8


# --- The batch and the columns ---------------------------------------------------------------------------------------


def test_a_record_gives_the_same_values_alone_in_a_batch_and_permuted(real: np.ndarray) -> None:
    spoilt = [spoil(real[i].copy()) for i, (spoil, _, _) in enumerate(REFUSED.values())]
    batch = np.concatenate([np.stack(spoilt).astype(np.float32), real[:8]])
    whole = assess(batch, RATE_HZ)
    order = np.random.default_rng(1).permutation(len(batch))
    permuted = assess(batch[order], RATE_HZ)
    for name, values in whole.items():
        np.testing.assert_array_equal(permuted[name], values[order])
    for i in range(len(batch)):
        alone = assess(batch[i : i + 1], RATE_HZ)
        for name, values in whole.items():
            np.testing.assert_array_equal(alone[name], values[i : i + 1])
        assert verdicts(alone)[0] == verdicts(whole)[i]


def test_it_gives_the_columns_of_the_contract_and_leaves_its_input_alone(good: np.ndarray) -> None:
    signal = _with(good.copy(), "V1", slice(700, 710), np.nan)[None]
    before = signal.copy()
    signal.setflags(write=False)
    quality = assess(signal, RATE_HZ)
    np.testing.assert_array_equal(signal, before)
    assert {name for name, _, _ in QUALITY_COLUMNS} <= set(quality)
    assert set(quality) - {name for name, _, _ in QUALITY_COLUMNS} == {"lead_amplitude_mV", "einthoven_share"}
    for name, kind, _ in QUALITY_COLUMNS:
        assert quality[name].shape == (1,)
        assert quality[name].dtype == (np.float32 if kind == "float32" else object), name
    for other in (np.asfortranarray(signal), signal.astype(np.float64)):
        again = assess(other, RATE_HZ)
        assert all(np.array_equal(again[name], quality[name]) for name in quality)
    assert verdicts(assess(signal[:0], RATE_HZ)) == []


def test_every_limit_goes_into_the_plan() -> None:
    settings = quality_settings()
    assert settings["max_flat_fraction"] == QUALITY_LIMITS.max_flat_fraction == 0.5
    assert all(isinstance(value, float) for value in settings.values())


# --- Through the reader and the stage --------------------------------------------------------------------------------


def decoded(reader: ArchiveReader, locations: list[str]) -> list[dict[str, object]]:
    columns = {name: pa.nulls(len(locations), result_schema().field(name).type) for name in CARRIED_COLUMNS}
    columns["record_id"] = pa.array(locations)
    outcomes = [reader.read(location, location) for location in locations]
    return list(decode_shard(pa.table(columns), outcomes, Preprocessing()).drop(["signal"]).to_pylist())


@pytest.mark.parametrize("case", poor_cases(), ids=lambda case: case.name)
def test_a_poor_record_becomes_a_row_with_its_reason(case: Case, tmp_path: Path) -> None:
    write([case], tmp_path)
    row = decoded(ArchiveReader(str(tmp_path)), [case.header])[0]
    assert row["reason"] == case.expected
    assert re.search(case.message, str(row["detail"]))
    assert row["reason"] in set(REASONS)
    assert row["duration_s"] is not None


def test_nothing_of_a_real_archive_is_refused(ptbxl: Path) -> None:
    names = (ptbxl / "RECORDS").read_text().split()
    rows = decoded(ArchiveReader(str(ptbxl)), [f"{name}.hea" for name in names])
    assert [row["detail"] for row in rows if row["reason"]] == []
    assert len(rows) == 64
    assert sum(bool(row["quality_flags"]) for row in rows) <= 10


def test_of_other_real_archives_only_records_without_some_leads_are_refused(shared_data: Path) -> None:
    folder = shared_data / "wfdb_variants"
    rows = decoded(ArchiveReader(str(folder)), sorted(str(p.relative_to(folder)) for p in folder.glob("*/*.hea")))
    assert len(rows) == 28
    # V2, V4 and V6 of these two hold nothing but zeros.
    refused = {str(row["record_id"]): row["reason"] for row in rows if row["reason"]}
    assert refused == {"cinc2021/JS20004.hea": Reason.FLAT_LEAD, "cinc2021/JS20008.hea": Reason.FLAT_LEAD}
