"""The short form of ``python -m tests.faults``: one run, in which a driver, a scorer and a decoder are killed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.place import Place, compare, results_of, run_in
from tests.faults.rounds import Round


@pytest.mark.timeout(600)
def test_killed_drivers_scorers_and_decoders_cost_no_record_and_no_byte(
    place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    apart = replace(place, module="tests.faults.apart")
    one = Round(apart, tmp_path / "round", random.Random(2), start_s=10.0, early=0.0, late_s=0.3)
    left = one.undergo(["actor", "decoder", "driver"])
    assert not left, "the run was over before the faults were"
    assert one.befallen[-1].resumes == 1
    found = one.check(undisturbed)
    assert (found.lost, found.duplicates, found.wrong) == (0, 0, ())


def test_the_comparison_finds_a_byte_a_lost_record_and_what_was_left_behind(
    place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    import shutil

    runs = tmp_path / "runs"
    shutil.copytree(undisturbed, runs)
    assert compare(place, runs, undisturbed, sample=0).wrong == ()
    run = run_in(runs)
    parts = sorted((run / "results").glob("*.parquet"))
    assert len(parts) == 15 == sum(name.split("/")[1] == "results" for name in results_of(runs))
    parts[0].write_bytes(parts[1].read_bytes())
    parts[2].unlink()
    (run / "lease").mkdir()
    (run / "lease" / "epoch-000001.json").write_text("{}")
    (run / "results" / ".part-00002.parquet.abc.tmp").write_bytes(b"")
    found = compare(place, runs, undisturbed, sample=0)
    assert (found.lost, found.duplicates) == (16, 8)
    wrong = "\n".join(found.wrong)
    for what in (
        "part-00000.parquet has other bytes",
        "part-00002.parquet is missing",
        "epoch-000001.json was left",
        ".tmp was left",
    ):
        assert what in wrong
    assert "screening verify" in wrong
