"""What is drawn: well-formed, in words, the same bytes again, hidden as a gap, and in colours that can be told apart."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.contract import LEADS, OPERATORS, TERRITORIES
from screening.report.disclosure import Protected
from screening.report.document import HIDDEN, Cell, Estimate, Figure, NotEstimable
from screening.report.figures import (
    Curve,
    curves_figure,
    distributions_figure,
    flow_figure,
    importance_figure,
    importance_map,
    interval_figure,
    reliability_figure,
    trend_figure,
    wave_figure,
)
from screening.report.lead_figures import shade
from screening.report.svg import DASHES, FAINT, INK, PAPER, QUIET, SERIES, WIDTH, Scale, contrast, width_of
from tests.report.specimen import FLOW, OVERRIDE, REASONS, SCRIPT, around, specimen

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = list(specimen().blocks(Figure))


def texts(figure: Figure) -> list[str]:
    return [element.text or "" for element in ET.fromstring(figure.svg).iter(f"{SVG}text")]


def counts(figure: Figure) -> dict[str, str]:
    elements = ET.fromstring(figure.svg).iter(f"{SVG}text")
    return {e.attrib["data-step"]: e.attrib["data-count"] for e in elements if "data-step" in e.attrib}


# --- Every figure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_is_one_well_formed_element_that_says_what_it_shows(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == figure.title
    assert root[1].tag == f"{SVG}desc"
    assert root[1].text == figure.text
    assert len(figure.text) > 40
    assert figure.text.endswith(".")
    assert len(figure.svg) < 20_000


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_has_no_script_no_reference_and_nothing_that_could_collide(figure: Figure) -> None:
    for element in ET.fromstring(figure.svg).iter():
        assert element.tag.removeprefix(SVG) in {"svg", "title", "desc", "text", "line", "path", "rect", "circle"}
        assert not {"id", "class", "href", "style"} & {name.rpartition("}")[2] for name in element.attrib}
        assert not any(name.startswith("on") or "url(" in value for name, value in element.attrib.items())


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_stays_inside_its_frame_and_holds_no_number_that_is_none(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert "nan" not in figure.svg.lower().replace("unanalysed", "")
    assert "inf " not in figure.svg
    for element in root.iter():
        points = [(float(element.attrib[x]), float(element.attrib[y])) for x, y in PLACES if x in element.attrib]
        if element.tag == f"{SVG}path":
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.attrib["d"])]
            points += list(zip(numbers[::2], numbers[1::2], strict=True))
        for x, y in points:
            assert -0.5 <= x <= width + 0.5
            assert -0.5 <= y <= height + 0.5
        if element.tag == f"{SVG}text":
            wide = width_of(element.text or "", float(element.attrib.get("font-size", "13")))
            left = float(element.attrib["x"]) - wide * {"end": 1.0, "middle": 0.5}.get(
                element.attrib.get("text-anchor", ""), 0
            )
            assert left > -12
            assert left + wide < width + 12


PLACES = (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy"))


def test_the_same_data_give_the_same_bytes() -> None:
    assert [figure.svg for figure in specimen().blocks(Figure)] == [figure.svg for figure in FIGURES]


def test_hostile_names_are_text() -> None:
    figure = interval_figure(
        "site", "By site", [(SCRIPT, [around(0.1, 0.01)]), (OVERRIDE, [HIDDEN]), ("\x00\ud800&", [HIDDEN])]
    )
    assert SCRIPT in texts(figure)
    assert "<script" not in figure.svg
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in figure.svg
    assert "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}&" in texts(figure)


# --- Colours -----------------------------------------------------------------------------------------------------------


def test_contrast_is_that_of_wcag() -> None:
    # https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio; #767676 is the lightest grey that passes AA on white.
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("colour", [INK, QUIET, *SERIES])
@pytest.mark.parametrize("ground", [PAPER, FAINT])
def test_every_colour_that_writes_is_legible(colour: str, ground: str) -> None:
    assert contrast(colour, ground) >= 4.5


def test_figures_in_the_map_are_legible_on_every_shade() -> None:
    for i in range(101):
        assert max(contrast(ink, shade(i / 100)) for ink in (PAPER, "#000000")) >= 4.5


def test_no_series_is_told_apart_by_colour_alone() -> None:
    assert len(set(DASHES)) == len(SERIES)
    svg = interval_figure("a", "A", [("x", [around(0.1, 0.02)] * 5)], series="abcde").svg
    shapes = {re.sub(r"\d+(\.\d+)?|#\w+", "", shape) for shape in re.findall(r"<(?:circle|rect|path)[^>]*>", svg)}
    assert len(shapes) >= 4


# Viénot, Brettel & Mollon 1999: what a protanope and a deuteranope see, on linear RGB.
DICHROMATS = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


@pytest.mark.parametrize("kind", DICHROMATS)
def test_the_first_three_series_are_apart_for_the_colour_blind(kind: str) -> None:
    def seen(colour: str) -> tuple[float, ...]:
        linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        return tuple(
            max(sum(w * c for w, c in zip(row, linear, strict=True)), 0) ** (1 / 2.2) for row in DICHROMATS[kind]
        )

    for one, other in combinations(SERIES[:3], 2):
        assert max(abs(a - b) for a, b in zip(seen(one), seen(other), strict=True)) > 0.12


# --- Intervals ---------------------------------------------------------------------------------------------------------


def whiskers(figure: Figure, colour: str) -> list[tuple[float, float]]:
    """Return left and right end of every horizontal line of a colour."""
    lines = [e.attrib for e in ET.fromstring(figure.svg).iter(f"{SVG}line") if e.attrib["stroke"] == colour]
    return [(float(a["x1"]), float(a["x2"])) for a in lines if a["y1"] == a["y2"] and a["x1"] != a["x2"]]


def test_intervals_are_in_proportion_on_one_axis() -> None:
    rows: list[tuple[str, list[Cell]]] = [("a", [Estimate(0.1, 0.05, 0.15)]), ("b", [Estimate(0.2, 0.15, 0.25)])]
    (a0, a1), (b0, b1) = whiskers(interval_figure("f", "F", rows), SERIES[0])
    assert a1 == pytest.approx(b0, abs=0.1)
    assert a1 - a0 == pytest.approx(b1 - b0, abs=0.1)
    zero = a0 - (a1 - a0) / 2  # half an interval's width left of 5% is 0%
    assert any(
        e.text == "0%" and float(e.attrib["x"]) == pytest.approx(zero, abs=0.2)
        for e in ET.fromstring(interval_figure("f", "F", rows).svg).iter(f"{SVG}text")
    )


def test_what_is_hidden_is_a_word_and_a_mark_but_no_marker() -> None:
    rows: list[tuple[str, list[Cell]]] = [
        ("a", [HIDDEN]),
        ("b", [NotEstimable("nobody")]),
        ("c", [Estimate(0, 0, 0.01)]),
    ]
    figure = interval_figure("f", "F", rows)
    assert {"hidden", "not estimable", "0% (0–1.0)"} <= set(texts(figure))
    assert figure.svg.count("<circle") == 1
    assert figure.text == "Prevalence: a hidden; b not estimable; c 0% (0–1.0)."


def test_a_text_for_ages_tells_how_it_runs() -> None:
    rows: list[tuple[str, list[Cell]]] = [
        (age, [around(v, 0.01)]) for age, v in (("0-19", 0.02), ("50-59", 0.15), ("80-89", 0.14))
    ]
    figure = interval_figure("f", "F", [*rows, ("90+", [HIDDEN])], of="Prevalence by age", ordered=True)
    assert figure.text == (
        "Prevalence by age: 2.0% (1.0–3.0) at 0-19 rising to 14.0% (13.0–15.0) at 80-89, highest 15.0% (14.0–16.0) at 50-59 "
        "(1 row hidden)."
    )


def test_one_immense_interval_does_not_squeeze_the_others() -> None:
    rows: list[tuple[str, list[Cell]]] = [(str(i), [around(0.05, 0.01)]) for i in range(9)]
    lines = whiskers(interval_figure("f", "F", [*rows, ("small", [Estimate(0.06, 0.0, 0.9)])]), SERIES[0])
    assert lines[0][1] - lines[0][0] > 30
    assert max(end for _, end in lines) <= WIDTH


def test_nothing_to_show_is_said() -> None:
    assert "no figure can be shown" in interval_figure("f", "F", [("a", [HIDDEN])], ordered=True).text
    assert interval_figure("f", "F", []).text == "Prevalence: no figure can be shown."


def test_rows_that_do_not_fit_their_series_are_refused() -> None:
    with pytest.raises(ValueError, match="figure f: a row has not 2 cells"):
        interval_figure("f", "F", [("a", [HIDDEN])], series=("x", "y"))


def test_estimators_stand_side_by_side_with_one_of_them_as_reference() -> None:
    one = Estimate(0.08, 0.06, 0.1)
    rows: list[tuple[str, list[Cell]]] = [("Apparent", [Estimate(0.12, 0.11, 0.13)]), ("Rogan-Gladen", [one])]
    figure = interval_figure("f", "F", rows, reference=("Rogan-Gladen", one))
    assert "Apparent 12.0% (11.0–13.0); Rogan-Gladen 8.0% (6.0–10.0)" in figure.text
    assert "Rogan-Gladen: 8.0%" in texts(figure)


# --- Trend -------------------------------------------------------------------------------------------------------------


def test_a_trend_breaks_where_a_period_is_hidden_or_left_out() -> None:
    months = ["2020-01", "2020-02", "2020-03", "2020-05", "2020-06", "2020-07", "2020-08"]
    cells: list[Cell] = [around(0.1, 0.02)] * 5 + [HIDDEN, around(0.1, 0.02)]
    figure = trend_figure("f", "F", months, {"Adjusted": cells})
    lines = [e for e in ET.fromstring(figure.svg).iter(f"{SVG}path") if e.attrib.get("stroke") == SERIES[0]]
    assert [e.attrib["d"].count("L") + 1 for e in lines] == [3, 2]  # and August alone is a marker
    assert "Gaps at 2 of 8 periods." in figure.text
    assert "hidden, or nothing recorded" in texts(figure)


def test_what_is_no_period_is_not_on_the_axis_but_in_the_text() -> None:
    figure = trend_figure("f", "F", ["2019", "2020", "(unknown)"], {"": [around(0.1, 0.02)] * 2 + [around(0.9, 0.02)]})
    assert figure.text.endswith("Not in the figure: (unknown).")
    assert "90" not in "".join(texts(figure))


@pytest.mark.parametrize("periods", [[], ["2020"], ["(unknown)"]])
def test_a_short_trend_is_drawn(periods: list[str]) -> None:
    ET.fromstring(trend_figure("f", "F", periods, {"": [HIDDEN] * len(periods)}).svg)


# --- Curves, distributions ---------------------------------------------------------------------------------------------


def test_curves_are_named_apart_and_cut_at_the_axes() -> None:
    curves = [Curve(name, [0.1, 0.5], [0.5, y]) for name, y in (("one", 0.5), ("two", 0.5), ("three", 0.501))]
    curves.append(Curve("leaves", [0.1, 0.3, 0.5], [0.5, float("nan"), -3.0]))
    figure = curves_figure("f", "F", curves, x_title="X", y_title="Y", y_limits=(0, 1))
    labels = {e.text: float(e.attrib["y"]) for e in ET.fromstring(figure.svg).iter(f"{SVG}text")}
    heights = sorted(labels[name] for name in ("one", "two", "three"))
    assert all(b - a >= 14.9 for a, b in zip(heights, heights[1:], strict=False))
    assert "leaves: 50% at 10%, 50% at 10%" in figure.text


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios() -> None:
    scale = Scale(0.001, 1.0, 0, 300, log=True)
    assert [scale(10.0**-k) for k in (3, 2, 1, 0)] == pytest.approx([0, 100, 200, 300])
    assert {0.001, 0.01, 0.1, 1.0} <= {round(tick, 9) for tick in scale.ticks()}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.0004), (-0.02, 0.1), (0, 987), (0.03, 0.07)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks()
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_no_curve_at_all_is_said() -> None:
    figure = curves_figure("f", "F", [Curve("a", [1.0], [None])], x_title="X", y_title="Y")
    assert figure.text == "Y over x: no figure can be shown."


def test_distributions_are_densities_whatever_the_bins() -> None:
    coarse = ("coarse", [0.0, 2.0, 4.0], [30, 10])
    fine = ("fine", [0.0, 1.0, 2.0, 4.0], [15, 15, 10])
    figure = distributions_figure("f", "F", [coarse, fine, ("none", None, None)], x_title="x")
    outlines = [e.attrib["d"] for e in ET.fromstring(figure.svg).iter(f"{SVG}path") if e.attrib["fill"] == "none"]
    heights = [{point.split()[1] for point in outline.strip("M").split("L")} for outline in outlines]
    assert heights[0] == heights[1]
    assert "Hidden: none." in figure.text
    assert "coarse: median about 1.3" in figure.text  # 20 of 40 are reached at 2 * 20 / 30


def test_reliability_names_the_worst_bin() -> None:
    figure = reliability_figure("f", "F", [(0.1, around(0.1, 0.05)), (0.5, around(0.7, 0.1)), (0.9, HIDDEN)])
    assert "farthest apart where 50.0% is predicted and 70.0% observed" in figure.text
    assert "(1 bin hidden)" in figure.text


# --- Leads -------------------------------------------------------------------------------------------------------------


def test_leads_stand_in_the_order_of_the_contract_with_their_territories() -> None:
    figure = importance_figure("f", "F", [around(0.1 * i, 0.01) for i in range(11)] + [HIDDEN])
    written = texts(figure)
    assert [text for text in written if text in LEADS] == list(LEADS)
    assert [written[written.index(lead) + 1] for lead in ("III", "aVL", "V1", "V3", "V6")] == [
        "inf",
        "lat",
        "sept",
        "ant",
        "lat",
    ]
    assert figure.text.startswith("Mean fall of the logit by lead, greatest first: V5 1.00 (0.99–1.01)")
    with pytest.raises(ValueError, match="11 cells for 12 leads"):
        importance_figure("f", "F", [HIDDEN] * 11)


def test_the_map_is_darker_where_the_lead_matters_more_and_strikes_out_what_is_hidden() -> None:
    row: list[Cell] = [0.1 * i - 0.2 for i in range(12)]
    figure = importance_map("f", "F", [("a", row), ("b", [HIDDEN] * 12), ("c", [9.999] * 12)])
    fills = [e.attrib["fill"] for e in ET.fromstring(figure.svg).iter(f"{SVG}rect")]
    light = [contrast("#000000", fill) for fill in fills[:12]]
    assert light == sorted(light, reverse=True)
    assert {"−.20", "0", ".90", "10", "hidden"} <= set(texts(figure))
    assert "Hidden: 1 row." in figure.text


def test_territories_are_bars_of_their_own_colour() -> None:
    cells: list[Cell] = [around(0.3, 0.1), around(0.1, 0.01), HIDDEN, around(0.5, 0.2)]
    figure = importance_figure("f", "F", cells, parts=TERRITORIES)
    assert [text for text in texts(figure) if text in TERRITORIES] == list(TERRITORIES)
    assert "×" in texts(figure)
    bars = [e.attrib["fill"] for e in ET.fromstring(figure.svg).iter(f"{SVG}rect")]
    assert len(set(bars)) == 3
    assert figure.text.startswith(
        "Mean fall of the logit by territory, greatest first: inferior 0.50 (0.30–0.70), septal"
    )
    with pytest.raises(ValueError, match="12 cells for 4 territories"):
        importance_figure("f", "F", [HIDDEN] * 12, parts=TERRITORIES)


def test_the_map_of_waves_has_the_wave_across_and_the_territory_down() -> None:
    values = [round(0.11 * n - 0.5, 2) for n in range(16)]
    figure = wave_figure("f", "F", [*values[:-1], HIDDEN])
    root = ET.fromstring(figure.svg)
    at = {e.text: (float(e.attrib["x"]), float(e.attrib["y"])) for e in root.iter(f"{SVG}text")}
    for part, value in zip(OPERATORS["wave"][:-1], values[:-1], strict=True):
        wave, wall = part.split("_")
        assert at[f"{'+' if value > 0 else '−'}{abs(value):.2f}"] == (at[wave][0], at[wall][1])
    fills = [e.attrib["fill"] for e in root.iter(f"{SVG}rect")]
    reddish = [int(fill[1:3], 16) > int(fill[5:7], 16) for fill in fills[:15]]
    assert reddish == [value > 0 for value in values[:15]]
    assert {"speaks for infarction", "speaks against it"} <= set(at)
    assert figure.text == (
        "Mean fall of the logit by wave and territory, greatest first: T lateral +1.04, T anterior +0.93, T septal +0.82; "
        "smallest P septal −0.50."
    )
    assert wave_figure("f", "F", [HIDDEN] * 16).text.endswith("hidden.")
    with pytest.raises(ValueError, match="4 cells for 16 waves of territories"):
        wave_figure("f", "F", [HIDDEN] * 4)


# --- Flow --------------------------------------------------------------------------------------------------------------


def test_the_flow_adds_up_box_by_box() -> None:
    shown = {step: int(count) for step, count in counts(flow_figure(FLOW, REASONS)).items() if count != "hidden"}
    out = sum(shown[step] for step in ("outside_period", "not_screened", "changed", "rejected"))
    assert shown["catalogued"] == out + shown["scored"]
    assert shown["scored"] == shown["duplicates"] + shown["repeats"] + shown["index"]
    assert shown["patients_catalogued"] == shown["patients_without_score"] + shown["patients"]
    assert shown["patients"] == shown["index"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scored": 19_000}, "catalogued is 21840, its parts together 20840"),
        ({"repeats": 6_000}, "scored is 20000, its parts together 19615"),
        ({"patients_without_score": 1_000}, "patients_catalogued is 13785, its parts together 14500"),
    ],
)
def test_a_flow_that_does_not_add_up_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"the flow does not add up: {message}"):
        flow_figure({**FLOW, **change}, REASONS)


def test_rounding_may_leave_a_few_but_exact_counts_not_one() -> None:
    flow_figure({**FLOW, "scored": 19_995}, REASONS)
    with pytest.raises(ValueError, match="does not add up"):
        flow_figure({**FLOW, "scored": 19_995}, REASONS, round_to=1)


def test_hidden_counts_stand_as_hidden_and_are_not_added() -> None:
    figure = flow_figure({**FLOW, "rejected": None, "scored": None}, REASONS)
    assert counts(figure)["rejected"] == counts(figure)["scored"] == "hidden"
    assert "hidden rejected" in figure.text


def test_reasons_are_those_that_were_found_most_frequent_first() -> None:
    steps = [step for step in counts(flow_figure(FLOW, REASONS)) if step.startswith("reason ")]
    assert steps == [f"reason {name}" for name in ("noise", "flat_lead", "missing_units", "missing_leads", "truncated")]


def test_without_repeats_ecgs_are_the_unit_and_patients_are_counted_beside() -> None:
    flow = {name: count for name, count in FLOW.items() if name != "repeats"}
    figure = flow_figure(
        {**flow, "index": 19_885, "patients_with_score": 13_500},
        Protected("rejected", (), (), (), (), (), None, given_up=True),
    )
    assert "Index ECGs" in texts(figure)
    assert counts(figure)["patients"] == "13500"


# --- Whatever the data -------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(-50, 50), st.sampled_from([0.0, 1.0, 1e-9, 1e7, float("nan"), float("inf")]))
CELLS = st.one_of(
    st.builds(
        lambda value, low, high: Estimate(value, value - low, value + high), NUMBERS, st.floats(0, 9), st.floats(0, 9)
    ),
    st.sampled_from([HIDDEN, NotEstimable("why"), None]),
)
NAMES = st.text(max_size=60)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NAMES, CELLS), max_size=6), st.lists(CELLS, min_size=12, max_size=12))
def test_no_data_break_a_figure(rows: list[tuple[str, Cell]], twelve: list[Cell]) -> None:
    years = [str(2000 + 2 * i) for i in range(len(rows))]
    values = [cell.value if isinstance(cell, Estimate) else None for _, cell in rows]
    xs = [0.1 * i for i in range(len(rows))]
    figures = [
        interval_figure("f", "F", [(name, [cell]) for name, cell in rows], ordered=True),
        interval_figure("f", "F", [(name, [cell, cell]) for name, cell in rows], series="ab", kind="number_interval"),
        trend_figure("f", "F", years, {"a": [cell for _, cell in rows]}, kind="number_interval"),
        importance_figure("f", "F", twelve),
        importance_map("f", "F", [(name, twelve) for name, _ in rows]),
        importance_figure("f", "F", twelve[:4], parts=TERRITORIES),
        wave_figure("f", "F", [*twelve, *twelve[:4]]),
        reliability_figure("f", "F", [(x, cell) for x, (_, cell) in zip(xs, rows, strict=True)]),
        curves_figure("f", "F", [Curve("a", xs, values)], x_title="X", y_title="Y", y_kind="number", log_x=True),
    ]
    for figure in figures:
        test_stays_inside_its_frame_and_holds_no_number_that_is_none(figure)
