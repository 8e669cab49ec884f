from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.signal import resample_poly

from screening.archive.reader import ArchiveReader
from screening.errors import UserError
from screening.recording import Recording
from screening.run import current as module
from screening.run.current import Current, Place, forget, open_current, read_row, refresh
from screening.run.duck import database
from screening.run.winners import DUPLICATES, INDEX, LEFT_OUT, _find_same
from screening.signal.tracing import tracing_hashes
from screening.storage import Folder
from tests.published import publish_run, sha256, write_catalog

REJECTED = {"status": "rejected", "reason": "noise"}


@pytest.fixture
def runs(tmp_path: Path) -> Folder:
    """Return RUNS with run "a" of r0..r6, beside what else lies there."""
    runs = Folder(str(tmp_path / "runs"))
    publish_run(runs, catalog(tmp_path, range(7)), "a", {"r2": REJECTED})
    runs.write("donors/index.json", b"{}")
    runs.write("models/x/bundle.json", b"{}")
    runs.write("notes.txt", b"")
    runs.write("unfinished/plan.json", b"{}")
    return runs


def catalog(tmp_path: Path, numbers: range, **columns: Any) -> Any:
    return write_catalog(
        tmp_path / "catalog", [{"record_id": f"r{n}", "patient_key": f"p{n}", **columns} for n in numbers]
    )


def rows(current: Current, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(current.folder.path(current.files[name]["path"])).to_pylist())


def places(current: Current) -> dict[str, tuple[str, int, int]]:
    return {
        row["record_id"]: (current.indexed[row["run"]].run_id, row["shard"], row["row"]) for row in rows(current, INDEX)
    }


def test_the_index_names_the_row_of_every_record_once(runs: Folder) -> None:
    current = refresh(runs)
    assert places(current) == {f"r{n}": ("a", n // 3, n % 3) for n in range(7)}
    assert [row["record_id"] for row in rows(current, INDEX)] == sorted(places(current))
    assert {row["record_id"]: row["scored"] for row in rows(current, INDEX)}["r2"] is False
    assert rows(current, INDEX)[0]["content"] == int(sha256("r0")[:16], 16)
    assert (current.counts["records"], current.counts["scored"], current.counts["rejected"]) == (7, 6, 1)
    assert rows(current, LEFT_OUT) == rows(current, DUPLICATES) == []
    for n in range(7):
        place = current.locate(f"r{n}")
        assert place is not None
        assert read_row(runs, place)["record_id"] == f"r{n}"
    assert current.locate("r7") is None


def test_nothing_new_makes_no_version(runs: Folder) -> None:
    assert refresh(runs) == refresh(runs) == open_current(runs)
    assert len([name for name in runs.names("current") if name.endswith(".json")]) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_run_that_entered_later_wins(runs: Folder, tmp_path: Path, together: bool) -> None:
    if not together:
        refresh(runs)
    # Finished after "a" though its id sorts before it; it plans two records that "a" has, one with another version.
    later = catalog(tmp_path, range(5, 9), version="2")
    publish_run(runs, later, "0", {"r5": REJECTED}, bundle="c", finished_at="2026-02-01T00:00:00+00:00")
    current = refresh(runs)
    assert [run.run_id for run in current.indexed] == ["a", "0"]
    found = places(current)
    assert [found[f"r{n}"] for n in (4, 5, 6, 7, 8)] == [
        ("a", 1, 1),
        ("0", 0, 0),
        ("0", 0, 1),
        ("0", 0, 2),
        ("0", 1, 0),
    ]
    lost = [(row["run"], row["shard"], row["row"], row["why"]) for row in rows(current, LEFT_OUT)]
    assert lost == [(0, 1, 2, "superseded"), (0, 2, 0, "superseded")]
    versions = {row["record_id"]: row["version"] for row in rows(current, INDEX)}
    assert versions["r4"] == versions["r3"] != versions["r5"]
    assert current.counts == {
        "records": 9,
        "scored": 7,
        "rejected": 2,
        "superseded": 2,
        "forgotten": 0,
        "duplicates": 0,
    }


def test_runs_that_enter_one_by_one_and_together_give_the_same_index(tmp_path: Path) -> None:
    made = {}
    for way in ("one by one", "together"):
        runs = Folder(str(tmp_path / way))
        for at in range(4):
            publish_run(
                runs, catalog(tmp_path, range(at, at + 6)), f"{at}", finished_at=f"2026-01-0{at + 1}T00:00:00+00:00"
            )
            if way == "one by one":
                refresh(runs)
        current = refresh(runs)
        made[way] = [rows(current, name) for name in (INDEX, LEFT_OUT, DUPLICATES)]
    assert made["one by one"] == made["together"]


def test_of_copies_the_smallest_record_id_stands_for_all(runs: Folder, tmp_path: Path) -> None:
    same = {"record_sha256": sha256("copied")}
    results = {
        "r1": same,
        "r2": same | REJECTED,
        "r4": same,
        "r6": same,
        "r5": {"record_sha256": None},
        "r3": {"record_sha256": None},
    }
    publish_run(runs, catalog(tmp_path, range(7)), "b", results)
    assert rows(refresh(runs), DUPLICATES) == [
        {"record_id": "r4", "same_as": "r1", "how": "bytes"},
        {"record_id": "r6", "same_as": "r1", "how": "bytes"},
    ]


def flipped(tracing_hash: str, *bits: int) -> str:
    return f"{int(tracing_hash, 16) ^ sum(1 << bit for bit in bits):064x}"


def test_a_tracing_in_another_format_is_the_same_tracing(runs: Folder, tmp_path: Path) -> None:
    """r1 ~ r4 differ in 24 bits, r4 ~ r6 in 20 others, so that r1 and r6 are one tracing though 44 bits apart."""
    first = sha256("a tracing")
    second = flipped(first, *range(24))
    third = flipped(second, *range(32, 52))
    results = {
        "r1": {"tracing_hash": first},
        "r2": {"tracing_hash": sha256("another")},
        "r3": {"tracing_hash": flipped(first, *range(64, 89))},  # 25 bits: not the same
        "r4": {"tracing_hash": second},
        "r5": {"tracing_hash": None},
        "r6": {"tracing_hash": third} | {"record_sha256": sha256("r6")},
        "r0": {"tracing_hash": None},
    }
    publish_run(runs, catalog(tmp_path, range(7)), "b", results)
    found = rows(refresh(runs), DUPLICATES)
    assert {row["record_id"]: (row["same_as"], row["how"]) for row in found} == {
        "r4": ("r1", "tracing"),
        "r6": ("r1", "tracing"),
    }


def test_copies_at_another_rate_are_found_by_their_bands(ptbxl: Path, runs: Folder, tmp_path: Path) -> None:
    """The hash changes in up to 17 bits that are spread over all of it."""
    reader = ArchiveReader(str(ptbxl))
    names = (ptbxl / "RECORDS").read_text().split()[:40]
    read = [reader.read(f"{name}.hea", name) for name in names]
    signals = np.stack([one.signal_mV for one in read if isinstance(one, Recording) and one.signal_mV.shape[1] == 5000])
    slow = resample_poly(signals, 1, 5, axis=2).astype(np.float32)
    hashes = [*tracing_hashes(signals, 500.0), *tracing_hashes(slow, 100.0)]
    count = len(signals)
    results = {f"r{n}": {"tracing_hash": one} for n, one in enumerate(hashes)}
    publish_run(runs, catalog(tmp_path, range(2 * count)), "b", results)
    found = {row["record_id"]: row["same_as"] for row in rows(refresh(runs), DUPLICATES)}
    pairs = {frozenset(pair) for pair in found.items()}
    assert pairs == {frozenset((f"r{n}", f"r{n + count}")) for n in range(count)}


def test_copies_that_differ_in_bits_anywhere_are_found_among_many(tmp_path: Path) -> None:
    """Among 20,000 others, of which many share a band and differ in more than 127 bits."""
    rng = np.random.default_rng(17)
    count, copies = 20_000, 1_000
    bits = rng.integers(0, 2, (count, 256), np.uint8)
    copied = bits[:copies].copy()
    for row in copied:
        row[rng.choice(256, 17, replace=False)] ^= 1
    words = np.packbits(np.concatenate([bits, copied]), axis=1).view(">u8").astype(np.uint64)
    table = {f"t{k}": words[:, k] for k in range(4)}
    table |= {"record_id": [f"{n:06d}" for n in range(len(words))], "scored": np.ones(len(words), bool)}
    index = tmp_path / "index.parquet"
    pq.write_table(pa.table(table | {"content": np.arange(len(words), dtype=np.uint64)}), index)
    with database(memory_mb=512) as db:
        _find_same(db, str(index))
        same = dict(db.execute("SELECT record_id, same_as FROM same").fetchall())
    wanted = {f"{count + n:06d}": f"{n:06d}" for n in range(copies)}
    assert same.items() <= wanted.items(), "others are taken for copies"
    assert len(same) >= 0.997 * copies


def test_an_index_of_before_tracings_were_told_is_built_upon(runs: Folder, tmp_path: Path) -> None:
    current = refresh(runs)
    path = Path(current.folder.path(current.files[INDEX]["path"]))
    old = pq.read_table(path).drop_columns(["t0", "t1", "t2", "t3"])
    pq.write_table(old, path)
    name = max(Path(current.folder.path("")).glob("version-*.json"))
    stored = json.loads(name.read_text())
    stored["files"][INDEX] |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    name.write_text(json.dumps(stored))
    publish_run(runs, catalog(tmp_path, range(20, 22)), "later", {"r20": {"tracing_hash": sha256("x")}})
    after = refresh(runs)
    assert after.counts["records"] == current.counts["records"] + 2


def test_forgotten_records_and_patients_leave_and_stay_away(runs: Folder, tmp_path: Path) -> None:
    before = refresh(runs)
    current = forget(runs, record_ids=["r1", "r9"], patient_keys=["p4"])
    assert current.version == before.version + 1
    assert set(places(current)) == {f"r{n}" for n in (0, 2, 3, 5, 6)}
    assert current.locate("r1") is None
    assert current.locate("r4") is None
    assert current.counts["forgotten"] == 2
    assert {row["why"] for row in rows(current, LEFT_OUT)} == {"forgotten"}
    left = [name for name in runs.names("current")]
    assert len(left) == 2, "files of earlier versions name the forgotten"
    # They come back with a later run under another id of the same patient, and are not known again.
    later = write_catalog(
        tmp_path / "catalog",
        [{"record_id": "r1"}, {"record_id": "r9"}, {"record_id": "new", "patient_key": "p4"}, {"record_id": "r8"}],
    )
    publish_run(runs, later, "b", finished_at="2026-03-01T00:00:00+00:00")
    again = refresh(runs)
    assert set(places(again)) == {f"r{n}" for n in (0, 2, 3, 5, 6, 8)}
    assert again.counts["forgotten"] == 5
    assert forget(runs, record_ids=["r1"]) == again


def test_a_removed_run_leaves_and_is_named(runs: Folder, tmp_path: Path) -> None:
    publish_run(runs, catalog(tmp_path, range(2, 4)), "b", finished_at="2026-02-01T00:00:00+00:00")
    assert places(refresh(runs))["r2"][0] == "b"
    shutil.rmtree(runs.path("b"))
    current = refresh(runs)
    assert current.dropped == ("b",)
    assert places(current)["r2"] == ("a", 0, 2)
    assert refresh(runs) == current


def test_a_run_that_is_published_anew_is_read_anew(runs: Folder, tmp_path: Path) -> None:
    refresh(runs)
    shutil.rmtree(runs.path("a"))
    publish_run(runs, catalog(tmp_path, range(3)), "a")
    current = refresh(runs)
    assert set(places(current)) == {"r0", "r1", "r2"}
    assert [run.records for run in current.indexed] == [3]


def test_two_that_refresh_at_once_agree(runs: Folder, tmp_path: Path) -> None:
    refresh(runs)
    publish_run(runs, catalog(tmp_path, range(6, 12)), "b", finished_at="2026-02-01T00:00:00+00:00")
    found: list[Current] = []
    threads = [threading.Thread(target=lambda: found.append(refresh(Folder(runs.url)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [current.version for current in found] == [2] * 4
    assert len({json.dumps(current.files, sort_keys=True) for current in found}) == 1
    assert len(runs.names("current")) == 4, "the losers' files are gone"


def test_a_tombstone_survives_a_race_with_a_refresh(
    runs: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh(runs)
    publish_run(runs, catalog(tmp_path, range(6, 9)), "b", finished_at="2026-02-01T00:00:00+00:00")
    build, raced = module.write_files, []

    def build_while_another_forgets(*args: Any, **kwargs: Any) -> dict[str, int]:
        if not raced:
            raced.append(True)
            forget(runs, record_ids=["r7"])
        return build(*args, **kwargs)

    monkeypatch.setattr(module, "write_files", build_while_another_forgets)
    current = refresh(runs)
    assert current.version == 2
    assert current.forgotten_records == ("r7",)
    assert "r7" not in places(current)
    assert "r8" in places(current)


def test_a_number_that_was_pruned_is_not_won(runs: Folder) -> None:
    stale = refresh(runs)
    for name in "xyz":
        forget(runs, record_ids=[name])
    published = module._all_published(runs)
    late = module._add_version(runs, stale, ["a"], published, base=None, forgotten=(("w",), ()), memory_mb=256)
    assert late is None
    assert refresh(runs).forgotten_records == ("x", "y", "z")
    assert len(runs.names("current")) == 2


@pytest.mark.parametrize("name", [INDEX, LEFT_OUT, DUPLICATES])
@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_damaged_index_is_made_again(runs: Folder, name: str, harm: str) -> None:
    before = refresh(runs)
    path = Path(before.folder.path(before.files[name]["path"]))
    if harm == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    after = refresh(runs)
    assert after.version == 2
    assert places(after) == {f"r{n}": ("a", n // 3, n % 3) for n in range(7)}


def test_a_damaged_version_is_not_replaced_because_it_holds_tombstones(runs: Folder) -> None:
    forget(runs, record_ids=["r1"])
    Path(runs.path("current/version-000001.json")).write_bytes(b'{"schema_version": 1, ')
    with pytest.raises(UserError, match=r"version-000001\.json .* holds what was forgotten: restore it from a copy"):
        refresh(runs)


def test_old_versions_are_removed_but_the_last_few(runs: Folder) -> None:
    for at in range(6):
        refresh(runs)
        publish_run(runs, write_catalog(Path(runs.path("")).parent / "c", [{"record_id": f"n{at}"}]), f"n{at}")
    current = refresh(runs)
    kept = [name for name in runs.names("current") if name.endswith(".json")]
    assert current.version == 7
    assert kept == [f"version-00000{n}.json" for n in (5, 6, 7)]
    assert len(runs.names("current")) == 6


def test_no_published_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs holds no published run; finish one with `screening run"):
        refresh(Folder(str(tmp_path / "runs")))


def test_what_can_be_wrong_with_a_run_is_one_sentence(runs: Folder, tmp_path: Path) -> None:
    manifest = json.loads(runs.read("a/manifest.json"))
    cases: list[tuple[dict[str, Any] | bytes, str]] = [
        (b"{", r"a/manifest\.json in .* is damaged .*writes it again"),
        (manifest | {"run_id": "z"}, r"is of run z: a run's folder bears its id; move the copy"),
        (manifest | {"schema_version": 9}, r"has results of version 9, and this program reads 2"),
        (manifest | {"files": manifest["files"][:-1] + [manifest["files"][-1] | {"rows": 5}]}, r"has 1 rows and not 5"),
        (manifest | {"files": [{**manifest["files"][0], "name": "../../x"}]}, r"names '\.\./\.\./x' as shard 0"),
    ]
    for stored, message in cases:
        runs.write("a/manifest.json", stored if isinstance(stored, bytes) else json.dumps(stored).encode())
        with pytest.raises(UserError, match=message):
            refresh(runs)
        assert open_current(runs) is None
    runs.write("a/manifest.json", json.dumps(manifest).encode())
    whole = runs.read("a/results/part-00001.parquet")
    runs.write("a/results/part-00001.parquet", runs.read("a/results/part-00000.parquet"))
    with pytest.raises(UserError, match="which are of other records"):
        refresh(runs)
    runs.write("a/results/part-00001.parquet", whole[:-9])
    with pytest.raises(UserError, match=r"part-00001\.parquet in the published run .* cannot be used"):
        refresh(runs)
    assert runs.names("current") == []


def test_ids_are_data_and_never_code(tmp_path: Path) -> None:
    runs, hostile = (
        Folder(str(tmp_path / "it's [a] *?%s")),
        ["a'; DROP TABLE x; --", 'b"', "ü\\", "\u202e", "' OR 1=1 --"],
    )
    publish_run(
        runs, write_catalog(tmp_path / "c", [{"record_id": name, "patient_key": name} for name in hostile]), "a"
    )
    current = refresh(runs)
    assert current.locate("' OR 1=1 --") == Place("a", 1, 1)
    left = forget(runs, record_ids=hostile[:1], patient_keys=hostile[4:])
    assert set(places(left)) == set(hostile[1:4])


def test_a_row_that_cannot_be_read_is_one_sentence(runs: Folder) -> None:
    current = refresh(runs)
    with pytest.raises(UserError, match=r"a/results/part-00009\.parquet in .* cannot be read"):
        read_row(runs, Place("a", 9, 0))
    with pytest.raises(UserError, match="cannot be read"):
        read_row(runs, Place("a", 0, 9))
    Path(current.folder.path(current.files[INDEX]["path"])).unlink()
    with pytest.raises(UserError, match="the index .* cannot be read"):
        current.locate("r1")


def test_the_index_lives_on_s3(s3: dict[str, Any], tmp_path: Path) -> None:
    runs = Folder("s3://screening/runs", s3)
    publish_run(runs, catalog(tmp_path, range(5)), "a")
    first = refresh(runs)
    publish_run(runs, catalog(tmp_path, range(4, 7)), "b", finished_at="2026-02-01T00:00:00+00:00")
    current = refresh(runs)
    assert refresh(runs) == current
    assert current.version == first.version + 1
    assert current.counts["superseded"] == 1
    assert current.locate("r4") == Place("b", 0, 0)
    place = current.locate("r3")
    assert place is not None
    assert read_row(runs, place)["record_id"] == "r3"
    assert forget(runs, patient_keys=["p4"]).locate("r4") is None
    assert len(runs.names("current")) == 2
