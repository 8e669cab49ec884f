"""One chain of real commands over an archive with people in it; the tests of this folder look at what it left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from screening.nightly.health import judge
from screening.nightly.notify import NotifySettings, notify, payload
from screening.nightly.record import Night, Outcome
from screening.run.metrics import Meter
from screening.signal.preprocess import Preprocessing, preprocess
from tests.bundles import make_bundle, tiny_network
from tests.conftest import PROJECT
from tests.privacy import planted, planted_formats
from tests.train.conftest import mlflow_template, mlflow_uri  # noqa: F401

HERE = Path(__file__).resolve().parent
OUTSIDE = "203.0.113.7"
"""An address of the block for documentation (RFC 5737)."""
SETTINGS = """attribution: all
operators: [lead, territory]
donors: 2
donor_set: 8
batch_size: 8
shard_records: 16
"""
TRAINING = """name: of-people
train_folds: [1, 2, 3, 4, 5, 6]
tune_folds: [7, 8, 9, 10]
learning_rates: []
resamples: 20
network: {channels: 4, dilations: [1, 2], blocks: 1, projection_channels: 8, embedding: 4, pooling: mean}
fit: {epochs: 8, score_every: 8, batch_size: 8, learning_rate: 0.01}
"""


@dataclass
class Chain:
    """What was run, and where everything lies."""

    inputs: Path  # archive, key, table and settings: the user's own
    left: Path  # everything that commands wrote, and what they said
    sessions: Path  # of Ray; short, because of the sockets in it
    alone: bool = field(default_factory=lambda: _may_unshare())
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, *arguments: str | Path, code: int = 0) -> str:
        """Run a command as a user would, under umask 000, and return its standard output; both outputs are kept."""
        begun = time.monotonic()
        done = subprocess.run(
            [*self._prefix(), sys.executable, "-m", "screening", *map(str, arguments)],
            cwd=self.left / "cwd",
            env=self.environment(),
            umask=0,
            capture_output=True,
            check=False,
            timeout=300,
        )
        self.seconds[name] = time.monotonic() - begun
        said = self.left / "said"
        (said / f"{name}.out").write_bytes(done.stdout)
        (said / f"{name}.err").write_bytes(done.stderr)
        assert done.returncode == code, (name, done.returncode, done.stdout.decode(), done.stderr.decode())
        return done.stdout.decode()

    def _prefix(self) -> list[str | Path]:
        log = self.inputs / "network.log"
        return ["unshare", "--map-root-user", "--net", sys.executable, HERE / "alone.py", log] if self.alone else []

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: nothing of ours but what finds Python and the project."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{HERE / 'watched'}{os.pathsep}{PROJECT}",
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.left / "home"),
            "TMPDIR": str(self.left / "tmp"),
            "RAY_TMPDIR": str(self.sessions),
            "SCREENING_STATE": str(self.left / "state"),
            "USER": planted.SENTINELS["operating system's user"],
            "LOGNAME": planted.SENTINELS["operating system's user"],
            "WATCHED": str(self.inputs),
            "WATCHED_RECORD": planted.FAILING,
        }

    @property
    def network_log(self) -> str:
        """What tried to reach another machine."""
        log = self.inputs / "network.log"
        return log.read_text() if log.exists() else ""


def _may_unshare() -> bool:
    try:
        done = subprocess.run(["unshare", "--map-root-user", "--net", "true"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Return what the commands that touch patients' data left; those of a night are in `tests/jobs`."""
    folder = tmp_path_factory.mktemp("privacy")
    sessions = Path(tempfile.mkdtemp(prefix="s."))
    made = Chain(folder / "inputs", folder / "left", sessions)
    for place in ("home", "tmp", "cwd", "said", "watch"):
        (made.left / place).mkdir(parents=True)
    made.inputs.mkdir()
    _play(made)
    yield made
    shutil.rmtree(sessions)


def _play(chain: Chain) -> None:
    archive, left = chain.inputs / "archive", chain.left
    planted.plant(archive)
    mapping, rule, settings = (chain.inputs / name for name in ("mapping.yaml", "rule.yaml", "settings.yaml"))
    mapping.write_text(planted.MAPPING)
    rule.write_text(planted.RULE)
    settings.write_text(SETTINGS)
    key = chain.inputs / "pseudonym.key"
    key.write_text("the key of these tests, by which the failing record is no donor (0)")
    key.chmod(0o600)
    keyed = ("--key-file", key, "--labels", rule)
    catalog, runs = left / "catalog", left / "runs"

    chain.run("catalog-headers", "catalog", archive, "--out", left / "catalog-headers", *keyed)
    for name in ("broken", "headless"):
        table = chain.inputs / f"{name}.csv"
        getattr(planted, f"{name}_table")(table)
        options = ("--metadata", table, *keyed, *(("--mapping", mapping) if name == "broken" else ()))
        chain.run(f"catalog-{name}", "catalog", archive, "--out", left / "catalog-none", *options, code=1)
    table_options = ("--metadata", "ecgs.csv", "--mapping", mapping)
    chain.run("catalog", "catalog", archive, "--out", catalog, *table_options, *keyed, "--json")

    run = ("run", "--catalog", catalog, "--out", runs, "--model", _bundle(left), "--config", settings)
    watched = ("--metrics-file", left / "watch" / "screening.prom", "--log-format", "json")
    (chain.inputs / "fail").touch()
    chain.run("run-disturbed", *run, *watched, code=3)
    (chain.inputs / "fail").unlink()
    chain.run("pack", "pack", "--catalog", catalog, "--out", left / "pack")
    outcome = json.loads(chain.run("run", *run, *watched, "--packed", left / "pack", "--json", code=2))
    assert outcome["published"]
    _tell(chain, outcome)
    url = outcome["url"]
    chain.run("status", "status", url)
    chain.run("failures", "failures", url, "--limit", "100")
    chain.run("failures-json", "failures", url, "--json")
    chain.run("verify", "verify", url, "--json")
    next(Path(url).glob("results/*.parquet")).write_bytes(b"")
    chain.run("repair", "repair", url, "--model", left / "bundle")

    flagged, rejected = _records(Path(url))
    of = ("--runs", runs, "--catalog", catalog)
    chain.run("explain-rejected", "explain", rejected, *of, "--out", left / "explained.html", "--json")
    chain.run("explain-png", "explain", flagged, *of, "--out", left / "explained.png", "--json")
    chain.run("report", "report", *of, "--out", left / "report", "--exact", "--worklist-plots", "10", "--json")
    chain.run("sample", "validate", "sample", *of, "--out", left / "sheets", "--readings", "20", "--show-age-and-sex")
    _copy_packed_archives(chain, key)
    _train(chain, catalog)
    (chain.inputs / "fail").touch()
    chain.run("explain-disturbed", "explain", _failing(catalog), *of)
    (chain.inputs / "fail").unlink()
    patient, why = f"{planted.SENTINELS['patient id']}03", "objection"
    chain.run("pseudonym", "pseudonym", "check", "--catalog", catalog, "--key-file", key, "--patient", patient)
    chain.run("forget", "forget", patient, *of, "--key-file", key, "--why", why, "--yes")
    chain.run("audit", "audit", "show")
    shutil.rmtree(archive)
    chain.run("explain-gone", "explain", flagged, *of)


def _copy_packed_archives(chain: Chain, key: Path) -> None:
    """Convert an archive in a zip file, and take up one in a tar file; both hold what is read and what is not."""
    packed = {kind: f"{kind}::file://{chain.inputs / f'hospital.{kind}'}" for kind in ("zip", "tar")}
    planted_formats.pack_zip(chain.inputs / "hospital.zip")
    planted_formats.pack_tar(chain.inputs / "hospital.tar")
    chain.run("convert", "convert", packed["zip"], chain.left / "converted", "--key-file", key, code=2)
    chain.run("catalog-tar", "catalog", packed["tar"], "--out", chain.left / "catalog-tar", "--key-file", key)


def _train(chain: Chain, catalog: Path) -> None:
    """Train on the people's ECGs, measure, and judge; MLflow is told of each."""
    config = chain.inputs / "train.yaml"
    config.write_text(TRAINING)
    labelled = ("--catalog", catalog)
    chain.run("train", "train", *labelled, "--config", config, "--out", chain.left / "trained")
    measured = ("--model", chain.left / "trained", "--out", chain.left / "evaluation", "--allow-seen")
    chain.run("evaluate", "evaluate", *labelled, *measured)
    chain.run(
        "promote", "promote", "of-people", "1", *labelled, "--by", "a committee", "--why", "it is the first", code=1
    )


def _tell(chain: Chain, outcome: dict[str, Any]) -> None:
    """Leave what somebody is told of a night that was disturbed, by a command, and in the textfile."""
    counts = outcome["counts"]
    disturbed = (chain.left / "said" / "run-disturbed.out").read_text()
    night = Night(
        date="2026-11-22",
        outcome=Outcome.UNFINISHED,
        started_at="2026-11-22T01:00:00+00:00",
        finished_at="2026-11-22T02:00:00+00:00",
        planned=outcome["records"],
        scored=counts["scored"],
        rejected=counts["rejected"],
        flagged=counts["flagged"],
        reasons=counts["reasons"],
        run_ids=(outcome["run_id"],),
        shards=4,
        unfinished_shards=1,
        error=next(line for line in disturbed.splitlines() if "unfinished:" in line),
    )
    before = [replace(night, outcome=Outcome.PUBLISHED, rejected=0, reasons={}, unfinished_shards=0, error=None)] * 28
    findings = judge(night, before)
    watch = chain.left / "watch"
    (watch / "night.json").write_text(json.dumps(night.to_json()))
    program = f"import sys; open({str(watch / 'told.json')!r}, 'w').write(sys.stdin.read())"
    assert notify(payload(night, findings), NotifySettings(command=(sys.executable, "-c", program))) == []
    Meter(watch / "screening.prom").night(night, [(each.kind, each.level) for each in findings], at=1.0)


def _bundle(left: Path) -> Path:
    """Make a bundle whose threshold flags about half of the planted ECGs."""
    network = tiny_network()
    signals = (planted.samples() / 1000).astype(np.float32)
    import torch

    with torch.inference_mode():
        logits = network(torch.from_numpy(preprocess(signals, 500.0, Preprocessing()))).numpy()
    threshold = float(np.median(1 / (1 + np.exp(-(1.5 * logits - 0.5)))))
    return make_bundle(left / "bundle", network=network, threshold=threshold).path


def _records(run: Path) -> tuple[str, str]:
    """Return the ids of a flagged and of a rejected record."""
    rows = pq.read_table(run / "results", columns=["record_id", "flagged", "reason"]).to_pylist()
    flagged = next(row["record_id"] for row in rows if row["flagged"])
    return flagged, next(row["record_id"] for row in rows if row["reason"])


def _failing(catalog: Path) -> str:
    """Return the id of the record that storage does not give."""
    rows = pq.read_table(catalog / "locations.parquet").to_pylist()
    return next(row["record_id"] for row in rows if planted.FAILING in row["location"])
