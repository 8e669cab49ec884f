"""Rows of a pack give back what reading gave, to the last bit; damaged ones give nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.archive.build import build_catalog
from screening.archive.catalog import Catalog, open_catalog
from screening.archive.pack import Pack, PackRef, index_name, open_pack, pack_of
from screening.archive.packed import READING, Rows, millivolts, row_of, steps_of, table_of
from screening.archive.reader import ArchiveReader, decode
from screening.archive.version import is_covered, version_of
from screening.contract import LEADS, Reason
from screening.errors import UserError
from screening.recording import Recording, Rejected
from screening.run.packing import pack_archive
from screening.storage import Folder
from tests import corpus
from tests.wfdb_files import ecg, record

VERSION = ".dat:8872b92dee/.hea:0a8c0997c0"


def same(a: Recording | Rejected | None, b: Recording | Rejected | None) -> bool:
    """Whether two outcomes are alike in every bit, of missing samples too."""
    if not (isinstance(a, Recording) and isinstance(b, Recording)):
        return a == b
    names = [field.name for field in dataclasses.fields(Recording) if field.name != "signal_mV"]
    alike = all(getattr(a, name) == getattr(b, name) for name in names)
    return alike and a.signal_mV.shape == b.signal_mV.shape and a.signal_mV.tobytes() == b.signal_mV.tobytes()


def packed(outcome: Recording | Rejected, header: bytes) -> tuple[dict[str, Any], Recording | Rejected]:
    """Return the row of an outcome, and what it gives back."""
    row = row_of(outcome, VERSION, steps_of(header))
    assert row is not None
    return row, Rows(table_of([row])).outcome(0)


# --- Rows ------------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    gain=st.one_of(
        st.sampled_from([200.0, 204.8, 1000.0, 1000.5, 6.5536e3, -400.0, 1e300]),
        st.floats(1e-3, 1e6, allow_nan=False).filter(lambda gain: f"{gain:.17g}" != "0"),
    ),
    baseline=st.integers(-(2**31) + 1, 2**31 - 1) | st.integers(-2000, 2000),
    samples=st.lists(st.integers(-32768, 32767), min_size=12, max_size=60),
)
def test_every_gain_and_baseline_of_int16_comes_back(gain: float, baseline: int, samples: list[int]) -> None:
    digital = np.resize(np.array(samples, "<i2"), (12, 20))
    lines = ["r 12 500 20", *(f"r.dat 16 {gain:.17g}({baseline})/mV 16 0 0 0 0 {lead}" for lead in LEADS)]
    header = "\n".join(
        line.replace(" 0 0 0 ", f" 0 0 {int(d.astype(np.int64).sum()) & 0xFFFF} ")
        for line, d in zip(lines, [digital[0], *digital], strict=True)
    ).encode()
    outcome = decode("a", header, {"r.dat": np.ascontiguousarray(digital.T).tobytes()})
    assert isinstance(outcome, Recording), outcome
    row, found = packed(outcome, header)
    assert same(found, outcome)
    if abs(baseline) < 2**20 and 1 <= abs(gain) < 1e6:
        assert row["digital"] == digital.tobytes()


def test_missing_samples_are_int16_too() -> None:
    digital = ecg()
    digital[3, 100:200] = -32768
    files = record(digital=digital)
    outcome = decode("a", files["r.hea"], files)
    row, found = packed(outcome, files["r.hea"])
    assert "digital" in row
    assert same(found, outcome)
    assert isinstance(found, Recording)
    assert np.isnan(found.signal_mV).sum() == 100


@pytest.mark.parametrize("value", [-0.0, np.float32(1e-45), np.inf, 40.0])
def test_what_int16_would_not_give_back_is_kept_as_float32(value: float) -> None:
    files = record()
    outcome = decode("a", files["r.hea"], files)
    assert isinstance(outcome, Recording)
    outcome.signal_mV[5, 7] = value
    row, found = packed(outcome, files["r.hea"])
    assert row.get("digital") is None
    assert same(found, outcome)


def test_another_nan_is_kept_too() -> None:
    files = record()
    outcome = decode("a", files["r.hea"], files)
    assert isinstance(outcome, Recording)
    outcome.signal_mV.view(np.uint32)[5, 7] = 0x7FC00001
    row, found = packed(outcome, files["r.hea"])
    assert row.get("digital") is None
    assert same(found, outcome)


def test_a_long_recording_stays_in_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    files = record()
    outcome = decode("a", files["r.hea"], files)
    monkeypatch.setattr("screening.archive.packed.MOST_PACKED_BYTES", 119_999)
    assert row_of(outcome, VERSION, steps_of(files["r.hea"])) is None
    monkeypatch.setattr("screening.archive.packed.MOST_PACKED_BYTES", 120_000)
    assert row_of(outcome, VERSION, steps_of(files["r.hea"])) is not None


def test_millivolts_of_the_first_samples() -> None:
    digital = np.array([[-5, 0, 1000, -32768]] * 12, "<i2")
    found = millivolts(digital, np.full(12, 200.0), np.full(12, -5))
    assert found.dtype == np.float32
    assert found[0, :3].tolist() == [0.0, np.float32(0.025), np.float32(5.025)]
    assert np.isnan(found[:, 3]).all()


def test_a_version_covers_the_files_that_it_tells_of() -> None:
    _, version = version_of([(".hea", 900, "1"), (".dat", 120_000, "2"), (".v", 10, "")])
    covered = {
        path: is_covered(version, "a/r.hea", path) for path in ("a/r.hea", "a/r.dat", "a/r.v", "a/s.dat", "r.dat")
    }
    assert covered == {"a/r.hea": True, "a/r.dat": True, "a/r.v": False, "a/s.dat": False, "r.dat": False}


# --- Whole archives --------------------------------------------------------------------------------------------------


def of_all(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Return version and location of every record."""
    rows = [row for b in catalog.iter_batches(["record_id", "version"], with_location=True) for row in b.to_pylist()]
    return {row["record_id"]: (row["version"], row["location"]) for row in rows}


def read_all(pack: Pack, catalog: Catalog) -> dict[str, Recording | Rejected | None]:
    """Return what a pack gives for every record of a catalog."""
    known = of_all(catalog)
    ids, versions = list(known), [version for version, _ in known.values()]
    return dict(zip(ids, pack.read(pack.find(ids, versions), ids, versions, pool=None), strict=True))


def opened(folder: Folder, catalog: Catalog) -> Pack:
    pack = pack_of(open_pack(folder, root_url=catalog.root_url, key_id=catalog.key_id))
    assert pack is not None
    return pack


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Folder]:
    """Return the catalog and the pack of an archive of all good and bad cases."""
    at = tmp_path_factory.mktemp("everything")
    corpus.write(corpus.all_cases(), at / "archive")
    build_catalog(str(at / "archive"), str(at / "catalog"), deidentified=True)
    catalog, folder = open_catalog(str(at / "catalog")), Folder(str(at / "pack"))
    pack_archive(catalog, folder)
    return catalog, folder


def test_every_case_comes_out_of_the_pack_as_out_of_the_archive(everything: tuple[Catalog, Folder]) -> None:
    catalog, folder = everything
    reader = ArchiveReader(catalog.root_url)
    found, wrong, left = read_all(opened(folder, catalog), catalog), [], set()
    for record_id, (version, place) in of_all(catalog).items():
        outcome = reader.read(place, record_id, version=version)
        if found[record_id] is None:
            left.add((record_id.split("/")[0], isinstance(outcome, Recording)))
        elif not same(found[record_id], outcome):
            wrong.append(record_id)
    assert wrong == []
    # Recordings whose version does not tell of all their files.
    elsewhere = {"file_in_subfolder", "segments", "segments_variable", "flac", "flac_that_expands"}
    assert {name for name, is_good in left if is_good} == elsewhere
    packed_reasons = {outcome.reason for outcome in found.values() if isinstance(outcome, Rejected)}
    assert {Reason.CHECKSUM_MISMATCH, Reason.TRUNCATED, Reason.MISSING_LEADS, Reason.MISSING_UNITS} <= packed_reasons
    assert Reason.MISSING_FILE not in packed_reasons


def test_most_signals_are_int16(everything: tuple[Catalog, Folder]) -> None:
    _, folder = everything
    parts = [folder.path(name) for name in folder.names() if name.startswith("part-")]
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    by_float = {"eight_leads", "baseline_huge", "baseline_least", "gain_huge"}  # derived leads, and more than int32
    assert sum(row["digital"] is not None for row in rows) > 40
    assert {row["record_id"].split("/")[0] for row in rows if row["signal_mV"] is not None} == by_float


def test_reading_is_what_packs_were_made_by() -> None:
    """Packs are of one way to read. Where this fails, reading changed, or the corpus alone.

    For the first raise READING; then note the new digest here.
    """
    digest = hashlib.sha256()
    for case in corpus.all_cases():
        folder = case.header[: case.header.rfind("/") + 1]
        files = {name.removeprefix(folder): data for name, data in case.files.items()}
        outcome = decode("a", case.files[case.header], files)
        if isinstance(outcome, Recording):
            digest.update(outcome.signal_mV.tobytes())
            outcome = dataclasses.replace(outcome, signal_mV=np.zeros((12, 0), np.float32))
        outcome = dataclasses.replace(outcome, sha256="")  # a gzip file of the corpus holds the time
        digest.update(repr(dataclasses.astuple(outcome)).encode())
    assert (READING, digest.hexdigest()[:16]) == (4, "5ad49c0a8cb220da")


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Folder]:
    """Return an archive of two short records and one that is rejected, packed."""
    at = tmp_path_factory.mktemp("small")
    for seed, name in enumerate("abc"):
        made = record(digital=ecg(30, seed=seed))
        (at / "archive" / name).mkdir(parents=True)
        for file, data in made.items():
            (at / "archive" / name / file).write_bytes(data[:-2] if (name, file) == ("c", "r.dat") else data)
    build_catalog(str(at / "archive"), str(at / "catalog"), deidentified=True)
    catalog, folder = open_catalog(str(at / "catalog")), Folder(str(at / "pack"))
    pack_archive(catalog, folder)
    return catalog, folder


def test_every_flipped_byte_is_found_or_does_no_harm(small: tuple[Catalog, Folder], tmp_path: Path) -> None:
    catalog, folder = small
    whole = read_all(opened(folder, catalog), catalog)
    assert [type(outcome) for outcome in whole.values()] == [Recording, Recording, Rejected]
    ids, versions = list(whole), [version for version, _ in of_all(catalog).values()]
    damaged = Folder(str(tmp_path / "pack"))
    shutil.copytree(folder.url, damaged.url)
    ref = open_pack(damaged, root_url=catalog.root_url, key_id=catalog.key_id)
    unnoticed = 0
    for name in (n for n in damaged.names() if n.startswith(("part-", "index-"))):
        path = Path(damaged.path(name))
        data = path.read_bytes()
        for at in range(0, len(data), 1 if name.startswith("part-") else 16):
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            try:
                pack = Pack(damaged, ref.index)
            except ValueError:
                continue
            found = list(pack.read(pack.find(ids, versions), ids, versions, pool=None))
            assert all(a is None or same(a, b) for a, b in zip(found, whole.values(), strict=True)), (name, at)
            unnoticed += None not in found
        path.write_bytes(data)
    assert unnoticed == 4  # the magic number at the beginning, which nothing reads


def test_a_pack_that_is_cut_or_gone_gives_nothing(small: tuple[Catalog, Folder], tmp_path: Path) -> None:
    catalog, folder = small
    damaged = Folder(str(tmp_path / "pack"))
    shutil.copytree(folder.url, damaged.url)
    ref = open_pack(damaged, root_url=catalog.root_url, key_id=catalog.key_id)
    (part,) = [name for name in damaged.names() if name.startswith("part-")]
    data = damaged.read(part)
    for kept in (0, 3, 100, len(data) - 1):
        damaged.write(part, data[:kept])
        assert set(read_all(Pack(damaged, ref.index), catalog).values()) == {None}
    damaged.remove(part)
    assert set(read_all(Pack(damaged, ref.index), catalog).values()) == {None}
    damaged.write(ref.index, b"PK no index")
    assert pack_of(ref) is None
    damaged.remove(ref.index)
    assert pack_of(ref) is None
    assert pack_of(PackRef(Folder(str(tmp_path / "nowhere")), "index-0.npz")) is None


def test_a_row_of_another_record_is_not_used(small: tuple[Catalog, Folder]) -> None:
    """Two records may share the 64 bits by which rows are found."""
    catalog, folder = small
    pack = opened(folder, catalog)
    ids, versions = ["a/r", "b/r"], [of_all(catalog)[name][0] for name in ("a/r", "b/r")]
    rows = pack.find(ids, versions)
    assert list(pack.read(rows[::-1], ids, versions, pool=None)) == [None, None]
    assert list(pack.read(rows, ids, versions[::-1], pool=None)) == [None, None] or versions[0] == versions[1]
    assert (pack.find(ids, ["another", "another"]) == -1).all()


def test_an_index_that_is_no_index_is_refused(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for data in (b"PK", b"", b"\x93NUMPY"):
        folder.write(index_name(data), data)
        with pytest.raises(ValueError, match=r".+"):
            Pack(folder, index_name(data))


def test_open_pack_says_what_is_wrong(small: tuple[Catalog, Folder], tmp_path: Path) -> None:
    catalog, folder = small
    with pytest.raises(UserError, match="there is no pack at .*; make one with: screening pack --out"):
        open_pack(Folder(str(tmp_path)), root_url="x", key_id=None)
    with pytest.raises(
        UserError, match="is the pack of another archive, or of one with another key or at another place"
    ):
        open_pack(folder, root_url="elsewhere", key_id=None)
    with pytest.raises(UserError, match="is the pack of another archive"):
        open_pack(folder, root_url=catalog.root_url, key_id="0123")
    other = Folder(str(tmp_path / "other"))
    other.write("pack.json", folder.read("pack.json").replace(f'"reading": {READING}'.encode(), b'"reading": 0'))
    with pytest.raises(UserError, match="was made by another version of this program; renew it with `screening pack`"):
        open_pack(other, root_url=catalog.root_url, key_id=catalog.key_id)
    for bad in (b"", b"[]", b"{}", b"\xff"):
        other.write("pack.json", bad)
        with pytest.raises(UserError, match="is damaged; remove it, and make it again with `screening pack`"):
            open_pack(other, root_url=catalog.root_url, key_id=catalog.key_id)
