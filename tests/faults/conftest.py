"""One small archive with its undisturbed run, for all tests of faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.model.bundle import load_bundle
from screening.settings import RunSettings
from tests.bundles import make_bundle
from tests.faults.place import Place, make_place
from tests.run.by_hand import run_by_hand

RECORDS = 120
OPTIONS = ("--batch-size", "8", "--attribution", "all", "--donors", "8", "--operators", "lead", "--json")


def small_place(folder: Path) -> Place:
    """Make an archive of 120 records in shards of 8, to be scored by a small model."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = make_bundle(folder / "bundle", threshold=0.35)
    (folder / "settings.yaml").write_text("donor_set: 16\nattribution_se: 0\n")
    options = ("--model", str(bundle.path), "--config", str(folder / "settings.yaml"), *OPTIONS)
    return make_place(folder, RECORDS, *options)


def undisturbed_runs(place: Place, folder: Path) -> Path:
    """Make a run of it without Ray, in this process; return the folder of runs."""
    settings = RunSettings(
        attribution="all", donors=8, donor_set=16, attribution_se=0, operators=("lead",), batch_size=8, shard_records=8
    )
    run_by_hand(place.folder / "catalog", folder, load_bundle(place.folder / "bundle"), settings)
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return the small place."""
    return small_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs folder of an undisturbed run of it."""
    return undisturbed_runs(place, tmp_path_factory.mktemp("undisturbed") / "runs")
