"""What a chain of real commands leaves: nobody's name, number, date or remark; files closed to others; no word to elsewhere."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.privacy.conftest import HERE, OUTSIDE, Chain
from tests.privacy.planted import SENTINELS
from tests.privacy.search import search

MAY_HOLD_PATHS = re.compile(r"(catalog|catalog-headers|runs/[0-9a-f]{16}/plan)/locations(-\d{5})?\.parquet")
"""Files of locations: their owner's alone, because that is what they are for."""
PATHS = {"folder", "sub-folder", "file", "patient id"}
WHO_ACTED = {"state/audit.jsonl", "said/audit.out"}
"""The audit log names on purpose who ran what; of all that is planted, this alone may stand in it."""
SHAREABLE = ("report/report.html", "report/report.json", "report/tables/")
OURS = ("catalog", "catalog-headers", "runs", "report", "explained.html", "explained.png", "sheets", "state")


def closed(path: Path, top: Path) -> bool:
    """Whether a folder between ``path`` and ``top`` keeps others out."""
    return any(not stat.S_IMODE(folder.stat().st_mode) & 0o077 for folder in path.parents if folder.is_relative_to(top))


def test_people_are_nowhere_in_what_commands_leave(chain: Chain) -> None:
    found = search(chain.left, SENTINELS)
    leaks = {}
    located = set()
    for place, words in found.items():
        file = place.removesuffix(" (Parquet)")
        if MAY_HOLD_PATHS.fullmatch(file) and words <= PATHS:
            located.add(file)
        elif file not in WHO_ACTED or words != {"operating system's user"}:
            leaks[place] = words
    assert leaks == {}
    assert len(located) == 3  # so the search finds what there is
    for file in located:
        assert stat.S_IMODE((chain.left / file).stat().st_mode) == 0o600


def test_people_are_nowhere_in_the_logs_of_ray(chain: Chain) -> None:
    assert list(chain.sessions.rglob("worker-*"))
    assert search(chain.sessions, SENTINELS) == {}


def test_the_chain_met_what_it_was_to_meet(chain: Chain) -> None:
    said = {path.name: path.read_text() for path in (chain.left / "said").iterdir()}
    assert re.search(
        r"unfinished: shard \d: OSError \(Input/output error\) from storage, 4 times", said["run-disturbed.out"]
    )
    assert re.search(r"unfinished: Ray ended the run: ValueError at storage\.py:\d+ in ", said["run-broken.out"])
    assert "cannot be read" in said["catalog-broken.err"]
    assert "its first line holds numbers or dates, and not names of columns" in said["catalog-headless.err"]
    assert "statements are free text, which may name people, and were left out" in said["catalog.out"]
    for reason in ("bad_header", "missing_units", "missing_leads", "unsafe_path", "missing_file", "unknown_format"):
        assert reason in said["failures.out"]
    assert "The amplitudes were not measured: the archive could not be read (OSError)" in said["explain-disturbed.out"]


def test_logs_metrics_and_what_is_told_were_there_to_be_searched(chain: Chain) -> None:
    events = [
        json.loads(line)
        for name in ("run-disturbed", "run-broken", "run")
        for line in (chain.left / "said" / f"{name}.err").read_text().splitlines()
    ]
    assert {"run.planned", "shard.finished", "shard.unfinished", "run.unfinished", "run.published"} <= {
        event["event"] for event in events
    }
    assert {event["shard"] for event in events if event["event"].startswith("shard.")} >= {0, 1}
    text = (chain.left / "watch" / "screening.prom").read_text()
    assert re.search(r'screening_records_rejected_total\{reason="missing_units"\} [1-9]', text)
    assert re.search(r"screening_shards_unfinished_total [1-9]", text)
    assert 'screening_night_finding_timestamp_seconds{kind="unfinished",level="alarm"} ' in text
    told = json.loads((chain.left / "watch" / "told.json").read_text())
    assert {finding["kind"] for finding in told["findings"]} >= {"unfinished", "reject_rate"}
    assert "from storage, 4 times" in told["text"]


def test_nothing_that_lists_patients_can_be_read_or_changed_by_others(chain: Chain) -> None:
    wrong = {}
    seen = 0
    for name in OURS:
        top = chain.left / name
        for path in [top, *top.rglob("*")]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            place = str(path.relative_to(chain.left))
            seen += 1
            if name == "state" and closed(path, top):
                continue  # what MLflow makes, by its own rules, in a folder that nobody else can enter
            shared = place.startswith(SHAREABLE) or place in ("report", "report/tables")
            allowed = (0o755 if path.is_dir() else 0o644) if shared else (0o700 if path.is_dir() else 0o600)
            if mode & ~allowed:
                wrong[place] = oct(mode)
    assert seen > 80
    assert wrong == {}


def test_what_is_for_sharing_can_be_read_by_others(chain: Chain) -> None:
    assert stat.S_IMODE((chain.left / "report" / "report.html").stat().st_mode) == 0o644
    assert stat.S_IMODE((chain.left / "report").stat().st_mode) == 0o755
    assert stat.S_IMODE((chain.left / "report" / "private").stat().st_mode) == 0o700


def test_the_sessions_of_ray_are_closed_to_others(chain: Chain) -> None:
    (folder,) = chain.sessions.iterdir()
    assert folder.name.startswith("screening-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.glob("ray/session_*/logs"))


def test_nothing_tries_to_leave_the_machine(chain: Chain) -> None:
    assert chain.network_log == ""


def test_the_kernel_counts_who_tries(chain: Chain, tmp_path: Path) -> None:
    """What the chain rests on for programs that are not Python."""
    if not chain.alone:
        pytest.skip("no namespaces on this machine")
    tries = f"import socket; socket.socket().connect_ex(('{OUTSIDE}', 9))"
    alone = ["unshare", "--map-root-user", "--net", sys.executable, HERE / "alone.py", tmp_path / "log"]
    subprocess.run([*alone, sys.executable, "-c", tries], check=True)
    assert (tmp_path / "log").read_text().startswith("1 connections or packets that had no route")
    subprocess.run([*alone, sys.executable, "-c", "import socket"], check=True)
    assert len((tmp_path / "log").read_text().splitlines()) == 1
