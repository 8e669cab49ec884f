"""Nights that read a pack: renewed with the archive, and the same results to the byte as from the archive itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from screening.run.read import read_manifest
from screening.storage import Folder
from tests.nightly.conftest import World
from tests.nightly.test_interrupted import bytes_of

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.mark.long  # tests/run/test_packing.py holds a run from a pack against one from the archive
def test_nights_from_a_pack_are_the_nights_from_the_archive(world: World, tmp_path: Path) -> None:
    packed = str(world.folder / "pack")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    plain = dataclasses.replace(world, folder=tmp_path / "one", settings={})
    other = dataclasses.replace(world, folder=tmp_path / "other", settings={"packed": packed})
    run_ids = []
    for day, records in (("2026-11-21", 24), ("2026-11-22", 40)):
        for here in (plain, other):
            here.grow(records)
            if records == 40:
                here.exchange(3, 5)
        nights = [here.night(day).night for here in (plain, other)]
        assert [(night.planned, night.scored) for night in nights] == [(nights[0].planned, nights[0].scored)] * 2
        run_ids.append(nights[1].run_ids)
    pack = Folder(packed)
    assert any(name.startswith("part-") for name in pack.names())
    for (run_id,), asked in zip(run_ids, (24, 17), strict=True):
        manifest = read_manifest(other.runs.folder(run_id)) or {}
        assert manifest["counts"]["planned"] == asked
    standing, expected = other.standing().sort_index(), plain.standing().sort_index()
    columns = ["logit", "status", "record_sha256", "quality_flags"]
    assert standing[columns].astype(str).equals(expected[columns].astype(str))
    assert len(bytes_of(other)) == len(bytes_of(plain))
