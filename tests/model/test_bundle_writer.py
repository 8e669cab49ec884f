"""A bundle with another card: nothing else changes, and it is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from screening.model import bundle_writer
from screening.model.bundle import CARD, MANIFEST, BundleError, load_bundle
from screening.model.bundle_writer import amend_card
from tests.bundles import make_bundle

PNG = b"\x89PNG\r\n\x1a\n made up"


def test_only_the_card_and_its_pictures_change(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", pictures={"calibration.png": PNG, "places.png": PNG})
    amended = amend_card(bundle, tmp_path / "amended", card="# another\n", pictures={"places.png": PNG + b"2"})
    assert (amended.path / CARD).read_text() == "# another\n"
    assert (amended.path / "places.png").read_bytes() == PNG + b"2"
    assert amended.sha256 != bundle.sha256
    changed = {file for file in amended.files if amended.files[file] != bundle.files.get(file)}
    assert changed == {CARD, "places.png"}
    assert (amended.name, amended.version, amended.threshold) == (bundle.name, bundle.version, bundle.threshold)
    assert amended.training == bundle.training
    assert amended.seen() == bundle.seen()
    golden = [dict(of.golden()) for of in (bundle, amended)]
    assert all(np.array_equal(golden[0][name], golden[1][name]) for name in golden[0])
    assert {path.stat().st_mode & 0o777 for path in amended.path.iterdir()} == {0o644}


def test_the_same_card_again_is_the_same_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    one = amend_card(bundle, tmp_path / "one", card="# x\n", pictures={"a.png": PNG})
    two = amend_card(one, tmp_path / "two", card="# x\n", pictures={"a.png": PNG})
    assert one.sha256 == two.sha256
    assert (one.path / MANIFEST).read_bytes() == (two.path / MANIFEST).read_bytes()


def test_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="bundle exists already; name another folder"):
        amend_card(bundle, bundle.path, card="# x\n", pictures={})
    with pytest.raises(ValueError, match="'../evil.png' is no file name of a picture"):
        amend_card(bundle, tmp_path / "new", card="# x\n", pictures={"../evil.png": PNG})
    assert os.listdir(tmp_path) == ["bundle"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_writer.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        amend_card(bundle, tmp_path / "new", card="# x\n", pictures={})
    assert os.listdir(tmp_path) == ["bundle"]
    assert load_bundle(bundle.path).sha256 == bundle.sha256
