"""What files state is taken up within bounds: of time and memory, of what is unpacked, of the lengths of texts."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from screening.archive import formats, isolated
from screening.archive.build import CatalogSummary, build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.isolated import memory_limit
from screening.archive.labels import LabelRule
from screening.archive.stated import StatedFacts
from tests import hospital_files as made
from tests.people import PERSON
from tests.wfdb_files import ecg, record

KEY = PseudonymKey.of(b"a secret of more than thirty-two characters")
ID = f"<PatientID>{PERSON.id}</PatientID>".encode()


def catalog_of(archive: Path) -> tuple[CatalogSummary, list[dict[str, Any]]]:
    catalog = archive.parent / "catalog"
    summary = build_catalog(str(archive), str(catalog), key=KEY)
    return summary, [row for batch in open_catalog(str(catalog)).iter_batches() for row in batch.to_pylist()]


def test_xml_that_unpacks_to_very_much_states_nothing(tmp_path: Path) -> None:
    archive, good = tmp_path / "archive", made.muse(ecg(500))
    archive.mkdir()
    far = gzip.compress(good.replace(ID, b"<PatientID>" + b"1" * 60 * 2**20 + b"</PatientID>"), 1)
    near = gzip.compress(good.replace(ID, b"<PatientID>" + b"1" * 15 * 2**20 + b"</PatientID>"), 1)
    for number in range(12):
        (archive / f"far-{number}.xml.gz").write_bytes(far)
        (archive / f"near-{number}.xml.gz").write_bytes(near)
        (archive / f"lies-{number}.xml.gz").write_bytes(near[:-4] + bytes(4))  # of what it holds
    (archive / "good.xml.gz").write_bytes(gzip.compress(good))
    (archive / "parts.xml.gz").write_bytes(gzip.compress(good) + gzip.compress(b""))  # the last claims nothing
    # In a process of its own: what other tests left in the heap of this one is no matter of the scan.
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom tests.archive.test_stated import catalog_of\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\ncatalog_of(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", program, str(archive)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 500 * 1024
    summary, rows = catalog_of(archive)
    assert summary.records == 38
    assert sum(row["patient_key"] is not None for row in rows) == 2
    assert sum(row["age"] is not None for row in rows) == 14


def test_texts_that_are_too_long_are_no_names(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for name, long in (("short", 256), ("long", 257)):
        (archive / f"{name}.xml").write_bytes(
            made.muse(ecg(500)).replace(ID, b"<PatientID>%s</PatientID>" % (b"x" * long))
        )
        files = record(name)
        files[f"{name}.hea"] += b"# patient_id: %s\n" % (b"y" * long)
        for file, data in files.items():
            (archive / file).write_bytes(data)
    summary, rows = catalog_of(archive)
    assert "2 values of patient_id could not be understood and are null." in summary.warnings
    assert sorted(row["patient_key"] is not None for row in rows) == [False, False, True, True]


def test_memory_that_runs_out_states_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(formats.muse, "facts", none_left)
    assert formats.facts(made.muse(ecg(500))) is None


def children_from_now() -> Callable[[], set[psutil.Process]]:
    """Return what tells the child processes that are there and were not: readers of other tests may have theirs."""
    before = set(psutil.Process().children())
    return lambda: set(psutil.Process().children()) - before


def test_texts_that_are_too_long_are_left_out_and_counted_by_a_child_too() -> None:
    long = made.muse(ecg(500)).replace(ID, b"<PatientID>" + b"1" * 2**20 + b"</PatientID>")
    unreadable: Counter[str] = Counter()
    with StatedFacts(children=1) as stated:
        found = stated.of(gzip.compress(long), unreadable)
    assert found is not None
    assert found.patient_id is None
    assert found.age is not None
    assert unreadable == {"patient_id": 1}


def test_a_child_reads_what_the_process_itself_does() -> None:
    files = [writer(ecg(500) // 5) for _, writer in made.WRITERS.values()]
    files += [gzip.compress(files[0]), b"no file that is known", b""]
    with StatedFacts(small=-1, children=2) as stated, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: stated.of(data, Counter()), files))
    assert found == [formats.facts(data) for data in files]
    assert sum(facts is not None for facts in found) == len(made.WRITERS) + 1


def test_what_takes_too_long_states_nothing_and_ends_with_its_child() -> None:
    """Millions of empty items in a sequence of annotations: pydicom takes minutes for them."""
    good, items = made.dicom(ecg(500)), 2**20
    sequence = struct.pack("<HH2sHI", 0x0040, 0xB020, b"SQ", 0, 8 * items)
    hostile = good + sequence + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * items
    new_children, begun = children_from_now(), time.monotonic()
    with StatedFacts(seconds=5.0, children=1) as stated:
        assert stated.of(hostile, Counter()) is None
        assert stated.of(good + b"\0" * 2**19, Counter()) == formats.facts(good + b"\0" * 2**19)
        assert stated.of(gzip.compress(good), Counter()) == formats.facts(good)
        processes = new_children()
    assert time.monotonic() - begun < 60
    assert len(processes) == 1
    assert not any(process.is_running() for process in processes)


def test_a_file_on_which_the_child_dies_is_tried_once_more_and_the_next_is_read() -> None:
    good, new_children = gzip.compress(made.muse(ecg(500))), children_from_now()
    with StatedFacts(children=1) as stated:
        assert stated.of(good, Counter()) is not None
        (process,) = new_children()
        process.kill()
        assert stated.of(good, Counter()) is not None
        assert stated.of(good, Counter()) is not None


def test_the_first_try_of_a_decoder_has_a_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError), memory_limit(256):
        bytearray(2**30)
    assert bytearray(2**30)
    seen: list[str] = []

    def eats(*_: object) -> None:
        seen.append("here")
        bytearray(2**30)

    monkeypatch.setattr(isolated, "decode", eats)
    with isolated.Decoder(isolated.Limits(30, 256), isolated=False) as decoder:
        files = record()
        decoder.decode("x", files.pop("r.hea"), files)
        assert seen == ["here"]
        assert decoder._child is not None, "what took too much here was tried in a child"


def test_a_sentence_of_one_word_is_no_code(tmp_path: Path) -> None:
    """It may be a name that somebody dictated; where the label rule itself holds it, it is none."""
    writers = {**made.WRITERS}
    del writers["edf"]  # which states none
    for form, (suffix, writer) in writers.items():
        (tmp_path / "archive" / form).mkdir(parents=True)
        said = replace(PERSON, statement=PERSON.surname)
        (tmp_path / "archive" / form / f"r{suffix}").write_bytes(writer(ecg(500), person=said))
    rule = LabelRule(name="named", positive_codes=[PERSON.surname])
    for labels, kept in ((None, []), (rule, [PERSON.surname])):
        catalog = str(tmp_path / f"catalog-{len(kept)}")
        build_catalog(str(tmp_path / "archive"), catalog, key=KEY, **({"labels": labels} if labels else {}))
        rows = [row for batch in open_catalog(catalog).iter_batches() for row in batch.to_pylist()]
        assert {row["format"]: row["labels"] for row in rows} == dict.fromkeys(writers, kept)
