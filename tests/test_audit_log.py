"""The audit log: what is appended stays, in order, and every change shows."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from screening.audit_log import FIRST, AuditLog, Verdict
from screening.errors import UserError
from screening.storage import Folder


@pytest.fixture(params=["file", "s3"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> AuditLog:
    if request.param == "s3":
        return AuditLog("s3://screening/audit", request.getfixturevalue("s3"))
    return AuditLog(str(tmp_path / "state" / "audit.jsonl"))


def fill(log: AuditLog, count: int = 5) -> list[dict[str, Any]]:
    return [
        log.append("run.published", {"run_id": str(n)}, at=f"2026-01-0{n + 1}", who="ann@host") for n in range(count)
    ]


def test_entries_follow_one_another(log: AuditLog) -> None:
    written = fill(log)
    assert list(log.entries()) == written
    assert [entry["n"] for entry in written] == [1, 2, 3, 4, 5]
    assert [entry["prev"] for entry in written] == [FIRST, *(entry["sha256"] for entry in written[:-1])]
    found = log.verify()
    assert (found.entries, found.head, found.faults) == (5, written[-1]["sha256"], ())


def write_many(url: str, writer: int) -> None:
    for n in range(40):
        AuditLog(url).append("run.started", {"writer": writer, "n": n}, at="now", who="a@b")


def test_writers_at_once_keep_one_chain(tmp_path: Path) -> None:
    url = str(tmp_path / "audit.jsonl")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(url, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = AuditLog(url).verify()
    assert (found.entries, found.faults) == (160, ())
    of_each = [
        [e["what"]["n"] for e in AuditLog(url).entries() if e["what"]["writer"] == number] for number in range(4)
    ]
    assert of_each == [list(range(40))] * 4


def test_any_flipped_byte_shows(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "audit.jsonl"))
    fill(log, 4)
    path = tmp_path / "audit.jsonl"
    whole = path.read_bytes()
    for at in range(len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 7]) + whole[at + 1 :])
        assert log.verify().faults, at
    path.write_bytes(whole)
    assert not log.verify().faults


def test_what_is_taken_out_moved_or_put_in_shows(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "audit.jsonl"))
    fill(log)
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    other = AuditLog(str(tmp_path / "other.jsonl"))
    fill(other, 2)
    stranger = (tmp_path / "other.jsonl").read_bytes().splitlines(keepends=True)[1]
    for name, changed in {
        "first removed": lines[1:],
        "middle removed": lines[:2] + lines[3:],
        "moved": [lines[0], lines[2], lines[1], *lines[3:]],
        "doubled": [*lines[:3], lines[2], *lines[3:]],
        "another log's put in": [*lines[:2], stranger, *lines[2:]],
        "a line of no entry": [*lines[:2], b"notes\n", *lines[2:]],
    }.items():
        path.write_bytes(b"".join(changed))
        assert log.verify().faults, name
    path.write_bytes(b"".join(lines[:-1]))  # the tail: only the head that was noted elsewhere tells
    found = log.verify()
    assert (found.entries, found.faults) == (4, ())
    assert found.head != json.loads(lines[-1])["sha256"]


@pytest.mark.parametrize("cut", [1, 30, None])
def test_a_line_that_was_torn_is_told_and_the_chain_goes_on(tmp_path: Path, cut: int | None) -> None:
    """``cut`` None: all but the newline was written."""
    log = AuditLog(str(tmp_path / "audit.jsonl"))
    fill(log, 2)
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: cut if cut else -1])
    assert bool(log.verify().faults) == bool(cut)
    after = log.append("run.published", {}, at="later", who="ann@host")
    assert after["n"] == (2 if cut else 3)
    found = log.verify()
    assert (found.faults, found.head) == ((), after["sha256"])
    assert log.append("x", {}, at="", who="")["prev"] == after["sha256"]
    if cut:  # a torn line is part of the record: taking it away shows
        kept = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([kept[0], *kept[2:]]))
        assert log.verify().faults


def test_two_writers_killed_one_after_the_other_break_nothing(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "audit.jsonl"))
    fill(log, 3)
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2][:50])
    after = log.append("run.published", {}, at="later", who="ann@host")
    assert log.verify() == Verdict(2, after["sha256"], (), torn=2)
    whole = path.read_bytes()
    for at in range(len(lines[0]), len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert log.verify().faults, at


def test_an_entry_is_on_the_disk_before_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published or erased before the power failed must not be missing from the log afterwards."""
    log, synced = AuditLog(str(tmp_path / "audit.jsonl")), []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    fill(log, 1)
    assert synced == [(tmp_path / "audit.jsonl").stat().st_size, "folder"]
    fill(log, 1)
    assert synced[2:] == [(tmp_path / "audit.jsonl").stat().st_size]


def append_where_little_fits(url: str, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with pytest.raises(UserError, match="cannot be written"):
        AuditLog(url).append("run.started", {"filler": "x" * 3000}, at="now", who="a@b")


@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_is_told_and_leaves_no_half_entry(tmp_path: Path, room: int) -> None:
    url = str(tmp_path / "audit.jsonl")
    fill(AuditLog(url), 2)
    before = Path(url).read_bytes()
    writer = multiprocessing.get_context("spawn").Process(
        target=append_where_little_fits, args=(url, len(before) + room)
    )
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    assert Path(url).read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        b'{"n": "x", "event": 1, "prev": [], "sha256": {}}',
        b'{"n": 1.5, "at": "", "event": "", "who": "", "what": {}, "prev": "", "sha256": ""}',
        b"[" * 100_000,
        b"null",
        b"\xff\xfe",
    ],
)
def test_foreign_lines_are_faults_and_not_crashes(tmp_path: Path, line: bytes) -> None:
    log = AuditLog(str(tmp_path / "audit.jsonl"))
    fill(log, 1)
    with open(tmp_path / "audit.jsonl", "ab") as file:
        file.write(line + b"\n")
    assert log.verify().faults
    assert log.append("x", {}, at="", who="")["n"] == 2
    assert log.verify().faults == ("before line 3 stands something that is no entry",)


def test_objects_that_were_renamed_or_removed_show(s3: dict[str, Any]) -> None:
    log, folder = AuditLog("s3://screening/audit", s3), Folder("s3://screening/audit", s3)
    log.require()
    fill(log, 3)
    whole = {name: folder.read(name) for name in folder.names()}
    for name, changed in {
        "renamed": {"000000003.json": None, "000000007.json": whole["000000003.json"]},
        "removed": {"000000002.json": None},
        "damaged": {"000000001.json": whole["000000001.json"][:-1]},
    }.items():
        for file, data in changed.items():
            folder.write(file, data) if data is not None else folder.remove(file)
        assert log.verify().faults, name
        folder.remove("000000007.json")
        for file, data in whole.items():
            folder.write(file, data)
    assert log.verify().faults == ()


def test_an_object_store_that_lets_nobody_write_is_said_before_the_work(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    log = AuditLog("s3://screening/audit", s3)
    monkeypatch.setattr("s3fs.S3FileSystem.pipe_file", closed)
    with pytest.raises(UserError, match="the audit log s3://screening/audit cannot be written"):
        log.require()


def write_until_killed(url: str) -> None:
    while True:
        AuditLog(url).append("run.started", {"filler": "x" * 3000}, at="now", who="a@b")


def test_a_killed_writer_breaks_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "audit.jsonl")
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write_until_killed, args=(url,))
    writer.start()
    while not Path(url).exists() or Path(url).stat().st_size < 50_000:
        time.sleep(0.02)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    AuditLog(url).append("run.started", {}, at="after", who="a@b")
    assert AuditLog(url).verify().faults == ()


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"the audit log .*/file/audit.jsonl cannot be written \(Not a directory\); mend"
    ):
        AuditLog(str(tmp_path / "file" / "audit.jsonl")).require()
    with pytest.raises(UserError, match="there is no audit log at"):
        list(AuditLog(str(tmp_path / "none.jsonl")).entries())


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    fill(AuditLog(str(tmp_path / "state" / "audit.jsonl")), 1)
    assert (tmp_path / "state" / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
