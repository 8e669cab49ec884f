"""The flow of records and patients through a report, as STARD draws it: boxes with counts, exclusions beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from screening.report.disclosure import Protected
from screening.report.document import Figure
from screening.report.notation import HIDDEN_WORD, figure
from screening.report.svg import FAINT, INK, PAPER, QUIET, RULE, SMALL, TEXT, WIDTH, Drawing, shortened, width_of

_RECORDS = {
    "outside_period": "outside the period",
    "not_screened": "not screened yet",
    "changed": "changed since screened",
    "rejected": "rejected",
}
_SCORED = {"duplicates": "the same recording again", "repeats": "further ECGs of a patient"}
_MAIN, _GAP = 196.0, 34.0
_SIDE = WIDTH - _MAIN - _GAP
_LINE, _PAD = 17.0, 10.0


@dataclass(frozen=True)
class _Line:
    step: str
    words: str
    count: int | None
    inner: bool = False
    about: int | None = None  # in place of a hidden count

    @property
    def shown(self) -> str:
        """The count as it is written."""
        return _say(self.count, self.about)


def flow_figure(
    flow: Mapping[str, int | None],
    reasons: Protected | None = None,
    *,
    about: Mapping[str, int] | None = None,
    round_to: int = 5,
) -> Figure:
    """Return the flow diagram of a report.

    Parameters
    ----------
    flow
        Protected counts by the names of `tallies.Tallies.flow`; None is hidden.
    reasons
        Rejected records by reason: a table of one row.
    about
        Coarse numbers in place of hidden ones.
    round_to
        What the counts are multiples of, so that parts may miss their whole by less than that each.

    Raises
    ------
    ValueError
        Parts and whole that are all shown do not add up, beyond rounding.
    """
    about = about or {}
    why = _reasons(reasons)
    first = [_Line(name, words, flow[name]) for name, words in _RECORDS.items() if name in flow]
    second = [_Line(name, words, flow[name]) for name, words in _SCORED.items() if name in flow]
    unit = "Index ECGs, one a patient" if "repeats" in flow else "Index ECGs"
    _check("catalogued", flow["catalogued"], [*first, _Line("scored", "", flow["scored"])], round_to)
    _check("scored", flow["scored"], [*second, _Line("index", "", flow["index"])], round_to)
    _check("rejected", flow.get("rejected"), why, round_to)
    drawing = Drawing()
    side = [line for one in first for line in (one, *(why if one.step == "rejected" else ()))]
    y = _stage(
        drawing,
        1,
        _Line("catalogued", "Records in the catalog", flow["catalogued"], about=about.get("catalogued")),
        side,
    )
    y = _stage(drawing, y, _Line("scored", "Records scored", flow["scored"]), second)
    y = _box(drawing, 0, y, _MAIN, [_Line("index", unit, flow["index"])], strong=True)
    if "patients_catalogued" in flow:
        without = _Line("patients_without_score", "without a scored ECG", flow["patients_without_score"])
        y += 24
        everybody = _Line(
            "patients_catalogued",
            "Patients in the period",
            flow["patients_catalogued"],
            about=about.get("patients_catalogued"),
        )
        y = _stage(drawing, y, everybody, [without])
        last = _Line("patients", "Patients analysed", flow.get("patients_with_score", flow["index"]))
        _check("patients_catalogued", flow["patients_catalogued"], [without, last], round_to)
        y = _box(drawing, 0, y, _MAIN, [last], strong=True)
    if round_to > 1:
        note = f"Counts are rounded to {round_to} one by one, so parts may miss their whole by a few."
        drawing.text(0, y + 20, note, size=SMALL, fill=QUIET)
        y += 24
    title, text = "From records in the catalog to patients", _text(flow, about, first, second, why, unit)
    return Figure("flow", title, drawing.svg(y + 4, title, text), text, "flow")


def _reasons(reasons: Protected | None) -> list[_Line]:
    if reasons is None or not reasons.rows:
        return []
    counts = {name: reasons.shown(reasons.rows[0], name) for name in reasons.columns}
    found = sorted((name for name in counts if counts[name] != 0), key=lambda name: (-(counts[name] or 0), name))
    return [_Line(f"reason {name}", name.replace("_", " "), counts[name], inner=True) for name in found]


def _check(whole: str, count: int | None, parts: Sequence[_Line], round_to: int) -> None:
    """Refuse a diagram that does not add up; a count just above the threshold is rounded up, by less than ``round_to``."""
    counts = [part.count for part in parts]
    if count is None or not counts or None in counts:
        return
    total = sum(one for one in counts if one is not None)
    slack = round_to * (len(counts) + 1) if round_to > 1 else 0
    if abs(total - count) > slack:
        raise ValueError(f"the flow does not add up: {whole} is {count}, its parts together {total}")


def _stage(drawing: Drawing, y: float, main: _Line, side: Sequence[_Line]) -> float:
    """Draw a box, what leaves to its right, and the arrow down; return where the next box begins."""
    bottom = _box(drawing, 0, y, _MAIN, [main])
    if not side:
        drawing.line(_MAIN / 2, bottom, _MAIN / 2, bottom + 22, stroke=QUIET)
        _head(drawing, _MAIN / 2, bottom + 22, down=True)
        return bottom + 22
    side_y = bottom + 10
    side_bottom = _box(drawing, _MAIN + _GAP, side_y, _SIDE, side, quiet=True)
    middle = side_y + (side_bottom - side_y) / 2
    drawing.line(_MAIN / 2, bottom, _MAIN / 2, side_bottom + 12, stroke=QUIET)
    drawing.line(_MAIN / 2, middle, _MAIN + _GAP, middle, stroke=QUIET)
    _head(drawing, _MAIN + _GAP, middle, down=False)
    _head(drawing, _MAIN / 2, side_bottom + 12, down=True)
    return side_bottom + 12


def _head(drawing: Drawing, x: float, y: float, *, down: bool) -> None:
    points = [(x - 4, y - 6), (x, y), (x + 4, y - 6)] if down else [(x - 6, y - 4), (x, y), (x - 6, y + 4)]
    drawing.path(points, stroke=QUIET, width=1.2)


def _box(
    drawing: Drawing,
    x: float,
    y: float,
    width: float,
    lines: Sequence[_Line],
    *,
    quiet: bool = False,
    strong: bool = False,
) -> float:
    """Draw a box of lines, words at the left and counts at the right; return its lower edge."""
    height = _LINE * len(lines) * (1 if quiet else 2.1) + _PAD * 1.3
    drawing.add(
        "rect",
        x=x + 0.5,
        y=y,
        width=width - 1,
        height=height,
        rx=3,
        fill=FAINT if strong else PAPER,
        stroke=QUIET if strong else RULE,
    )
    base = y + _PAD * 0.65
    for line in lines:
        count = line.shown
        mark = {"data_step": line.step, "data_count": "hidden" if line.count is None else str(line.count)}
        if quiet:
            base += _LINE
            size, indent = (SMALL, 12.0) if line.inner else (TEXT, 0.0)
            room = width - 2 * _PAD - indent - width_of(count, size) - 8
            fill = QUIET if line.inner or line.count is None else INK
            drawing.text(x + _PAD + indent, base - 4, shortened(line.words, room, size), size=size, fill=fill)
            drawing.text(x + width - _PAD, base - 4, count, size=size, fill=fill, anchor="end", **mark)
        else:
            drawing.text(x + width / 2, base + 13, line.words, size=TEXT, anchor="middle")
            drawing.text(x + width / 2, base + 31, count, size=15, anchor="middle", font_weight="600", **mark)
            base += _LINE * 2.1
    return y + height


def _text(
    flow: Mapping[str, int | None],
    about: Mapping[str, int],
    first: Sequence[_Line],
    second: Sequence[_Line],
    why: Sequence[_Line],
    unit: str,
) -> str:
    def say(name: str) -> str:
        return _say(flow[name], about.get(name))

    def listed(lines: Sequence[_Line]) -> str:
        return ", ".join(f"{line.shown} {line.words}" for line in lines if line.count != 0)

    parts = [f"{say('catalogued')} records in the catalog"]
    if listed(first):
        parts[0] += f", of which {listed(first)}"
    if why:
        parts.append("Rejected for: " + ", ".join(f"{line.words} {line.shown}" for line in why))
    parts.append(f"{say('scored')} records scored" + (f", of which {listed(second)}" if listed(second) else ""))
    parts.append(f"{unit}: {say('index')}")
    if "patients_catalogued" in flow:
        parts.append(
            f"{say('patients_catalogued')} patients in the period, {say('patients_without_score')} of them "
            "without a scored ECG"
        )
    return ". ".join(parts) + "."


def _say(count: int | None, about: int | None = None) -> str:
    if count is not None:
        return figure(count, 0)
    return HIDDEN_WORD if about is None else f"about {figure(about, 0)}"
