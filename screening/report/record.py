"""One record told: its row of results with everything that explains it, as text, as JSON values, and as a private page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from screening.attribution.territories import TERRITORY_OF
from screening.contract import LEADS, NOTICE, TERRITORIES, WAVES, Status
from screening.recording import Recording
from screening.report.amplitudes import COLUMNS, Measured, amplitude_rows, amplitude_words
from screening.report.explained import TITLES, Explanation, Parts, explanation_of, how_to_read, wave_map
from screening.report.notation import figure
from screening.report.patient import ModelBehind, describe, draw, inline, pages

BAR, WIDE = 30, 110


@dataclass(frozen=True)
class Record:
    """What is known of one record."""

    row: Mapping[str, Any]
    model: ModelBehind
    recording: Recording | str  # or why there is none
    measured: Measured
    remarks: list[str]

    @property
    def explanation(self) -> Explanation:
        """All that the row says of why."""
        return explanation_of(self.row, self.measured.windows)


# --- Text ------------------------------------------------------------------------------------------------------------


def text_of(record: Record) -> Iterator[str]:
    """Yield the lines for a terminal: text of the archive holds nothing there that moves the cursor."""
    said = describe(record.row, record.model.threshold)
    width = max(len(term) for term, _ in said)
    for term, words in said:
        yield f"{term:<{width}}  {_one_line(words)}"
    parts = record.explanation.parts
    if parts:
        yield ""
        yield "Importance in logits, with intervals of ±1.96 standard errors; # speaks for infarction, - against it"
    for operator, of in parts.items():
        yield ""
        yield f"{TITLES[operator]} (operator '{operator}', {of.donors} donors{_shared_words(of)})"
        yield from _wave_lines(of) if operator == "wave" else _bar_lines(of)
    if record.measured.amplitudes is not None:
        yield ""
        yield from textwrap.wrap(amplitude_words(record.measured.amplitudes), WIDE)
        rows = [("", *COLUMNS), *amplitude_rows(record.measured.amplitudes)]
        yield from (
            "  " + f"{row[0]:<4}" + "".join(f"{cell:>{len(COLUMNS[i]) + 3}}" for i, cell in enumerate(row[1:]))
            for row in rows
        )
    for sentence in how_to_read(parts) if parts else ():
        yield ""
        yield from textwrap.wrap(sentence, WIDE)
    for remark in record.remarks:
        yield ""
        yield remark
    yield ""
    yield NOTICE


def _shared_words(parts: Parts) -> str:
    return f", standard error {parts.se.mean():.2f}, the mean over them" if parts.shared else ""


def _bar_lines(parts: Parts) -> Iterator[str]:
    largest = max(float(abs(parts.mean).max()), 1e-9)
    width = max(len(name) for name in parts.names)
    said = [
        figure(float(parts.mean[at]), 2, signed=True) if parts.shared else parts.words(at)
        for at in range(len(parts.names))
    ]
    room = max(len(words) for words in said)
    for name, words, value in zip(parts.names, said, parts.mean.tolist(), strict=True):
        bar = ("#" if value > 0 else "-") * round(BAR * abs(value) / largest)
        yield f"  {name:<{width}}  {words:>{room}}  {bar}".rstrip()


def _wave_lines(parts: Parts) -> Iterator[str]:
    by_wave = wave_map(parts)
    yield f"  {'':<8}" + "".join(f"{wave:>8}" for wave in WAVES)
    for at, wall in enumerate(TERRITORIES):
        yield f"  {wall:<8}" + "".join(f"{figure(float(value), 2, signed=True):>8}" for value in by_wave[:, at])


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


# --- JSON ------------------------------------------------------------------------------------------------------------


def facts_of(record: Record) -> dict[str, Any]:
    """Return the row and what is derived from it, as JSON values."""
    row = dict(record.row)
    if row["acquired_at"] is not None:
        row["acquired_at"] = row["acquired_at"].isoformat()
    explanation = record.explanation
    facts: dict[str, Any] = {
        "notice": NOTICE,
        "threshold": record.model.threshold,
        "row": {key: _plain(value) for key, value in row.items()},
        "remarks": record.remarks,
    }
    if explanation.parts:
        facts["importance"] = {operator: _parts_facts(of) for operator, of in explanation.parts.items()}
        facts["leading_territory"] = explanation.leading_territory or None
        facts["leading_leads"] = explanation.leading_leads
        facts["findings"] = explanation.findings
        facts["how_to_read"] = how_to_read(explanation.parts)
    if row["status"] == Status.SCORED:
        facts["amplitudes"] = _amplitude_facts(record.measured)
    return facts


def _parts_facts(of: Parts) -> dict[str, Any]:
    named = zip(of.names, of.mean.tolist(), of.se.tolist(), of.half.tolist(), strict=True)
    return {
        "donors": of.donors,
        "standard_error": "mean over the parts" if of.shared else "of each part",
        "parts": {name: {"mean": m, "se": se, "low": m - half, "high": m + half} for name, m, se, half in named},
    }


def _amplitude_facts(of: Measured) -> dict[str, Any] | None:
    found = of.amplitudes
    if found is None:
        return None
    names = ("q_ms", "q_mV", "r_ms", "r_mV", "s_mV", "qs", "t_mV")
    return {
        "beats": int(found.beats),
        "rate_bpm": _plain(float(found.rate_bpm)),
        "qrs_ms": _plain(float(found.qrs_ms)),
        "leads": {
            lead: {name: _plain(getattr(found, name)[at].item()) for name in names}
            | {"j_mV": _plain(float(found.st_mV[at, 0])), "j60_mV": _plain(float(found.st_mV[at, 1]))}
            for at, lead in enumerate(LEADS)
        },
    }


def _plain(value: Any) -> Any:
    """Return a value with what JSON has no word for as None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- Page ------------------------------------------------------------------------------------------------------------


def page_of(record: Record) -> bytes:
    """Return a private page of HTML with the record's facts, its ECG and the tables behind it."""
    row, recording, threshold = record.row, record.recording, record.model.threshold
    drawn = None
    if not isinstance(recording, str):
        drawn = inline(draw(row, recording, threshold, windows=record.measured.windows, form="svg"))
    entry = {
        "anchor": "record",
        "record_id": row["record_id"],
        "said": describe(row, threshold),
        "svg": drawn,
        "lost": recording if isinstance(recording, str) else "",
    }
    parts = record.explanation.parts
    amplitudes = record.measured.amplitudes
    page = pages().get_template("explain.html")
    return page.render(
        notice=NOTICE,
        remarks=record.remarks,
        entry=entry,
        importances=[_table(of) for of in parts.values()],
        amplitudes=None if amplitudes is None else (amplitude_words(amplitudes), list(amplitude_rows(amplitudes))),
        amplitude_columns=COLUMNS,
        how_to_read=how_to_read(parts) if parts else (),
    ).encode()


def _table(of: Parts) -> dict[str, Any]:
    """Return a table of importances: its title, what stands below it, heads and rows."""
    under = f"Operator '{of.operator}', {of.donors} donors{_shared_words(of)}."
    if of.operator == "wave":
        by_wave = wave_map(of)
        rows = [
            (wall, *(figure(float(v), 2, signed=True) for v in by_wave[:, at])) for at, wall in enumerate(TERRITORIES)
        ]
        return {"title": TITLES["wave"], "under": under, "heads": ("Territory", *WAVES), "rows": rows}
    of_leads = of.operator in ("lead", "independent")
    heads = ["Lead" if of_leads else "Part", "Importance, logits (95%)", *(["Territory"] if of_leads else [])]
    rows = [
        (name, of.words(at), *([TERRITORY_OF[name] or "none"] if of_leads else [])) for at, name in enumerate(of.names)
    ]
    return {"title": TITLES[of.operator], "under": under, "heads": heads, "rows": rows}
