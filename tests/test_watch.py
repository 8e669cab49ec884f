"""What the work rests on is watched: where it is gone the work is interrupted, and where it stumbles it is not."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from screening import watch
from screening.watch import answers, is_listening, watched


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look a hundred times a second; and hear SIGINT, which shells make programs in the background ignore."""
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_gone_for_good_interrupts_the_work() -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(20)

    with pytest.raises(KeyboardInterrupt), watched(begun.is_set, looks=3) as lost:
        work()
    assert lost.is_set()


def test_what_is_gone_for_a_moment_does_not() -> None:
    seen: list[bool] = []

    def gone() -> bool:
        seen.append(len(seen) % 3 != 2)
        return seen[-1]

    with watched(gone, looks=3) as lost:
        while len(seen) < 12:
            time.sleep(0.01)
    assert not lost.is_set()


def test_who_listens_and_who_answers_is_seen(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as network:
        assert not is_listening(path)
        unix.bind(path)
        unix.listen()
        network.bind(("127.0.0.1", 0))
        network.listen()
        address = f"127.0.0.1:{network.getsockname()[1]}"
        assert is_listening(path)
        assert answers(address)
    assert not is_listening(path)
    assert not answers(address)
