"""How a cell is written for a reader: one notation for tables, figures and alt texts."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real

from screening.report.document import Cell, Estimate, Hidden, Kind, NotEstimable

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
HIDDEN_WORD, NOT_ESTIMABLE_WORD = "hidden", "not estimable"

_NOT_TEXT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\N{LEFT-TO-RIGHT EMBEDDING}-\N{RIGHT-TO-LEFT OVERRIDE}]"
)


def clean(text: str) -> str:
    """Return ``text`` with what XML forbids, and what would turn the text around it, as replacement characters."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def settled(cell: Cell) -> Cell:
    """Return ``cell`` in plain Python types; what is not finite becomes `NotEstimable`."""
    if cell is None or isinstance(cell, (bool, str, Hidden, NotEstimable)):
        return ("yes" if cell else "no") if isinstance(cell, bool) else cell
    if isinstance(cell, Estimate):
        figures = [float(cell.value), float(cell.low), float(cell.high)]
        return Estimate(*figures) if all(map(math.isfinite, figures)) else NotEstimable("not a finite figure")
    number: object = cell  # or numpy's, which its stubs do not know as a Real
    if isinstance(number, Integral):
        return int(number)
    if isinstance(number, Real):
        return float(number) if math.isfinite(number) else NotEstimable("not a finite figure")
    raise TypeError(f"a cell cannot hold {type(cell).__name__}")


def figure(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """Return a number with thousands separators and a true minus sign; what only rounds to zero is "<0.1".

    A difference that rounds to zero is "0.0", while zero itself is "0".

    >>> figure(12345.678), figure(-0.25, 2), figure(0.0004), figure(0), figure(0.3, signed=True)
    ('12,345.7', '−0.25', '<0.1', '0', '+0.3')
    """
    if value == 0:
        return "0"
    rounded = f"{abs(value):,.{digits}f}"
    if not float(rounded.replace(",", "")):
        return rounded if signed or value < 0 else f"<{10.0**-digits:.{digits}f}"
    return (MINUS if value < 0 else "+" if signed else "") + rounded


def share(value: float, digits: int = 1, *, signed: bool = False, unit: str = "%") -> str:
    """Return a fraction as a percentage; near 100% it does not round up to it.

    >>> share(0.1234), share(0.99999), share(1.0), share(0.00001), share(0.0)
    ('12.3%', '>99.9%', '100%', '<0.1%', '0%')
    """
    if value == 1:
        return f"{'+' if signed else ''}100{unit}"
    if not signed and value < 1 and round(value * 100, digits) >= 100:
        return f">{100 - 10.0**-digits:.{digits}f}{unit}"
    return figure(value * 100, digits, signed=signed) + unit


def interval(estimate: Estimate, kind: Kind, digits: int = 1, *, signed: bool = False) -> tuple[str, str]:
    """Return an estimate and its interval as two texts.

    >>> interval(Estimate(0.123, 0.11, 0.136), "share_interval")
    ('12.3%', '(11.0–13.6)')
    >>> interval(Estimate(-0.01, -0.02, 0.005), "share_interval", signed=True)
    ('−1.0%', '(−2.0 to +0.5)')
    """
    if kind.startswith("share"):
        value = share(estimate.value, digits, signed=signed)
        low, high = (share(bound, digits, signed=signed, unit="") for bound in (estimate.low, estimate.high))
    else:
        value, low, high = (figure(one, digits, signed=signed) for one in (estimate.value, estimate.low, estimate.high))
    between = f" to {high}" if signed or estimate.low < 0 else f"{DASH}{high}"
    return value, f"({low}{between})"


def written(cell: Cell, kind: Kind = "text", digits: int = 1, *, signed: bool = False) -> str:
    """Return a cell as plain text, e.g. for an alt text."""
    cell = settled(cell)
    if cell is None:
        return DASH
    if isinstance(cell, str):
        return clean(cell)
    if isinstance(cell, Hidden):
        return HIDDEN_WORD
    if isinstance(cell, NotEstimable):
        return NOT_ESTIMABLE_WORD
    if isinstance(cell, Estimate):
        return " ".join(interval(cell, kind, digits, signed=signed))
    if kind.startswith("share"):
        return share(cell, digits, signed=signed)
    return figure(cell, 0 if isinstance(cell, int) else digits, signed=signed)
