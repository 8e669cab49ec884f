"""``screening nightly`` as a clock starts it: its settings, its words, its exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.conftest import PROJECT

Done = subprocess.CompletedProcess[str]


def nightly(place: Path, *options: str | Path, entry: tuple[str, ...] = ("-m", "screening", "nightly")) -> Done:
    own = {"PYTHONPATH": str(PROJECT), "SCREENING_STATE": str(place / "state"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **own}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, *entry, *map(str, options)],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_night_by_the_command_and_again(ptbxl: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", threshold=0.387)
    (tmp_path / "nightly.yaml").write_text(
        f"archive: {ptbxl}\ncatalog: catalog\nruns: runs\nreport: report\ndeidentified: true\nlabels: ptbxl-mi\n"
        f"model: {bundle.path}\nmlflow: false\nworklist: false\nmax_records: 24\n"
        "run: {attribution: none, workers: 1}\nreporting: {exact: true, draws: 500}\n"
        "notify: {when: always, command: [tee, told.json]}\n"
    )
    done = nightly(tmp_path, "--settings", "nightly.yaml", "--date", "2026-11-21", "--metrics-file", "night.prom")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Night 2026-11-21-tiny-1-1: all that was to be screened is published\n")
    assert "Screened     24 records (24 new)" in done.stdout
    assert "Waiting      40 records for the nights to come" in done.stdout
    assert json.loads((tmp_path / "told.json").read_text())["counts"]["waiting"] == 40
    assert "screening_records_scored_total 24" in (tmp_path / "night.prom").read_text()
    told = nightly(tmp_path, "--settings", "nightly.yaml", "--date", "2026-11-21", "--id")
    assert (told.returncode, told.stdout) == (0, "2026-11-21-tiny-1-1\n")
    # The same by the entry point for Ray jobs: nothing is left to do, and no Ray is started.
    again = nightly(
        tmp_path, "--settings", "nightly.yaml", "--date", "2026-11-21", entry=(str(PROJECT / "jobs" / "nightly.py"),)
    )
    assert (again.returncode, again.stdout) == (
        0,
        "The night 2026-11-21-tiny-1-1 ended well already (published; 40 records wait for the nights to come), and nothing was "
        "done now; --again begins another attempt at it.\n",
    )
    entries = [json.loads(line)["event"] for line in (tmp_path / "state" / "audit.jsonl").read_text().splitlines()]
    assert entries == ["night.started", "run.started", "run.published", "report.started", "report.made", "night.ended"]


def test_a_registry_that_is_down_is_one_sentence_in_the_book_and_told(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "archive").mkdir()
    (tmp_path / "nightly.yaml").write_text(
        "archive: archive\ncatalog: catalog\nruns: runs\nreport: report\ndeidentified: true\n"
        "notify: {command: [tee, told.json]}\n"
    )
    metrics = ("--metrics-file", "night.prom")
    done = nightly(tmp_path, "--settings", "nightly.yaml", "--date", "2026-11-21", "--tracking-uri", uri, *metrics)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: the MLflow registry at {uri} cannot be reached; see that its server runs and that --tracking-uri names it.\n"
    )
    left = {"archive", "nightly.yaml", "state", "told.json", "night.prom", "runs"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["nights"]
    (failed,) = (tmp_path / "runs" / "nights").glob("*/night.json")
    assert (failed.parent.name, json.loads(failed.read_text())["outcome"]) == ("2026-11-21-unknown-model-1", "failed")
    assert "screening_night_success 0" in (tmp_path / "night.prom").read_text()
    assert f"The night failed: the MLflow registry at {uri}" in json.loads((tmp_path / "told.json").read_text())["text"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (
            "catalog: c\nruns: r\nreport: p\nretries: 2\n",
            (),
            "line 4: retries: extra inputs are not permitted; known",
        ),
        (
            "catalog: c\nruns: r\nreport: p\nrun:\n  wokers: 2\n",
            (),
            "line 5: run.wokers: extra inputs are not permitted; known keys are att",
        ),
        ("catalog: c\nruns: r\n", (), "nightly.yaml, line 1: report: field required"),
        (
            "catalog: c\nruns: r\nreport: p\nlabels: ptbxl-mi\n",
            (),
            "labels is for the scan of an archive",
        ),
        (
            "catalog: c\nruns: r\nreport: p\n",
            ("--max-hours", "0"),
            "--max-hours: input should be greater than 0 (got 0.0)",
        ),
        ("catalog: !!python/object/apply:os.getcwd []\n", (), "nightly.yaml, line 1 is not YAML"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(
    text: str, options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from screening.cli import group
    from screening.errors import UserError

    (tmp_path / "nightly.yaml").write_text(text)
    arguments = ["nightly", "--settings", str(tmp_path / "nightly.yaml"), *options, "--state", str(tmp_path / "state")]
    with pytest.raises(UserError) as told:
        group.main(arguments, standalone_mode=False)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
