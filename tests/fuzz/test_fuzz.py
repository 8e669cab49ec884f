"""The short form of `python -m tests.fuzz`: bytes without any form, and some thousand changed files."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.engine import run
from tests.fuzz.guard import Guard
from tests.fuzz.targets import Target, mutated, targets

TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(max_examples=60, deadline=5_000, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=3000), seed=st.integers(0, 2**32))
def test_any_bytes_have_an_outcome(target: Target, data: bytes, seed: int) -> None:
    assert target.run(data)
    draw = np.random.default_rng(seed)
    assert target.run(mutated(target.seeds[seed % len(target.seeds)], data, draw))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_the_fuzzer_begins_from_is_read(target: Target) -> None:
    read = {"read", "facts", "parsed", "rows", "label rule", "column mapping", "taken"}
    assert {target.run(seed) for seed in target.seeds} & read


def test_what_a_target_opens_is_heard_though_it_catches_everything() -> None:
    guard = Guard()
    with pytest.raises(AssertionError, match="^open '/etc/hostname'$"), guard, suppress(AssertionError):
        open("/etc/hostname")  # noqa: SIM115
    with guard:  # and forgotten
        pass


def test_some_thousand_changed_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found, died = run([target.name for target in TARGETS], 6_000, 11, tmp_path)
    assert died == []
    assert [what for tally in found.values() for what, _ in tally.broken] == []
    assert sum(tally.inputs for tally in found.values()) >= 5_900
    assert max(tally.peak_mb for tally in found.values()) < 1024
