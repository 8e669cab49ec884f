"""Local storage that is full, closed, gone or changed under a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.cli import main
from screening.run.pipeline import Progress, RunOutcome, screen
from screening.run.read import iter_results
from screening.settings import RunSettings, load_settings
from screening.storage import Folder
from tests.faults.place import Place, compare, results_of, run_in

SETTINGS = {"attribution": "all", "donors": 8, "operators": "lead", "batch_size": 8, "shard_records": 8}

IN_A_NAMESPACE = """
set -e
mkdir -p "$RUNS"
mount -t tmpfs -o size="$SIZE" tmpfs "$RUNS"
mount --bind "$RUNS" "$RUNS"
mount -o remount,bind,ro "$RUNS"
code=0; "$@" > closed.out 2> closed.err || code=$?; echo closed $code
mount -o remount,bind,rw "$RUNS"
code=0; "$@" > full.out 2> full.err || code=$?; echo full $code
echo parts $(ls "$RUNS"/*/results | wc -l)
umount "$RUNS"
mount -o remount,size=1g "$RUNS"
code=0; "$@" > again.out 2> again.err || code=$?; echo again $code
cp -a "$RUNS" "$COPY"
"""


def may_mount() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not may_mount(), reason="no namespaces on this machine")
def test_a_closed_folder_and_a_full_disk_end_a_run_clearly_and_it_resumes(
    place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    runs, copy = tmp_path / "runs", tmp_path / "copy"
    sizes = [path.stat().st_size for path in undisturbed.rglob("*") if path.is_file()]
    results = sum(path.stat().st_size for path in (run_in(undisturbed) / "results").iterdir())
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", IN_A_NAMESPACE, "sh", *place.command(runs)],
        env={**place.env, "RUNS": str(runs), "COPY": str(copy), "SIZE": str(sum(sizes) - results // 2)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.*")}
    assert (said["closed"], said["full"], said["again"]) == ("3", "3", "0"), texts
    assert f"{runs} cannot be written to (Read-only file system)" in texts["closed.err"]
    assert "start the same command again once storage answers" in texts["closed.err"]
    unfinished = json.loads(texts["full.out"])["unfinished"]
    assert all("cannot be written to (No space left on device)" in why for why in unfinished)
    assert unfinished
    assert 0 < int(said["parts"]) < 15
    assert not [line for text in texts.values() for line in text.splitlines() if "Traceback" in line]
    found = compare(place, copy, undisturbed, sample=0)
    assert (found.lost, found.duplicates, found.wrong) == (0, 0, ())


# --- The archive ------------------------------------------------------------------------------------------------------


def screened(place: Place, runs: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> RunOutcome:
    settings = load_settings(RunSettings, place.folder / "settings.yaml", SETTINGS | {"storage_attempts": 2})
    return screen(
        str(place.folder / "catalog"),
        str(runs),
        model_path=str(place.folder / "bundle"),
        settings=settings,
        on_progress=on_progress,
    )


@pytest.mark.long
@pytest.mark.usefixtures("ray_here")
def test_an_archive_that_vanishes_half_way_leaves_shards_that_are_finished_when_it_is_back(
    place: Place,
    undisturbed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, away, impatient = place.folder / "archive", place.folder / "away", tmp_path / "settings.yaml"
    impatient.write_text((place.folder / "settings.yaml").read_text() + "storage_attempts: 1\n")

    def vanish(_: Progress) -> None:
        if archive.exists():
            archive.rename(away)

    try:
        left = screened(place, tmp_path / "runs", vanish)
        assert not left.published
        assert 0 < left.counts["scored"] + left.counts["rejected"] < left.records
        assert {why.split(": ", 1)[1] for why in left.unfinished} == {"the archive's folder is gone or empty, 2 times"}
        # And so says the command, which resumes it.
        monkeypatch.setenv("SCREENING_STATE", str(tmp_path / "state"))
        with pytest.raises(SystemExit) as ended:
            main(place.command(tmp_path / "runs", "--config", str(impatient))[3:])
        assert ended.value.code == 3
        assert "the archive's folder is gone or empty" in capsys.readouterr().out
    finally:
        if away.exists():
            away.rename(archive)
    seen: list[Progress] = []
    assert screened(place, tmp_path / "runs", seen.append).published
    assert seen[0].done > seen[0].at_start > 0
    found = compare(place, tmp_path / "runs", undisturbed, sample=0)
    assert (found.lost, found.duplicates, found.wrong) == (0, 0, ())


@pytest.mark.usefixtures("ray_here")
def test_a_record_that_is_replaced_under_a_run_says_so_in_its_row_and_changes_no_other(
    place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    (victim,) = [row for row in rows(undisturbed) if row["status"] == "scored"][-1:]
    signals = place.folder / "archive" / f"{victim['record_id']}.dat"
    kept = tmp_path / "kept"
    shutil.copy2(signals, kept)

    def replace(_: Progress) -> None:
        signals.write_bytes(kept.read_bytes()[::-1])

    try:
        outcome = screened(place, tmp_path / "runs", replace)
    finally:
        signals.write_bytes(kept.read_bytes())
        os.utime(signals, ns=(kept.stat().st_atime_ns, kept.stat().st_mtime_ns))
    assert outcome.published
    before = {row["record_id"]: row for row in rows(undisturbed)}
    after = {row["record_id"]: row for row in rows(tmp_path / "runs")}
    assert before.keys() == after.keys()
    changed = after.pop(victim["record_id"])
    assert (changed["status"], changed["reason"], changed["logit"]) == ("rejected", "changed", None)
    assert changed["detail"] == "a file of the record is not the one that was catalogued"
    assert all(row == before[name] for name, row in after.items() if not in_shard_of(victim, name, before))
    different = {name for name, file in results_of(undisturbed).items() if results_of(tmp_path / "runs")[name] != file}
    assert len(different) == 1  # the victim's shard and no other


def in_shard_of(victim: dict[str, object], name: str, rows: dict[str, dict[str, object]]) -> bool:
    """Whether two records are of one shard: there the last bits may differ, where another record is beside it in a batch."""
    order = list(rows)
    return order.index(str(victim["record_id"])) // 8 == order.index(name) // 8


def rows(runs: Path) -> list[dict[str, object]]:
    return [row for table in iter_results(Folder(str(run_in(runs)))) for row in table.to_pylist()]
