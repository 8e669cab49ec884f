"""Decoding that hangs, eats memory or crashes costs one record, and only after a second try by itself."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from screening.archive import isolated, reader
from screening.archive.isolated import Decoder, Limits, OutOfTime, memory_limit, time_limit
from screening.contract import Reason
from screening.recording import Recording, Rejected
from tests import corpus, wfdb_files

LIMITS = Limits(seconds=2.0, memory_mb=256)

HOSTILE = """
import os, time
from screening.archive import wfdb

def decode(record_id, header, files, real=wfdb.decode):
    if b"# HANG" in header:
        time.sleep(3600)
    if b"# EAT" in header:
        held = [bytearray(2**24) for _ in range(2**16)]
    if b"# CRASH" in header:
        os.abort()
    if b"# ONCE" in header and not os.path.exists(MARK):
        open(MARK, "w").close()
        os.abort()
    return real(record_id, header, files)

wfdb.decode = decode
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the decoder of child processes hang, eat or crash where a comment of the header says so."""
    mark = tmp_path / "mark"
    (tmp_path / "sitecustomize.py").write_text(f"MARK = {str(mark)!r}\n{HOSTILE}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return mark


def record(comment: str = "") -> tuple[bytes, dict[str, bytes]]:
    files = wfdb_files.record()
    header = files.pop("r.hea")
    return header + comment.encode(), files


def test_a_child_decodes_as_the_process_itself_does() -> None:
    with Decoder(LIMITS, isolated=True) as decoder:
        for case in (*corpus.valid_cases()[:12], *corpus.broken_cases()[::6]):
            folder, _, header = case.header.rpartition("/")
            files = {name.removeprefix(f"{folder}/"): data for name, data in case.files.items()}
            head = files.pop(header)
            here, there = reader.decode("id", head, files), decoder.decode("id", head, files)
            assert type(here) is type(there), case.name
            if isinstance(here, Recording) and isinstance(there, Recording):
                np.testing.assert_array_equal(here.signal_mV, there.signal_mV)
                assert [
                    getattr(here, name) for name in ("rate_hz", "sha256", "source_format", "unit_source", "flags")
                ] == [getattr(there, name) for name in ("rate_hz", "sha256", "source_format", "unit_source", "flags")]
            else:
                assert here == there


@pytest.mark.parametrize(
    ("comment", "reason", "detail"),
    [
        ("# HANG\n", Reason.TOO_LARGE, "decoding takes more than 2 s"),
        ("# EAT\n", Reason.TOO_LARGE, "decoding takes more than 256 MB of memory"),
        ("# CRASH\n", Reason.UNDECODABLE, "the decoder crashed"),
    ],
)
def test_a_hostile_record_is_rejected_and_the_next_is_read(
    hostile: Path, comment: str, reason: Reason, detail: str
) -> None:
    with Decoder(LIMITS, isolated=True) as decoder:
        assert isinstance(decoder.decode("good", *record()), Recording)
        assert decoder.decode("bad", *record(comment)) == Rejected("bad", reason, detail)
        assert isinstance(decoder.decode("good", *record()), Recording)


def test_what_fails_once_is_tried_again_before_it_counts(hostile: Path) -> None:
    with Decoder(LIMITS, isolated=True) as decoder:
        assert isinstance(decoder.decode("good", *record()), Recording)
        assert isinstance(decoder.decode("once", *record("# ONCE\n")), Recording)
    assert hostile.exists()


@pytest.mark.parametrize("how", ["hangs", "eats"])
def test_what_takes_too_long_or_too_much_here_is_tried_in_a_child(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> Recording:
        if how == "eats":
            raise MemoryError
        time.sleep(60)
        raise AssertionError

    monkeypatch.setattr(isolated, "decode", decode)
    begun = time.monotonic()
    with Decoder(LIMITS, isolated=False) as decoder:
        assert isinstance(decoder.decode("good", *record()), Recording)
    assert time.monotonic() - begun < 30


def test_an_alarm_goes_through_code_that_catches_every_exception() -> None:
    def stubborn() -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue

    with pytest.raises(OutOfTime), time_limit(0.2):
        stubborn()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_memory_is_limited_for_as_long_as_a_record_is_decoded() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), memory_limit(256):
        bytearray(2**29)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    bytearray(2**29)


def test_a_child_that_does_not_read_what_it_is_sent_does_not_hold_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = [sys.executable, "-c", "import time; time.sleep(60)"]

    def start(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(deaf, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(isolated.child, "start", start)
    begun = time.monotonic()
    with Decoder(Limits(0.5, 256), isolated=True) as decoder:
        found = decoder.decode("id", b"header", {"r.dat": bytes(8 * 2**20)})
    assert found == Rejected("id", Reason.TOO_LARGE, "decoding takes more than 0.5 s")
    assert time.monotonic() - begun < 30


def test_code_that_hears_no_alarm_ends_its_process() -> None:
    pid = os.fork()
    if not pid:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as a loop in C does, between two bytecodes
        with time_limit(0.1):
            while True:
                pass
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGPROF


def test_outside_of_the_main_thread_there_is_no_limit() -> None:
    seen: list[str] = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.1)
        seen.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done"]
