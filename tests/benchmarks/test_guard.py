"""No stage has become slower than it was, beside work that has not changed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.guard import STORED, TOLERANCE, ratios


def test_no_stage_has_become_slower(ptbxl: Path) -> None:
    stored = json.loads(STORED.read_text())
    found = ratios(ptbxl)
    assert found.keys() == stored.keys()
    if any(found[name] < TOLERANCE * stored[name] for name in stored):  # once more: others use this machine, too
        found = {name: max(ratio, found[name]) for name, ratio in ratios(ptbxl).items()}
    slower = {name: (ratio, stored[name]) for name, ratio in found.items() if ratio < TOLERANCE * stored[name]}
    assert slower == {}, (
        "ratios now and stored; what was meant to be slower is stored by python -m tests.benchmarks.guard"
    )
