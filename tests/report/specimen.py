"""A made-up report with every kind of block, long tables and hostile names, for the tests of how a report looks."""

from __future__ import annotations

import math
from typing import Any

from screening.contract import LEADS, TERRITORIES, WAVES
from screening.report.disclosure import Protected
from screening.report.document import (
    HIDDEN,
    Bullets,
    Cell,
    Column,
    Document,
    Estimate,
    Headline,
    NotEstimable,
    Paragraph,
    Remark,
    Section,
    Table,
)
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

SCRIPT = "<script>alert(1)</script>"
FORMULA = "=cmd|' /C calc'!A0"
LONG = "University Hospital of the Lower Rhineland and Northern Eifel, Department of Cardiology, Outpatient Clinic 3b"
NO_BREAK = "A" * 120
RIGHT_TO_LEFT = "مستشفى الملك"
OVERRIDE = "site \N{RIGHT-TO-LEFT OVERRIDE}gpj.exe"
EMOJI = "Clinic 🫀 & co"
SITES = (
    "Northern General",
    LONG,
    SCRIPT,
    FORMULA,
    RIGHT_TO_LEFT,
    EMOJI,
    OVERRIDE,
    NO_BREAK,
    '"><img src=x onerror=alert(2)>',
    "]]>&amp;",
)

FLOW: dict[str, int | None] = {
    "catalogued": 21_840,
    "outside_period": 1_205,
    "not_screened": 0,
    "changed": 0,
    "rejected": 635,
    "scored": 20_000,
    "duplicates": 115,
    "repeats": 6_385,
    "index": 13_500,
    "patients_catalogued": 13_785,
    "patients_without_score": 285,
}
REASONS = Protected(
    key="rejected records",
    rows=("all",),
    columns=("noise", "flat_lead", "missing_units", "missing_leads", "truncated"),
    counts=((270, 165, 110, 90, None),),
    row_totals=(635,),
    column_totals=(270, 165, 110, 90, None),
    total=635,
)
AGES = ("0-19", "20-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90+")
TOTAL = Estimate(0.0812, 0.0694, 0.0931)


def around(value: float, half: float) -> Estimate:
    """Return an estimate with a symmetric interval, cut at 0."""
    return Estimate(value, max(value - half, 0.0), value + half)


def specimen() -> Document:
    """Return the report."""
    return Document(
        title="Infarction and scar on the ECGs of Northern Archive",
        subtitle="13,500 patients, ECGs of 2012-01 to 2021-12, screened with msaic 3; made with `screening report`",
        notice="Retrospective research software. Not a medical device; no result is a diagnosis.",
        facts={"model": {"name": "msaic", "version": "3"}, "threshold": 0.41, "site": SCRIPT, "none": None},
        sections=[_summary(), _flow(), _prevalence(), _strata(), _time(), _flags(), _leads(), _drift(), _model()],
    )


def _summary() -> Section:
    return Section(
        "summary",
        "What was found",
        [
            Headline(
                [
                    (
                        "Adjusted prevalence of infarction or scar",
                        TOTAL,
                        "share_interval",
                        "About 8 of 100 patients, after correction for the errors of the classifier.",
                    ),
                    ("Flagged patients", Estimate(0.121, 0.1156, 0.1266), "share_interval", "Before any correction."),
                    (
                        "A flag is right in",
                        Estimate(0.56, 0.49, 0.63),
                        "share_interval",
                        "Positive predictive value at this prevalence.",
                    ),
                    ("Patients", 13_500, "count", "Each by the latest scored ECG."),
                    ("Of them with an earlier label", HIDDEN, "count", "Too few to be shown."),
                ]
            ),
            Remark(
                "Sensitivity and specificity are those of another archive. Unless they hold here, the figure is wrong; "
                "draw a local sample with `screening validate sample`."
            ),
            Remark("Every count is rounded to 5.", level="info"),
            Paragraph(
                "The corrected estimate takes away the flags that a healthy population would raise and adds the infarctions "
                "that the classifier misses. " * 2
            ),
            Bullets(
                ["Patients are counted once.", f"A site calls itself {SCRIPT}.", "Ages of 90 and over are one band."]
            ),
        ],
    )


def _flow() -> Section:
    rows: list[tuple[Cell, ...]] = [(name.replace("_", " "), HIDDEN if n is None else n) for name, n in FLOW.items()]
    columns = [Column("step", "Step"), Column("count", "Count", "count")]
    wide = [Column("site", "Site")] + [
        Column(f"reason_{i}", f"inconsistent limb leads {i}", "count") for i in range(18)
    ]
    wide += [Column("rate", "Rejection rate (95%)", "share_interval")]
    cells: list[tuple[Cell, ...]] = [
        (site, *(HIDDEN if (i + j) % 5 == 0 else 1000 * i + 35 * j for j in range(18)), around(0.03 + 0.01 * i, 0.01))
        for i, site in enumerate(SITES)
    ]
    return Section(
        "flow",
        "Flow of records and patients",
        [
            flow_figure(FLOW, REASONS),
            Table("flow", "Records and patients", columns, rows, ["Rounded to 5."]),
            Table("records_by_site", "Records by site and reason", wide, cells),
        ],
    )


def _prevalence() -> Section:
    estimators: list[tuple[str, Cell]] = [
        ("Apparent", Estimate(0.121, 0.1156, 0.1266)),
        ("Rogan-Gladen, bundle's counts", TOTAL),
        ("Rogan-Gladen, local validation", Estimate(0.0745, 0.0588, 0.0907)),
        ("Bayes, flat prior", Estimate(0.0809, 0.069, 0.0928)),
        ("Expectation maximisation", Estimate(0.0771, 0.0712, 0.083)),
        ("PACC", NotEstimable("no calibrated probabilities are stored")),
        ("EM by another model", Estimate(math.nan, 0.0, 0.1)),
    ]
    columns = [
        Column("estimator", "Estimator"),
        Column("prevalence", "Prevalence (95%)", "share_interval"),
        Column("difference", "Less the headline", "share", 1, signed=True),
    ]
    rows: list[tuple[Cell, ...]] = [
        (name, cell, cell.value - TOTAL.value if isinstance(cell, Estimate) else None) for name, cell in estimators
    ]
    return Section(
        "prevalence",
        "Prevalence",
        [
            interval_figure(
                "estimators",
                "Estimates of the prevalence side by side",
                [(n, [c]) for n, c in estimators],
                table="estimators",
            ),
            Table("estimators", "Estimators", columns, rows),
        ],
    )


def _strata() -> Section:
    by_age: list[tuple[str, list[Cell]]] = []
    for i, age in enumerate(AGES):
        value = 0.004 + 0.021 * i
        by_age.append(
            (age, [around(value * 0.8 + 0.04, 0.01), around(value, 0.012 + 0.002 * i)] if i else [HIDDEN, HIDDEN])
        )
    by_site: list[tuple[str, list[Cell]]] = [
        (
            site,
            [
                around(0.1 + 0.012 * i, 0.02),
                NotEstimable("nobody") if i == 3 else around(0.06 + 0.012 * i, 0.025 if i != 6 else 0.6),
            ],
        )
        for i, site in enumerate(SITES)
    ]
    columns = [
        Column("group", "Group"),
        Column("patients", "Patients", "count"),
        Column("apparent", "Apparent (95%)", "share_interval"),
        Column("adjusted", "Adjusted (95%)", "share_interval"),
    ]
    tables = [
        Table(
            f"by_{key}",
            f"By {key}",
            columns,
            [(name, HIDDEN if isinstance(cells[0], type(HIDDEN)) else 1_235, *cells) for name, cells in rows],
        )
        for key, rows in (("age", by_age), ("site", by_site))
    ]
    series = ("Apparent", "Adjusted")
    reference = ("All patients, adjusted", TOTAL)
    return Section(
        "strata",
        "In whom",
        [
            interval_figure(
                "by_age", "Prevalence by age", by_age, series=series, reference=reference, ordered=True, table="by_age"
            ),
            tables[0],
            interval_figure(
                "by_site", "Prevalence by site", by_site, series=series, reference=reference, table="by_site"
            ),
            tables[1],
        ],
    )


def _time() -> Section:
    months = [
        f"{year}-{month:02}" for year in range(2012, 2022) for month in range(1, 13) if (year, month) != (2015, 6)
    ]
    cells: list[Cell] = [
        HIDDEN if i in (3, 40, 41, 42, 90) else around(0.08 + 0.015 * math.sin(i / 9) + 0.0002 * i, 0.02)
        for i in range(len(months))
    ]
    years = [str(year) for year in range(2012, 2022)]
    yearly: list[Cell] = [HIDDEN if i == 4 else around(0.1 - 0.004 * i, 0.012) for i in range(10)]
    columns = [Column("month", "Month"), Column("adjusted", "Adjusted (95%)", "share_interval")]
    return Section(
        "time",
        "Since when",
        [
            trend_figure(
                "by_year", "Prevalence by year", years, {"Apparent": [around(0.15, 0.01)] * 10, "Adjusted": yearly}
            ),
            trend_figure("by_month", "Prevalence by month", months, {"Adjusted": cells}, table="by_month"),
            Table("by_month", "By month", columns, list(zip(months, cells, strict=True))),
        ],
    )


def _flags() -> Section:
    xs = [10 ** (-3 + 2.7 * i / 60) for i in range(61)]
    ppv = [0.8 * x / (0.8 * x + 0.07 * (1 - x)) for x in xs]
    npv = [0.93 * (1 - x) / (0.93 * (1 - x) + 0.2 * x) for x in xs]
    band = [[y * f for y in ppv] for f in (0.85, 1.1)]
    ts = [i / 100 for i in range(1, 60)]
    columns = [
        Column("prevalence", "At a prevalence of", "share"),
        Column("ppv", "PPV", "share"),
        Column("studies", "Studies per 1,000", "number", 1),
    ]
    rows: list[tuple[Cell, ...]] = [(x, y, 1000 * x) for x, y in zip(xs[::6], ppv[::6], strict=True)]
    return Section(
        "flags",
        "What a flag means",
        [
            curves_figure(
                "predictive_values",
                "Predictive values over prevalence",
                [Curve("PPV", xs, ppv, band[0], [min(y, 1.0) for y in band[1]]), Curve("NPV", xs, npv)],
                x_title="Prevalence",
                y_title="Share",
                log_x=True,
                y_limits=(0, 1),
                marks=[("estimated here", 0.0812), ("where it was trained", 0.24)],
                table="predictive_values",
            ),
            Table("predictive_values", "Predictive values", columns, rows),
            curves_figure(
                "decision",
                "Net benefit of acting on a flag",
                [
                    Curve("by score", ts, [0.07 - 0.05 * t for t in ts]),
                    Curve("examine all", ts, [0.081 - 0.919 * t / (1 - t) for t in ts]),
                    Curve("examine none", ts, [0.0] * len(ts)),
                ],
                x_title="Threshold probability",
                y_title="Net benefit",
                y_kind="number",
                y_limits=(-0.02, 0.1),
            ),
            curves_figure(
                "workload",
                "Flags per 1,000 patients by threshold",
                [
                    Curve("all flags", ts, [1000 * (1 - t) ** 4 for t in ts]),
                    Curve("true flags", ts, [None if 20 < i < 25 else 75 * (1 - t) for i, t in enumerate(ts)]),
                ],
                x_title="Threshold",
                y_title="Per 1,000",
                y_kind="number",
                marks=[("in use", 0.41)],
            ),
        ],
    )


def _leads() -> Section:
    waves: list[Cell] = [HIDDEN if n == 5 else round(0.4 * math.sin(n), 2) for n in range(16)]
    values = [0.31, 0.22, 0.12, 0.05, 0.09, 0.11, 0.34, 0.71, 0.52, 0.28, 0.2, -0.03]
    return Section(
        "leads",
        "What drove the flags",
        [
            importance_figure(
                "territories",
                "Importance of territories over flagged patients",
                [Estimate(0.31, 0.2, 0.42), HIDDEN, Estimate(-0.1, -0.2, 0.0), Estimate(0.7, 0.6, 0.8)],
                parts=TERRITORIES,
            ),
            wave_figure("waves", "Importance of waves by territory", waves, table="waves"),
            Table(
                "waves",
                "Importance of waves by territory",
                [Column("territory", "Territory"), *(Column(w.lower(), w, "number", 2, signed=True) for w in WAVES)],
                [(wall, *waves[at::4]) for at, wall in enumerate(TERRITORIES)],
            ),
            importance_figure(
                "leads",
                "Lead importance over flagged patients",
                [Estimate(v, v - 0.04, v + 0.04) for v in values],
                table="leads",
            ),
            importance_map(
                "leads_by_site",
                "Lead importance by site",
                [
                    (site, [HIDDEN] * 12 if i == 2 else [v * (0.6 + 0.08 * i) for v in values])
                    for i, site in enumerate(SITES[:6])
                ],
                table="leads",
            ),
            Table(
                "leads",
                "Lead importance",
                [Column("lead", "Lead"), Column("fall", "Fall of the logit", "number_interval", 2)],
                [(lead, Estimate(v, v - 0.04, v + 0.04)) for lead, v in zip(LEADS, values, strict=True)],
            ),
        ],
    )


def _drift() -> Section:
    edges = [-6 + 0.5 * i for i in range(21)]
    bell = [round(1000 * math.exp(-((e + 3) ** 2) / 3)) + 5 for e in edges[:-1]]
    here = [round(800 * math.exp(-((e + 2.3) ** 2) / 4)) + 15 for e in edges[:-1]]
    return Section(
        "drift",
        "Does the archive look like the training data?",
        [
            distributions_figure(
                "scores",
                "Scores here and in the reference",
                [("model's reference", edges, bell), ("this archive", edges, here), ("previous run", None, None)],
                x_title="log-odds of the calibrated probability",
            ),
            reliability_figure(
                "reliability",
                "Calibration",
                [(0.05 + 0.1 * i, HIDDEN if i == 7 else around(0.04 + 0.1 * i, 0.05)) for i in range(10)],
            ),
        ],
    )


def _model() -> Section:
    values: list[tuple[Cell, ...]] = [
        ("Bundle (SHA-256)", "9f" * 32),
        ("Threshold", "0.4100"),
        ("Runs", ", ".join(["ce66c675b564a718"] * 4)),
        ("Empty", ""),
    ]
    many: list[tuple[Cell, ...]] = [
        (site, cell)
        for site, cell in zip(
            SITES, ["+1", "-1", "@SUM(1)", "\tx", "\rx", "plain", "a,b", 'a"b', "a\nb", "nul\x00"], strict=True
        )
    ]
    extra: Any = [
        (0, 0.0, 0.0001, 0.99999, -0.0213),
        (1_234_567, 1.0, 0.5, 0.0, 12_345.678),
        (HIDDEN, None, NotEstimable("Se + Sp is not above 1"), HIDDEN, math.inf),
    ]
    return Section(
        "model",
        "The classifier",
        [
            Table("model", "Which model", [Column("item", "Item"), Column("value", "")], values),
            Table("hostile", "What sites are called", [Column("site", "Site"), Column("text", "Text")], many),
            Table(
                "figures",
                "All kinds of figures",
                [
                    Column("count", "Count", "count"),
                    Column("a", "Share", "share"),
                    Column("b", "Share", "share"),
                    Column("c", "Share", "share"),
                    Column("d", "Number", "number", 2),
                ],
                extra,
            ),
            Table("empty", "Nothing in it", [Column("a", "A"), Column("b", "B", "count")], []),
        ],
    )
