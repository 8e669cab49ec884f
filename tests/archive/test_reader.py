"""The door to an archive: what is absent or hostile is refused, what the storage does wrong is raised."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from screening.archive import reader as module
from screening.archive.build import build_catalog
from screening.archive.reader import ArchiveReader
from screening.contract import MAX_RECORD_BYTES, Reason
from screening.errors import UserError
from screening.recording import Recording, Rejected
from tests import corpus, wfdb_files
from tests.archive import reference

CASES = [*corpus.valid_cases(), *corpus.broken_cases(), *corpus.poor_cases()]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.write(CASES, folder)
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Return an archive of one good record, a/r.hea."""
    corpus.write([corpus.Case("a", {f"a/{k}": v for k, v in wfdb_files.record().items()}, "a/r.hea")], tmp_path)
    return tmp_path


def reason_of(got: Recording | Rejected) -> Reason | None:
    return got.reason if isinstance(got, Rejected) else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_of_the_corpus(case: corpus.Case, archive: Path) -> None:
    got = ArchiveReader(str(archive)).read(case.header, "the id")
    assert got.record_id == "the id"
    expected = None if case in corpus.poor_cases() else case.expected
    assert reason_of(got) == expected, got
    if isinstance(got, Rejected):
        assert re.search(case.message, got.detail), got
        assert case.name not in got.detail
        assert not re.search(r"\.(hea|dat|mat)", got.detail)


def test_a_real_record(ptbxl: Path) -> None:
    header = sorted(ptbxl.rglob("*.hea"))[0]
    got = ArchiveReader(str(ptbxl)).read(header.relative_to(ptbxl).as_posix(), "x")
    assert isinstance(got, Recording)
    np.testing.assert_array_equal(got.signal_mV, reference.read(header).p_signal.T.astype(np.float32))


# --- Storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["{}", "file://{}", "{}/"])
def test_urls_of_a_local_archive(one: Path, scheme: str) -> None:
    assert isinstance(ArchiveReader(scheme.format(one)).read("a/r.hea", "x"), Recording)


def test_relative_root(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(one.parent)
    assert isinstance(ArchiveReader(one.name).read("a/r.hea", "x"), Recording)


@pytest.fixture
def memory(archive: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    for path in archive.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/corpus/{path.relative_to(archive).as_posix()}", path.read_bytes())
    yield "memory://corpus"
    fs.rm("/corpus", recursive=True)


def test_any_storage_gives_the_same(archive: Path, memory: str) -> None:
    here, there = ArchiveReader(str(archive)), ArchiveReader(memory)
    for case in CASES:
        a, b = here.read(case.header, "x"), there.read(case.header, "x")
        if isinstance(a, Recording):
            assert isinstance(b, Recording), case.name
            assert (a.sha256, a.flags) == (b.sha256, b.flags)
        else:
            assert a == b, case.name


def test_object_store(one: Path, s3: dict[str, Any]) -> None:
    fs = fsspec.filesystem("s3", **s3)
    for path in one.rglob("r.*"):
        fs.pipe_file(f"screening/ecg/a/{path.name}", path.read_bytes())
    fs.pipe_file("screening/ecg/b/r.hea", (one / "a/r.hea").read_bytes())
    fs.pipe_file("screening/ecg/c/r.hea", (one / "a/r.hea").read_bytes())
    fs.pipe_file("screening/ecg/c/r.dat", b"")
    archive = ArchiveReader("s3://screening/ecg", s3)
    assert isinstance(archive.read("a/r.hea", "x"), Recording)
    assert reason_of(archive.read("b/r.hea", "x")) == Reason.MISSING_FILE
    assert reason_of(archive.read("c/r.hea", "x")) == Reason.EMPTY_FILE
    assert reason_of(archive.read("d/r.hea", "x")) == Reason.MISSING_FILE
    with pytest.raises(OSError, match="cannot be reached"):
        ArchiveReader("s3://no-such-bucket/ecg", s3).read("a/r.hea", "x")


def test_a_dead_object_store_says_nothing_of_the_record() -> None:
    options = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9", "skip_instance_cache": True}
    options["config_kwargs"] = {"retries": {"max_attempts": 1}}
    with pytest.raises(Exception, match="onnect"):  # the client's own error
        ArchiveReader("s3://bucket/ecg", options).read("a/r.hea", "x")


def test_unknown_scheme_is_the_users_error() -> None:
    with pytest.raises(UserError, match="cannot use 'nonsense://x' as an archive"):
        ArchiveReader("nonsense://x").read("a/r.hea", "x")


def test_pickles_after_use_and_says_the_same(one: Path) -> None:
    reader = ArchiveReader(str(one), {"auto_mkdir": False})
    first = reader.read("a/r.hea", "x")
    copy = pickle.loads(pickle.dumps(reader))
    second = copy.read("a/r.hea", "x")
    assert isinstance(first, Recording)
    assert isinstance(second, Recording)
    assert first.sha256 == second.sha256
    assert copy.storage_options == {"auto_mkdir": False}


def test_many_threads_read_at_once(archive: Path) -> None:
    reader = ArchiveReader(str(archive))
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda case: reader.read(case.header, case.name), CASES))
    poor = {case.name for case in corpus.poor_cases()}
    assert [reason_of(g) for g in got] == [None if case.name in poor else case.expected for case in CASES]


# --- Storage errors are raised ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT])
def test_errors_of_the_disk_are_raised(one: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "open", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        ArchiveReader(str(one)).read("a/r.hea", "x")


@pytest.mark.parametrize("closed", [("a/r.dat",), ("a/r.hea",), ("a/r.hea", "a/r.dat")])
def test_a_file_that_may_not_be_read_costs_its_record(
    one: Path, closed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an archive that can be read; one that is closed as a whole is told above."""
    corpus.write([corpus.Case("b", {f"b/{k}": v for k, v in wfdb_files.record().items()}, "b/r.hea")], one)
    real, number = os.open, iter([errno.EACCES, errno.EPERM] * 9)

    def fail(path: str, *flags: int) -> int:
        if path.endswith(closed):
            raise OSError(code := next(number), os.strerror(code))
        return real(path, *flags)

    monkeypatch.setattr(module.os, "open", fail)
    reader = ArchiveReader(str(one))
    for _ in range(2):
        got = reader.read("a/r.hea", "x")
        assert isinstance(got, Rejected)
        assert (got.reason, got.detail) == (Reason.MISSING_FILE, "this account may not read a file of the record")
    assert isinstance(reader.read("b/r.hea", "x"), Recording)
    build_catalog(str(one), str(one / "catalog"), deidentified=True)


@pytest.mark.parametrize("all_of_it", [False, True])
def test_an_object_that_may_not_be_read_costs_its_record(
    memory: str, all_of_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_system = fsspec.implementations.memory.MemoryFileSystem
    real = file_system.cat_file

    def fail(self: Any, path: str, **options: Any) -> bytes:
        if all_of_it or path.endswith("format_16/r.dat"):
            raise PermissionError("Access Denied")
        return bytes(real(self, path, **options))

    monkeypatch.setattr(file_system, "cat_file", fail)
    if all_of_it:
        with pytest.raises(PermissionError):
            ArchiveReader(memory).read("format_16/r.hea", "x")
    else:
        assert reason_of(ArchiveReader(memory).read("format_16/r.hea", "x")) == Reason.MISSING_FILE


def test_errors_of_a_remote_storage_are_raised(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise TimeoutError("read timed out")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", fail)
    with pytest.raises(TimeoutError, match="timed out"):
        ArchiveReader(memory).read("format_16/r.hea", "x")


def test_an_archive_that_is_gone_or_unmounted_rejects_nothing(one: Path) -> None:
    reader = ArchiveReader(str(one))
    assert isinstance(reader.read("a/r.hea", "x"), Recording)
    for path in list(one.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(OSError, match="gone or empty"):
        reader.read("a/r.hea", "x")
    one.rmdir()
    with pytest.raises(OSError, match="gone or empty"):
        reader.read("a/r.hea", "x")
    with pytest.raises(OSError, match="cannot be reached"):
        ArchiveReader("memory://no-such-archive").read("a/r.hea", "x")


# --- Hostile archives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["../a/r.hea", "/etc/passwd", "a/../../x", "a\\r.hea", "", "a//r.hea", "~/x"])
def test_a_location_outside_the_archive_is_refused(one: Path, location: str) -> None:
    got = ArchiveReader(str(one / "a")).read(location, "x")
    assert got == Rejected("x", Reason.UNSAFE_PATH, "a file of the record leads outside the archive")


def test_links_that_leave_the_archive_are_refused(one: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    shutil.copytree(one / "a", outside / "a")
    (one / "b").mkdir()
    shutil.copy(one / "a/r.hea", one / "b/r.hea")
    (one / "b/r.dat").symlink_to(outside / "a/r.dat")
    (one / "c").symlink_to(outside / "a")
    (one / "d").mkdir()
    (one / "d/r.hea").symlink_to(outside / "a/r.hea")
    (one / "d/r.dat").symlink_to("/dev/zero")
    sibling = Path(f"{one}-more")  # its path begins as the archive's does
    shutil.copytree(one / "a", sibling)
    (one / "e").symlink_to(sibling)
    reader = ArchiveReader(str(one))
    for location in ("b/r.hea", "c/r.hea", "d/r.hea", "e/r.hea"):
        assert reason_of(reader.read(location, "x")) == Reason.UNSAFE_PATH, location
    assert isinstance(reader.read("a/r.hea", "x"), Recording)


def test_links_within_the_archive_and_to_it_are_followed(one: Path) -> None:
    (one / "b").symlink_to("a")
    (one / "c").mkdir()
    for name in ("r.hea", "r.dat"):
        (one / "c" / name).symlink_to(f"../a/{name}")
    link = Path(f"{one}-link")
    link.symlink_to(one)
    for root in (one, link):
        for location in ("a/r.hea", "b/r.hea", "c/r.hea"):
            assert isinstance(ArchiveReader(str(root)).read(location, "x"), Recording), (root, location)


def test_what_is_no_file_is_refused_without_waiting(one: Path) -> None:
    data = one / "a/r.dat"
    data.unlink()
    reader = ArchiveReader(str(one))
    assert reason_of(reader.read("a/r.hea", "x")) == Reason.MISSING_FILE
    os.mkfifo(data)
    assert reason_of(reader.read("a/r.hea", "x")) == Reason.MISSING_FILE
    data.unlink()
    data.mkdir()
    assert reason_of(reader.read("a/r.hea", "x")) == Reason.MISSING_FILE
    data.rmdir()
    data.symlink_to("r.dat")
    got = reader.read("a/r.hea", "x")
    assert got == Rejected("x", Reason.UNSAFE_PATH, "the path of a file of the record cannot be followed")
    assert reason_of(reader.read("a/r.hea/r.hea", "x")) == Reason.MISSING_FILE


def test_a_large_file_is_refused_before_it_is_read(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(one / "a/r.dat", MAX_RECORD_BYTES)  # sparse
    sizes: list[int] = []
    read = os.read
    monkeypatch.setattr(module.os, "read", lambda fd, size: (sizes.append(size), read(fd, size))[1])
    got = ArchiveReader(str(one)).read("a/r.hea", "x")
    assert reason_of(got) == Reason.TOO_LARGE
    assert sum(sizes) < 10_000


def test_a_large_binary_file_in_place_of_a_header_is_named(one: Path) -> None:
    (one / "a/r.hea").write_bytes(bytes(128) + b"DICM" + bytes(3_000_000))
    got = ArchiveReader(str(one)).read("a/r.hea", "x")
    assert isinstance(got, Rejected)
    assert (got.reason, got.detail) == (Reason.TOO_SHORT, "the DICOM object holds no ECG waveform")
    (one / "a/r.hea").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(3_000_000))
    got = ArchiveReader(str(one)).read("a/r.hea", "x")
    assert got == Rejected("x", Reason.UNKNOWN_FORMAT, "a HDF5 or MATLAB 7.3 file, which no reader here knows")


def test_the_suffix_says_nothing(one: Path) -> None:
    (one / "a/r.hea").rename(one / "a/header.xml")
    assert isinstance(ArchiveReader(str(one)).read("a/header.xml", "x"), Recording)
