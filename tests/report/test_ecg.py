"""An ECG on paper is measured with a ruler: by the paths of its SVG and by the pixels of its PNG."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, NOTICE, OPERATORS, TERRITORIES
from screening.recording import Recording
from screening.report.ecg import WIDTH_MM, ecg_plot, simplified
from screening.report.ecg_panel import AGAINST, FOR, tint
from screening.report.explained import Explanation, Parts
from screening.report.paper import INK

SVG = "{http://www.w3.org/2000/svg}"
COLUMN = {lead: i for i, leads in enumerate((LEADS[:3], LEADS[3:6], LEADS[6:9], LEADS[9:])) for lead in leads}
DRAWN_AS = ("I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "rhythm")
"""The leads in the order in which paper shows them."""


@dataclass
class Drawing:
    """What is measured in an SVG."""

    root: ElementTree.Element
    pulses: list[np.ndarray]
    traces: dict[str, list[np.ndarray]]  # pieces between gaps
    words: list[str]


def points(d: str) -> list[np.ndarray]:
    """Return the polylines of a path made of M and l, in its own units."""
    found = []
    for piece in re.findall(r"M[^M]+", d):
        start, steps = re.fullmatch(r"M([\d -]+)l([\d -]+)", piece).groups()  # type: ignore[union-attr]
        first = np.array(re.findall(r"-?\d+", start), float)
        moves = np.array(re.findall(r"-?\d+", steps), float).reshape(-1, 2)
        found.append(np.vstack([first, first + moves.cumsum(axis=0)]))
    return found


def measure(svg: bytes) -> Drawing:
    root = ElementTree.fromstring(svg)
    pulses, traces = [], []
    for path in root.iter(f"{SVG}path"):
        scale = float(re.fullmatch(r"scale\(([\d.]+)\)", path.get("transform", "")).group(1))  # type: ignore[union-attr]
        if path.get("stroke") != INK or float(path.get("stroke-width", 0)) * scale != pytest.approx(0.28):
            continue
        pieces = [scale * piece for piece in points(path.get("d", ""))]
        is_pulse = len(pieces) == 1 and len(pieces[0]) == 6 and pieces[0][0, 0] < 5
        (pulses if is_pulse else traces).append(pieces[0] if is_pulse else pieces)
    words = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    return Drawing(root, pulses, dict(zip(DRAWN_AS, traces, strict=False)), words)


def chunks(png: bytes) -> dict[bytes, bytes]:
    """Return a PNG's chunks by type, with their checksums verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        found[kind] = body
        at += 12 + length
    assert b"IEND" in found
    return found


def size_mm(png: bytes) -> tuple[float, float]:
    """Return a PNG's size on paper, and that it says its pixels a metre."""
    width, height = struct.unpack(">II", chunks(png)[b"IHDR"][:8])
    across, down, unit = struct.unpack(">IIB", chunks(png)[b"pHYs"])
    assert unit == 1
    return 1000 * width / across, 1000 * height / down


def parts(operator: str, se: float = 0.1, **values: float) -> Parts:
    """Return importances of an operator; parts that are not named have none."""
    names = OPERATORS[operator]
    return Parts(operator, np.array([values.get(name, 0.0) for name in names]), np.full(len(names), se), 8)


def explained(*of: Parts, **rest: object) -> Explanation:
    return Explanation({one.operator: one for one in of}, **rest)  # type: ignore[arg-type]


def boxes_of(root: ElementTree.Element) -> list[tuple[np.ndarray, str]]:
    """Return (x, y, width, height) and fill of every rectangle but the page."""
    found = list(root.iter(f"{SVG}rect"))[1:]
    return [
        (np.array([float(box.get(k, 0)) for k in ("x", "y", "width", "height")]), box.get("fill", "")) for box in found
    ]


@pytest.fixture(scope="module")
def recording(ptbxl: Path) -> Recording:
    found = ArchiveReader(str(ptbxl)).read("records500/00000/00008_hr.hea", "00008")
    assert isinstance(found, Recording)
    return found


@pytest.fixture
def step() -> np.ndarray:
    """Return an ECG that is flat but for a step of 1 mV in lead II at 5 s, 500 Hz."""
    signal = np.zeros((12, 5000), np.float32)
    signal[LEADS.index("II")] = np.where(np.arange(5000) < 2500, -0.5, 0.5)
    return signal


# --- Scale -----------------------------------------------------------------------------------------------------------


def test_the_page_and_the_calibration_pulse_are_true_to_scale(step: np.ndarray) -> None:
    drawing = measure(ecg_plot(step, 500.0, head=["A"], form="svg"))
    width, height = (drawing.root.get(name, "") for name in ("width", "height"))
    assert (width, drawing.root.get("viewBox")) == (f"{WIDTH_MM:g}mm", f"0 0 {WIDTH_MM:g} {height.removesuffix('mm')}")
    assert WIDTH_MM <= 279.4 - 12  # US Letter across, with margins of 6 mm
    assert float(height.removesuffix("mm")) <= 210 - 14
    assert len(drawing.pulses) == 4
    for pulse in drawing.pulses:
        assert np.ptp(pulse[:, 1]) == pytest.approx(10.0, abs=0.011)  # 1 mV
        up, down = pulse[1, 0], pulse[3, 0]
        assert down - up == pytest.approx(5.0, abs=0.011)  # 0.2 s


def test_a_step_of_a_millivolt_moves_the_strip_by_ten_millimetres(step: np.ndarray) -> None:
    (strip,) = measure(ecg_plot(step, 500.0, form="svg")).traces["rhythm"]
    assert np.ptp(strip[:, 1]) == pytest.approx(10.0, abs=0.02)
    jump = strip[np.flatnonzero(np.abs(np.diff(strip[:, 1])) > 9)[0]]
    assert jump[0] - strip[0, 0] == pytest.approx(4.998 * 25, abs=0.02)
    assert np.ptp(strip[:, 0]) == pytest.approx(4999 / 500 * 25, abs=0.02)


def test_the_png_shows_the_same_at_the_same_size(step: np.ndarray) -> None:
    from matplotlib.image import imread

    png, svg = (ecg_plot(step, 500.0, head=("first", "$second_", "<third>"), form=form) for form in ("png", "svg"))
    drawing = measure(svg)
    assert size_mm(png) == pytest.approx((WIDTH_MM, float(drawing.root.get("height", "").removesuffix("mm"))), abs=0.3)
    image = np.asarray(imread(BytesIO(png)))[..., :3]
    mm = image.shape[1] / WIDTH_MM
    ink = (image < 0.35).all(axis=2)
    (strip,) = drawing.traces["rhythm"]
    top, bottom = strip[:, 1].min() - 3, strip[:, 1].max() + 3
    for x in (60.0, 110.0, 160.0, 240.0):
        rows = np.flatnonzero(ink[round(top * mm) : round(bottom * mm), round(x * mm)])
        assert top + rows.mean() / mm == pytest.approx(np.interp(x, *strip.T), abs=0.25)


@pytest.mark.parametrize("rate_hz", [100.0, 250.0, 500.0, 1000.0])
def test_the_traces_are_the_signal(recording: Recording, rate_hz: float) -> None:
    """Every sample lies within 0.05 mm (5 uV) of the line that is drawn."""
    n = recording.signal_mV.shape[1]
    time = np.arange(round(10 * rate_hz)) / rate_hz
    signal = np.stack([np.interp(time, np.arange(n) / recording.rate_hz, lead) for lead in recording.signal_mV])
    drawing = measure(ecg_plot(signal, rate_hz, form="svg"))
    quarter = round(2.5 * rate_hz)
    for lead, (line,) in drawing.traces.items():
        of = signal[LEADS.index("II" if lead == "rhythm" else lead)]
        of = of - of.mean()
        if lead != "rhythm":
            of = of[COLUMN[lead] * quarter : (COLUMN[lead] + 1) * quarter]
            assert line[0, 0] == pytest.approx(13 + COLUMN[lead] * 62.5, abs=0.006)
        x = line[0, 0] + np.arange(len(of)) / rate_hz * 25
        y = np.interp(x, *line.T)
        middle = np.median(y + of * 10)
        # A steep line makes half a hundredth of a millimetre across into more of them down.
        steep = np.abs(np.gradient(of * 10, x)) * 0.01
        assert (np.abs(y - (middle - of * 10)) <= 0.052 + steep).all()
    assert len(drawing.traces) == 13


def test_noise_keeps_its_envelope() -> None:
    """What is finer than a stroke is drawn as its extremes: none is lost, and none is more than a stroke aside."""
    signal = np.zeros((12, 20_000))
    signal[1] = np.random.default_rng(0).normal(0, 0.1, 20_000)
    (line,) = measure(ecg_plot(signal, 2000.0, form="svg")).traces["rhythm"]
    assert len(line) < 2600
    y = -10 * (signal[1] - signal[1].mean())
    middle = line[:, 1].min() - y.min()
    x = line[0, 0] + np.arange(20_000) / 2000 * 25
    column = ((x - x[0]) / 0.2).astype(int)
    found = ((line[:, 0] - x[0]) / 0.2 + 1e-6).astype(int)
    for at in (0, 17, 600, 1249):
        drawn = line[found == at, 1] - middle
        assert (drawn.min(), drawn.max()) == pytest.approx((y[column == at].min(), y[column == at].max()), abs=0.02)


def test_a_line_is_thinned_only_as_far_as_it_may_be() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(4000) * 0.05
    y = np.cumsum(rng.normal(0, 0.05, 4000)) + (x > 100) * 20
    thin = simplified(x, y, 0.04)
    assert len(thin) < 3000
    assert np.abs(np.interp(x, *thin.T) - y).max() <= 0.04 + 1e-9
    assert len(simplified(x, 0.1 * x, 0.04)) == 2
    assert len(simplified(x[:1], y[:1], 0.04)) == 1


# --- Form ------------------------------------------------------------------------------------------------------------


def test_an_svg_is_small_plain_and_the_same_again(recording: Recording) -> None:
    r = np.arange(0.5, 10, 0.5)  # 120 beats a minute, every wave shaded, half of them hatched
    windows = {"P": (-0.16, -0.1), "QRS": (-0.05, 0.05), "ST": (0.05, 0.13), "T": (0.13, 0.3)}
    everything = explained(
        Parts("lead", np.linspace(-1, 1, 12), np.full(12, 0.1), 8),
        Parts("territory", np.linspace(-1, 1, 4), np.full(4, 0.1), 8),
        Parts("wave", np.tile([-1.0, 1.0], 8), np.full(16, 0.1), 8),
        findings="Pathological Q in the inferior leads.",
        windows={wave: np.column_stack([r + start, r + end]) for wave, (start, end) in windows.items()},
    )
    noisy = recording.signal_mV + np.random.default_rng(0).normal(0, 0.05, recording.signal_mV.shape)
    for signal, rate_hz in ((recording.signal_mV, 500.0), (noisy, 500.0), (np.repeat(noisy, 2, axis=1), 1000.0)):
        svg = ecg_plot(signal, rate_hz, head=["a", "b"], explanation=everything, form="svg")
        assert len(svg) < 190_000
    first, again = (ecg_plot(recording.signal_mV, 500.0, head=["a"], explanation=everything, form="svg") for _ in "ab")
    assert first == again
    elements = list(ElementTree.fromstring(first).iter())
    assert {element.tag.removeprefix(SVG) for element in elements} == {"svg", "rect", "path", "text"}
    attributes = {name for element in elements for name in element.attrib}
    assert not attributes & {"id", "style", "class", "href", "{http://www.w3.org/1999/xlink}href"}


def test_the_same_png_is_the_same_bytes(recording: Recording) -> None:
    first, again = (ecg_plot(recording.signal_mV, 500.0, head=["a"]) for _ in "ab")
    assert first == again
    assert b"tEXt" not in chunks(first)


@pytest.mark.parametrize("form", ["png", "svg"])
def test_hostile_text_stays_text(form: str, step: np.ndarray) -> None:
    head = [
        '"><script>alert(1)</script>&amp;',
        "$x_2$ \x00\x1b[31m \u202egnp.exe",
        "\n".join("ab") * 3,
        "\u9577" * 100_000,
    ]
    made = ecg_plot(step, 500.0, head=head, form=form)  # type: ignore[arg-type]
    if form == "png":
        chunks(made)
        return
    drawing = measure(made)
    assert '"><script>alert(1)</script>&amp;' in drawing.words
    assert not any(set(word) & set("\x00\x1b\u202e\n") for word in drawing.words)
    assert drawing.root.get("aria-label", "").endswith(head[0])
    assert len(made) < 60_000
    assert NOTICE in drawing.words


@pytest.mark.parametrize("form", ["png", "svg"])
@pytest.mark.parametrize("samples", [0, 1, 2, 700, 9000])
def test_any_length_and_any_gap_is_drawn(samples: int, form: str) -> None:
    signal = np.random.default_rng(0).normal(0, 0.2, (12, samples)).astype(np.float32)
    signal[3] = np.nan
    signal[4] = np.inf
    signal[5, : samples // 2] = np.nan
    windows = {"T": np.array([[0.1, 0.3], [9.8, 11.0]])}
    everything = explained(parts("lead"), parts("territory"), parts("wave", T_septal=1.0), windows=windows)
    made = ecg_plot(signal, 500.0, explanation=everything, form=form)  # type: ignore[arg-type]
    if form == "png":
        assert size_mm(made)[0] == pytest.approx(WIDTH_MM, abs=0.3)
    else:
        assert measure(made).words.count("no samples") >= 2


def test_what_is_no_ecg_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(12, samples\), not \(8, 5000\)"):
        ecg_plot(np.zeros((8, 5000)), 500.0)


# --- What is shown ---------------------------------------------------------------------------------------------------


def test_a_gap_is_left_open(step: np.ndarray) -> None:
    step[1, 1000:1500] = np.nan
    pieces = measure(ecg_plot(step, 500.0, form="svg")).traces["rhythm"]
    start = pieces[0][0, 0]
    assert [(round(p[0, 0] - start, 1), round(p[-1, 0] - start, 1)) for p in pieces] == [(0.0, 50.0), (75.0, 250.0)]


def test_of_a_long_record_the_middle_is_shown_and_said(step: np.ndarray) -> None:
    long = np.zeros((12, 15_000))
    long[:, 5000:10_000] = step
    whole, middle = (measure(ecg_plot(signal, 500.0, form="svg")) for signal in (long, step))
    assert any("10.0 s of 30.0 s, the middle, shown" in word for word in whole.words)
    assert any("10.0 s shown" in word for word in middle.words)
    for lead, (line,) in middle.traces.items():
        np.testing.assert_array_equal(line, whole.traces[lead][0])


def test_of_a_short_record_each_lead_is_shown_for_as_long_as_there_is_room(recording: Recording) -> None:
    """Of 4 s every lead has 2.5 s: the later columns go back in time rather than stay empty."""
    drawing = measure(ecg_plot(recording.signal_mV[:, :2000], 500.0, form="svg"))
    for lead, (line,) in drawing.traces.items():
        assert np.ptp(line[:, 0]) == pytest.approx(100 if lead == "rhythm" else 62.5, abs=0.1)


def test_what_is_beyond_reach_is_cut_with_a_mark(step: np.ndarray) -> None:
    signal = np.zeros((12, 5000))
    signal[LEADS.index("aVL"), 1500:1510] = 7.3
    signal[LEADS.index("V3"), 3000] = -20
    drawing = measure(ecg_plot(signal, 500.0, form="svg"))
    assert sorted(word for word in drawing.words if word.endswith(" mV")) == ["↑ +7.3 mV", "↓ −20.0 mV"]
    height = float(drawing.root.get("height", "").removesuffix("mm"))
    for (line,) in drawing.traces.values():
        assert 0 <= line[:, 1].min() <= line[:, 1].max() <= height
        assert np.ptp(line[:, 1]) <= 30.2


def test_rows_leave_room_for_tall_leads() -> None:
    """An S wave of 2.8 mV does not run into the row below where there is room elsewhere, and nothing is cut."""
    signal = np.zeros((12, 5000))
    signal[LEADS.index("V2"), 3000:3020] = -2.8
    drawing = measure(ecg_plot(signal, 500.0, form="svg"))
    assert not [word for word in drawing.words if word.endswith(" mV")]
    lowest = drawing.traces["V2"][0][:, 1].max()
    assert lowest < drawing.traces["V3"][0][:, 1].min() - 5
    for pulse in drawing.pulses:
        assert np.ptp(pulse[:, 1]) == pytest.approx(10, abs=0.011)


def test_importance_is_drawn_as_bars_and_as_tint(step: np.ndarray) -> None:
    svg = ecg_plot(step, 500.0, explanation=explained(parts("lead", V2=2.0, V3=1.0, III=-0.5)), form="svg")
    drawing = measure(svg)
    boxes = boxes_of(drawing.root)
    bars = [(box, fill) for box, fill in boxes if fill in (FOR, AGAINST) and box[3] > 0]
    assert [fill for _, fill in bars] == [AGAINST, FOR, FOR]  # III, V2, V3
    against, most, half = (box[3] for box, _ in bars)
    assert most == pytest.approx(2 * half, abs=0.02)
    assert against == pytest.approx(half / 2, abs=0.02)
    tinted = {fill for box, fill in boxes if box[2] == 62.5}
    assert tinted == {tint(2.0, 2.0), tint(1.0, 2.0)}  # only what speaks for infarction
    assert _luminance(tint(2.0, 2.0)) < _luminance(tint(1.0, 2.0)) < 1
    assert {"+2.00", "+1.00", "−0.50", "operator 'lead', 8 donors"} <= set(drawing.words)
    assert "Above 0 speaks for infarction. Whiskers: ±1.96 standard errors (of leads: their mean)." in drawing.words
    assert b"Importance" not in ecg_plot(step, 500.0, form="svg")


def test_whiskers_are_intervals_of_their_own_territory(step: np.ndarray) -> None:
    """By the ruler: a bar of 1 logit is 10 times as long as half the whisker of a standard error of 0.1 / 1.96."""
    se = np.array([0.1, 0.2, 0.0, 0.1]) / 1.96
    of = Parts("territory", np.array([1.0, 0.5, 0.2, -0.3]), se, 8)
    drawing = measure(ecg_plot(step, 500.0, explanation=explained(of), form="svg"))
    bars = [box for box, fill in boxes_of(drawing.root) if fill in (FOR, AGAINST)]
    logit = bars[0][3]
    whiskers = []
    for path in drawing.root.iter(f"{SVG}path"):
        if float(path.get("stroke-width", 0)) == pytest.approx(25):
            whiskers += [0.01 * piece for piece in points(path.get("d", "")) if np.ptp(piece[:, 0]) == 0]
    assert [np.ptp(one[:, 1]) / logit for one in whiskers] == pytest.approx([0.2, 0.4, 0.2], abs=0.01)
    middles = [bars[at][0] + bars[at][2] / 2 for at in (0, 1, 3)]
    assert [one[0, 0] for one in whiskers] == pytest.approx(middles, abs=0.02)
    ends = [bars[0][1], bars[1][1], bars[3][1] + bars[3][3]]
    assert [one[:, 1].mean() for one in whiskers] == pytest.approx(ends, abs=0.02)
    assert [word for word in drawing.words if word in TERRITORIES] == list(TERRITORIES)


# --- Waves -----------------------------------------------------------------------------------------------------------

WINDOWS = {"QRS": np.array([[1.0, 1.1], [6.0, 6.1]]), "T": np.array([[1.3, 1.5], [6.3, 6.5]])}
"""Two beats: one in the first column of leads, one in the third; the rhythm strip has both."""


def shades(svg: bytes) -> list[tuple[float, float, str]]:
    """Return x in seconds of the rhythm strip's time, width in seconds and fill, of what is shaded behind the traces."""
    found = []
    for (x, _, width, height), fill in boxes_of(ElementTree.fromstring(svg)):
        if height > 12 and width < 62 and fill not in (FOR, AGAINST):
            found.append((round((x - 13) / 25, 2), round(width / 25, 2), fill))
    return found


def test_waves_are_shaded_where_they_lie_in_the_leads_of_their_territory(step: np.ndarray) -> None:
    waves = parts("wave", QRS_inferior=2.0, T_inferior=1.0, QRS_septal=-2.0)
    svg = ecg_plot(step, 500.0, explanation=explained(waves, windows=WINDOWS), form="svg")
    inferior = [(1.0, 0.1, tint(2.0, 2.0)), (1.3, 0.2, tint(1.0, 2.0))]
    strip = [*inferior, (6.0, 0.1, tint(2.0, 2.0)), (6.3, 0.2, tint(1.0, 2.0))]
    septal = [(6.0, 0.1, tint(-2.0, 2.0))] * 2
    # II and III stand in the first column, where the first beat is, V1 and V2 in the third, where the second is; aVF is
    # inferior, but no beat lies in its column.
    assert sorted(shades(svg)) == sorted([*inferior, *inferior, *strip, *septal])
    assert sum(_luminance(fill) < 0.75 for *_, fill in shades(svg)) >= 6


def test_what_speaks_against_infarction_is_hatched_within_its_window(step: np.ndarray) -> None:
    """So that it differs in grey too."""

    def strokes(**values: float) -> list[np.ndarray]:
        svg = ecg_plot(step, 500.0, explanation=explained(parts("wave", **values), windows=WINDOWS), form="svg")
        paths = ElementTree.fromstring(svg).iter(f"{SVG}path")
        return [0.01 * piece for path in paths if path.get("stroke") == AGAINST for piece in points(path.get("d", ""))]

    assert strokes(T_septal=1.0) == []
    hatched = strokes(T_septal=-1.0)
    assert len(hatched) > 20
    for piece in hatched:
        assert 13 + 6.3 * 25 - 0.02 <= piece[:, 0].min() < piece[:, 0].max() <= 13 + 6.5 * 25 + 0.02
        assert np.diff(piece[:, 0]) == pytest.approx(-np.diff(piece[:, 1]), abs=0.02)


def test_what_may_be_chance_is_not_shaded(step: np.ndarray) -> None:
    for value, there in ((0.19, False), (0.2, True), (-0.19, False), (-0.2, True)):
        waves = parts("wave", se=0.1, QRS_inferior=value)
        drawing = ecg_plot(step, 500.0, explanation=explained(waves, windows=WINDOWS), form="svg")
        assert bool(shades(drawing)) == there
        assert f"{'+' if value > 0 else '−'}{abs(value):.2f}" in measure(drawing).words  # the map says it all the same


def test_leads_keep_a_band_beside_shaded_waves(step: np.ndarray) -> None:
    waves, leads = parts("wave", QRS_inferior=1.0), parts("lead", II=1.0)
    svg = ecg_plot(step, 500.0, explanation=explained(leads, waves, windows=WINDOWS), form="svg")
    (band,) = [box for box, _ in boxes_of(ElementTree.fromstring(svg)) if box[2] == 62.5]
    assert band[3] == 6
    assert any("Band over a lead: its own importance." in word for word in measure(svg).words)
    alone = ecg_plot(step, 500.0, explanation=explained(leads, waves), form="svg")  # nobody knows where the beats are
    (whole,) = [box for box, _ in boxes_of(ElementTree.fromstring(alone)) if box[2] == 62.5]
    assert whole[3] > 20
    assert shades(alone) == []
    assert not any("Shaded waves" in word for word in measure(alone).words)


def test_windows_are_those_of_the_part_that_is_drawn() -> None:
    """Of 30 s the middle ten are shown: a wave at 11 s lies at 1 s of the paper, others on no paper."""
    windows = {"QRS": np.array([[5.0, 5.1], [11.0, 11.1], [9.95, 10.05], [25.0, 25.1]])}
    of = explained(parts("wave", QRS_inferior=1.0), windows=windows)
    strip = shades(ecg_plot(np.zeros((12, 15_000)), 500.0, explanation=of, form="svg"))
    assert {(x, width) for x, width, _ in strip} == {(0.0, 0.05), (1.0, 0.1)}


def test_the_map_has_a_figure_for_every_wave_of_every_territory(step: np.ndarray) -> None:
    values = np.round(np.linspace(-1.5, 1.5, 16) + 0.003, 2)
    waves = Parts("wave", values, np.full(16, 0.01), 5)
    root = ElementTree.fromstring(ecg_plot(step, 500.0, explanation=explained(waves), form="svg"))
    at = {text.text: (float(text.get("x", 0)), float(text.get("y", 0))) for text in root.iter(f"{SVG}text")}
    for place, (part, value) in enumerate(zip(OPERATORS["wave"], values.tolist(), strict=True)):
        wave, wall = part.split("_")
        x, y = at[f"{'+' if value > 0 else '−'}{abs(value):.2f}"]
        assert x == pytest.approx(at[wave][0], abs=0.01), place
        assert y == pytest.approx(at[wall][1], abs=0.6), place


def test_findings_stand_in_the_head_and_the_page_fits_paper(step: np.ndarray) -> None:
    head = ["Probability", *(f"line {i}" for i in range(5))]
    said = "Pathological Q and inverted T in the inferior leads. " * 12
    everything = explained(
        parts("lead"), parts("territory"), parts("wave", QRS_inferior=1.0), findings=said, windows=WINDOWS
    )
    drawing = measure(ecg_plot(step, 500.0, head=head, explanation=everything, form="svg"))
    lines = drawing.words[: drawing.words.index("Importance, in logits")]
    assert lines[0] == "Probability"
    assert lines[1].startswith("Pathological Q and inverted T")
    assert lines[4].endswith("…")
    assert lines[5:] == head[1:]
    assert float(drawing.root.get("height", "").removesuffix("mm")) <= 210 - 14


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_the_trace_is_legible_on_the_strongest_tint(step: np.ndarray) -> None:
    of = explained(parts("lead", **dict.fromkeys(LEADS, 1.0)))
    svg = ecg_plot(step, 500.0, explanation=of, form="svg")
    tints = {
        box.get("fill", "") for box in ElementTree.fromstring(svg).iter(f"{SVG}rect") if box.get("width") == "62.5"
    }
    (strongest,) = tints
    for colour in (strongest, tint(1.0, 1.0), tint(-1.0, 1.0)):
        assert (_luminance(colour) + 0.05) / (_luminance(INK) + 0.05) > 7
    for colour in (FOR, AGAINST):
        assert 1.05 / (_luminance(colour) + 0.05) > 4.5
