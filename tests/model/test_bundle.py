"""Bundles: what is saved comes back, what was changed is refused by name, and nothing in them is pickled."""

from __future__ import annotations

import dataclasses
import json
import os
import pickletools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from screening.contract import NOTICE, input_contract, sha256_of
from screening.model import bundle_writer
from screening.model.bundle import (
    FILES,
    MANIFEST,
    PRETRAINED,
    BundleError,
    Counts,
    check_golden,
    load_bundle,
)
from screening.model.locate import resolve_model
from screening.model.out_of_fold import OutOfFold
from tests.bundles import make_bundle, reference, signals, tiny_network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle's folder. Read only."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """Return a bundle's folder that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_what_is_saved_comes_back(saved: Path) -> None:
    bundle = load_bundle(saved)
    network = bundle.network()
    assert not network.training
    for key, value in tiny_network().state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert (bundle.name, bundle.version, bundle.threshold) == ("tiny", "1", 0.3)
    assert (bundle.calibrator.slope, bundle.calibrator.intercept, bundle.calibrator.prevalence) == (1.5, -0.5, 0.22)
    assert bundle.operating_characteristics.overall == Counts(TP=8, FN=2, TN=27, FP=3)
    assert bundle.operating_characteristics.subgroups["sex"]["female"].sensitivity == pytest.approx(0.8)
    assert bundle.seen() == {
        "trained": frozenset({"a" * 64, "b" * 64}),
        "tuned": frozenset({"c" * 64}),
        "calibrated": frozenset({"c" * 64}),
    }
    assert bundle.training["records"] == {"trained": 2, "tuned": 1, "calibrated": 1}
    assert bundle.notice == NOTICE
    assert bundle.input_contract_sha256 == sha256_of(
        input_contract(json.loads((saved / MANIFEST).read_text())["input_contract"]["preprocessing"])
    )
    np.testing.assert_array_equal(bundle.golden()["signal_mV"], signals())


def test_same_inputs_give_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = make_bundle(tmp_path / "again")
    assert again.sha256 == load_bundle(saved).sha256
    assert sorted(os.listdir(saved)) == sorted([MANIFEST, *FILES])
    for file in (MANIFEST, *FILES):
        assert (again.path / file).read_bytes() == (saved / file).read_bytes(), file


@pytest.mark.parametrize("change", [{"threshold": 0.31}, {"card": "# other\n"}, {"network": tiny_network(1)}])
def test_another_content_is_another_name(saved: Path, tmp_path: Path, change: dict[str, object]) -> None:
    assert make_bundle(tmp_path / "other", **change).sha256 != load_bundle(saved).sha256


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("file", [MANIFEST, *FILES])
def test_a_flipped_byte_is_refused_with_the_files_name(copy: Path, file: str, where: float) -> None:
    content = bytearray((copy / file).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(BundleError, match=rf"/{file} differs from its"):
        load_bundle(copy)


@pytest.mark.parametrize("file", FILES)
def test_an_absent_or_shortened_file_is_refused_with_its_name(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"/{file} differs"):
        load_bundle(copy)
    (copy / file).unlink()
    with pytest.raises(BundleError, match=rf"lacks .*/{file};"):
        load_bundle(copy)


def rewrite(folder: Path, **changes: object) -> None:
    """Change bundle.json as somebody would who also knows how to recompute its hash."""
    facts = json.loads((folder / MANIFEST).read_text())
    facts |= changes
    facts.pop("sha256")
    facts["sha256"] = sha256_of(facts)
    (folder / MANIFEST).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def test_white_space_in_the_manifest_is_a_change_too(copy: Path) -> None:
    facts = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(BundleError, match="differs from its own content hash"):
        load_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"sha256": 1}', b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="differs from its own content hash"):
        load_bundle(copy)


def test_a_bundle_of_another_schema_or_contract_is_refused(copy: Path, tmp_path: Path) -> None:
    rewrite(copy, schema_version=99)
    with pytest.raises(BundleError, match=r"has schema version 99, this program reads 3; install the version"):
        load_bundle(copy)
    for name in ("../../etc/passwd", "../picture.png", "run.py"):
        rewrite(copy, schema_version=2, files={**dict.fromkeys(FILES, "0" * 64), name: "0" * 64})
        with pytest.raises(BundleError, match="and pictures alone; it is no bundle of screening"):
            load_bundle(copy)
    rewrite(copy, files={"../../etc/passwd": "0" * 64})
    with pytest.raises(BundleError, match="does not list card.md, golden.safetensors"):
        load_bundle(copy)
    contract = {"leads": ["II", "I"], "unit": "mV", "preprocessing": {}}
    other = make_bundle(tmp_path / "other").path
    rewrite(other, input_contract=contract, input_contract_sha256=sha256_of(contract))
    with pytest.raises(BundleError, match="another input contract"):
        load_bundle(other)


def test_bundles_of_earlier_schemas_are_read(copy: Path) -> None:
    for earlier in (1, 2):
        rewrite(copy, schema_version=earlier)
        assert load_bundle(copy).reference() is None


def test_settings_of_a_newer_program_are_refused(copy: Path) -> None:
    facts = json.loads((copy / MANIFEST).read_text())
    rewrite(copy, architecture={**facts["architecture"], "transformer": True})
    with pytest.raises(BundleError, match=r"settings of its architecture that this program does not know"):
        load_bundle(copy).network()


def test_no_bundle_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json is not there"):
        load_bundle(tmp_path / "nowhere")


def test_nothing_is_pickled(saved: Path) -> None:
    for file in (MANIFEST, *FILES):
        content = (saved / file).read_bytes()
        assert not zipfile.is_zipfile(saved / file), file  # torch.save and numpy.savez
        with pytest.raises(Exception, match=r"."):  # no pickle starts here
            list(pickletools.genops(content))
    for source in (bundle_writer.__file__,):
        text = Path(source).read_text()
        assert "torch.load(" not in text
        assert "torch.save(" not in text


def test_golden_check_accepts_this_machine_and_refuses_other_weights(saved: Path) -> None:
    bundle = load_bundle(saved)
    check_golden(bundle, bundle.network(), "cpu")
    network = bundle.network()
    with torch.no_grad():
        network.classifier[-1].bias += 0.01
    with pytest.raises(
        BundleError, match=r"model tiny 1 fails its golden check: here a logit in float32 differs by 0.01"
    ):
        check_golden(bundle, network, "cpu")
    with torch.no_grad():
        network.classifier[-1].bias.fill_(float("nan"))
    with pytest.raises(BundleError, match="golden check"):
        check_golden(bundle, network, "cpu")


def test_golden_check_knows_the_tolerance_of_each_dtype(saved: Path) -> None:
    bundle = load_bundle(saved)
    check_golden(bundle, bundle.network().bfloat16(), "cpu")
    with pytest.raises(BundleError, match="states no golden tolerance for float64; use bfloat16, float32"):
        check_golden(bundle, bundle.network().double(), "cpu")


def test_golden_check_notices_preprocessing_that_changed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from screening.signal import preprocess as module

    bundle, genuine = load_bundle(saved), module.preprocess
    monkeypatch.setattr(module, "preprocess", lambda *args, **kwargs: 1.01 * genuine(*args, **kwargs))
    with pytest.raises(BundleError, match="here a preprocessed sample in mV differs by"):
        check_golden(bundle, bundle.network(), "cpu")


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bundle_writer, "_write_durably", fails)
    with pytest.raises(OSError, match="disk full"):
        make_bundle(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_saving_overwrites_nothing(copy: Path) -> None:
    before = (copy / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match=r"copy exists already; name another folder"):
        make_bundle(copy)
    assert (copy / MANIFEST).read_bytes() == before


def test_saving_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_bundle(tmp_path / "tiny", threshold=float("nan"))
    with pytest.raises(ValueError, match="unknown use of records: borrowed"):
        make_bundle(tmp_path / "tiny", seen={"borrowed": []})
    with pytest.raises(BundleError, match=r"name .* may hold letters"):
        make_bundle(tmp_path / "tiny", name="a/b")


def test_saving_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = tiny_network().train()
    make_bundle(tmp_path / "tiny", network=network)
    assert network.training


def test_a_bundle_is_fetched_once_from_any_file_system(saved: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(f"{saved}/", "/models/tiny", recursive=True)
    path = resolve_model("memory://models/tiny", cache_folder=tmp_path)
    assert path == tmp_path / load_bundle(saved).sha256
    memory.rm("/models/tiny/model.safetensors")
    assert resolve_model("memory://models/tiny", cache_folder=tmp_path) == path
    shutil.rmtree(path)
    make_bundle(path, threshold=0.001)  # whole, and of somebody else
    with pytest.raises(
        BundleError, match="holds another bundle than its name says; remove it, and it is fetched again"
    ):
        resolve_model("memory://models/tiny", cache_folder=tmp_path)
    with pytest.raises(BundleError, match="is not on this machine; name a folder"):
        resolve_model("memory://models/tiny")
    with pytest.raises(BundleError, match=r"cannot read memory://models/other/bundle\.json"):
        resolve_model("memory://models/other", cache_folder=tmp_path)
    (tmp_path / "fresh").mkdir()
    with pytest.raises(BundleError, match=r"cannot read memory://models/tiny/model\.safetensors"):
        resolve_model("memory://models/tiny", cache_folder=tmp_path / "fresh")
    assert list((tmp_path / "fresh").iterdir()) == []


def test_no_reference_means_the_shipped_bundle() -> None:
    assert resolve_model(None) == PRETRAINED


def test_a_bundle_is_frozen(saved: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_bundle(saved).threshold = 0.9  # type: ignore[misc]


def test_out_of_fold_predictions_and_pictures_come_back_and_are_hashed(tmp_path: Path) -> None:
    predictions = OutOfFold(
        record_sha256=np.array(["b" * 64, "a" * 64], dtype=object),
        fold=np.array([2, 1], np.int16),
        logit=np.array([0.5, -1.0], np.float32),
        probability=np.array([0.6, 0.2]),
        flagged=np.array([True, False]),
    )
    bundle = make_bundle(tmp_path / "b", out_of_fold=predictions, pictures={"calibration.png": b"\x89PNG"})
    read = load_bundle(bundle.path).out_of_fold()
    assert read is not None
    assert read.record_sha256.tolist() == ["a" * 64, "b" * 64]
    assert (read.fold.tolist(), read.logit.tolist(), read.probability.tolist()) == ([1, 2], [-1.0, 0.5], [0.2, 0.6])
    assert read.flagged.tolist() == [False, True]
    assert make_bundle(tmp_path / "plain").out_of_fold() is None
    for file in ("calibration.png", "out_of_fold.parquet"):
        genuine = (bundle.path / file).read_bytes()
        (bundle.path / file).write_bytes(genuine + b" ")
        with pytest.raises(BundleError, match=f"{file} differs from its SHA-256"):
            load_bundle(bundle.path)
        (bundle.path / file).write_bytes(genuine)
    with pytest.raises(ValueError, match="'../x.png' is no file name of a picture"):
        make_bundle(tmp_path / "c", pictures={"../x.png": b""})


def test_a_reference_comes_back_and_is_hashed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", reference=reference())
    assert load_bundle(bundle.path).reference() == reference()
    assert bundle.sha256 != make_bundle(tmp_path / "other", reference=reference(seed=1)).sha256
    file = bundle.path / "reference.json"
    genuine = file.read_bytes()
    file.write_bytes(genuine.replace(b'"noise":20', b'"noise":21'))
    with pytest.raises(BundleError, match=r"reference\.json differs from its SHA-256"):
        load_bundle(bundle.path)
    file.write_bytes(genuine.replace(b'"schema_version":1', b'"schema_version":2'))
    with pytest.raises(
        BundleError, match=r"reference\.json is not understood \(version 2, not 1\); install the version"
    ):
        bundle.reference()


def test_the_shipped_bundle_tells_of_its_population() -> None:
    bundle = load_bundle(PRETRAINED)
    measured, counts = bundle.reference(), bundle.operating_characteristics.overall
    assert measured is not None
    assert measured.records == bundle.training["records"]["trained"]
    assert sum(measured.scores.positive) == counts.TP + counts.FN
    assert sum(measured.scores.negative) == counts.TN + counts.FP
    assert measured.scores.flagged == counts.TP + counts.FP
    assert sum(measured.features["log_odds"].counts) == bundle.training["records"]["calibrated"]
    for name, one in measured.features.items():
        assert sum(one.counts) + one.missing == measured.records or name == "log_odds", name
