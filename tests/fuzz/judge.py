"""What every outcome of an input has to be, whichever target made it."""

from __future__ import annotations

import re

from screening.recording import Recording, Rejected

CUT = b"\xff\x00--file--\x00\xff"
"""Between the files of one input."""
_PATH = re.compile(r"/|\\|\.(hea|dat|mat|csv)\b")


def judged(outcome: Recording | Rejected) -> str:
    """Return what became of a record, in a word; AssertionError where that breaks a promise."""
    if isinstance(outcome, Recording):
        if outcome.signal_mV.nbytes > 2**28:
            raise AssertionError(f"{outcome.signal_mV.nbytes} bytes of samples")
        return "read"
    tell(outcome.detail)
    if "the decoder failed" in outcome.detail:
        # Caught by the last line of defence: a row with a reason, and yet a gap in the checks before.
        raise AssertionError(outcome.detail)
    return str(outcome.reason)


def tell(detail: str) -> None:
    """Raise AssertionError where a message says nothing, or holds a path."""
    if not detail.strip() or _PATH.search(detail.replace("/mV", "")):
        raise AssertionError(f"a message that says nothing, or a path: {detail!r}")
