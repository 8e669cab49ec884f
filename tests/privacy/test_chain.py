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
from tests.privacy.left import named, open_to_others
from tests.privacy.planted import SENTINELS
from tests.privacy.search import search

pytestmark = pytest.mark.timeout(900)  # thirty commands, before the first test

WHO_ACTED = {"state/audit.jsonl", "said/audit.out", "name of tmp/torchinductor_oddvarberglund"}
"""The audit log names on purpose who ran what, and torch calls its temporary folder so; of all that is planted, this alone may
stand there."""
OURS = (
    *("catalog", "catalog-headers", "catalog-tar", "pack", "runs", "converted", "report", "sheets", "state", "trained"),
    *("evaluation", "explained.html", "explained.png"),
)


def test_people_are_nowhere_in_what_commands_leave(chain: Chain) -> None:
    leaks, located = named(chain.left)
    user = {"operating system's user"}
    assert {place: words for place, words in leaks.items() if place not in WHO_ACTED or words != user} == {}
    assert len(located) == 4  # so the search finds what there is
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
    assert "cannot be read" in said["catalog-broken.err"]
    assert "its first line holds numbers or dates, and not names of columns" in said["catalog-headless.err"]
    assert "statements are free text, which may name people, and were left out" in said["catalog.out"]
    for reason in ("bad_header", "missing_units", "missing_leads", "unsafe_path", "missing_file", "unknown_format"):
        assert reason in said["failures.out"]
    assert re.search(r"refused +\d+  bad_header", said["convert.out"])
    assert "of-people version 1" in said["train.out"]
    assert "The amplitudes were not measured: the archive could not be read (OSError)" in said["explain-disturbed.out"]


def test_logs_metrics_and_what_is_told_were_there_to_be_searched(chain: Chain) -> None:
    events = [
        json.loads(line)
        for name in ("run-disturbed", "run")
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
    wrong, seen = open_to_others(chain.left, OURS)
    assert seen > 120
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
