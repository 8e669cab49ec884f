"""Notifications to a real HTTP server and a real command, and what goes wrong with either."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from screening.errors import UserError
from screening.nightly.health import Finding, Level
from screening.nightly.notify import SIGNATURE, NotifySettings, is_told, notify, payload, secret_of
from screening.nightly.record import Outcome
from tests.nightly.test_health import NIGHT

FINDING = Finding("flag_rate", Level.ALARM, "Twice as many.")
BODY = payload(NIGHT, [FINDING])
SECRET = b"a secret of more than sixteen characters"


@dataclass
class Receiver:
    """A webhook that answers as it is told to, and keeps what it got."""

    url: str = ""
    answers: list[int] = field(default_factory=list)  # one after the other; 0: none in time
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made, over = Receiver(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.path, dict(self.headers), data))
            code = made.answers.pop(0) if made.answers else 204
            if code == 0:
                over.wait(5)
                return
            self.send_response(code)
            if 300 <= code < 400:
                self.send_header("Location", f"{made.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/T0/secret-part"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    over.set()
    server.shutdown()
    server.server_close()


def tell(settings: NotifySettings, **given: Any) -> tuple[list[str], list[float]]:
    """Return what went wrong, and the pauses that were made."""
    pauses: list[float] = []
    return notify(BODY, settings, now=lambda: 1_795_000_000.5, sleep=pauses.append, **given), pauses


def hook(receiver: Receiver, **given: Any) -> NotifySettings:
    return NotifySettings(webhook=receiver.url, **given)


def test_the_webhook_gets_the_night_once_and_can_check_that_it_is_ours(receiver: Receiver) -> None:
    assert tell(hook(receiver), secret=SECRET) == ([], [])
    ((_, headers, data),) = receiver.got
    assert json.loads(data) == BODY
    at, _, digest = headers[SIGNATURE].partition(",v1=")
    assert at == "t=1795000000"
    assert digest == hmac.new(SECRET, b"1795000000." + data, hashlib.sha256).hexdigest()
    assert headers["Content-Type"] == "application/json"
    assert tell(hook(receiver)) == ([], [])
    assert SIGNATURE not in receiver.got[1][1]


def test_a_receiver_in_trouble_is_asked_again_a_few_times_with_the_same_key(receiver: Receiver) -> None:
    receiver.answers = [503, 429]
    assert tell(hook(receiver)) == ([], [2.0, 8.0])
    assert len({headers["Idempotency-Key"] for _, headers, _ in receiver.got}) == 1
    receiver.answers = [500, 500, 500, 500]
    (said,), _ = tell(hook(receiver))
    assert (
        said
        == "the webhook at 127.0.0.1 was not told of the night: it answered 500, 3 times; the night itself is as it is"
    )
    assert len(receiver.got) == 6


@pytest.mark.parametrize(
    ("code", "said"), [(302, "it answered 302, which points elsewhere and is not followed"), (403, "it answered 403")]
)
def test_answers_that_stay_as_they_are_are_not_asked_for_again(receiver: Receiver, code: int, said: str) -> None:
    receiver.answers = [code]
    found, pauses = tell(hook(receiver), secret=SECRET)
    assert found == [f"the webhook at 127.0.0.1 was not told of the night: {said}; the night itself is as it is"]
    assert pauses == []
    assert [path for path, _, _ in receiver.got] == ["/T0/secret-part"]  # nothing went to where it pointed
    assert "secret-part" not in found[0]


def test_a_receiver_that_is_silent_or_gone(receiver: Receiver) -> None:
    receiver.answers = [0, 0, 0]
    (said,), pauses = tell(hook(receiver, timeout_s=0.2))
    assert "no answer in time, 3 times" in said
    assert pauses == [2.0, 8.0]
    (said,), _ = tell(NotifySettings(webhook="http://127.0.0.1:9/x"))
    assert "ConnectionRefusedError, 3 times" in said


def test_only_https_but_to_this_machine() -> None:
    NotifySettings(webhook="https://example.org/x")
    for url, said in {
        "http://example.org/x": "it must be https; http is for",
        "ftp://x/y": "an https URL",
        "x": "URL",
    }.items():
        with pytest.raises(ValidationError, match=said):
            NotifySettings(webhook=url)


def test_secrets_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    assert (
        secret_of(NotifySettings(secret_file=str(path)), {"SCREENING_WEBHOOK_SECRET": "another of sixteen"}) == SECRET
    )
    assert secret_of(NotifySettings(), {"SCREENING_WEBHOOK_SECRET": SECRET.decode()}) == SECRET
    assert secret_of(NotifySettings(), {}) is None
    with pytest.raises(UserError, match=r"the webhook's secret .*/absent cannot be read: No such file or directory"):
        secret_of(NotifySettings(secret_file=str(tmp_path / "absent")), {})
    with pytest.raises(UserError, match="shorter than 16 characters; `openssl rand -hex 32` makes one"):
        secret_of(NotifySettings(), {"SCREENING_WEBHOOK_SECRET": "short"})


def test_a_command_gets_the_night_without_a_shell_and_without_our_secrets(tmp_path: Path) -> None:
    out = tmp_path / "out $(touch shell)"
    program = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"
    settings = NotifySettings(command=(sys.executable, "-c", program, str(out)))
    assert tell(settings, environment={"SCREENING_PSEUDONYM_KEY": "k", "LANG": "C"}) == ([], [])
    body, environment = json.loads(out.read_text())
    assert body == BODY
    assert environment["LANG"] == "C"
    assert "SCREENING_PSEUDONYM_KEY" not in environment


def test_commands_that_fail_hang_or_are_not_there() -> None:
    (said,), _ = tell(NotifySettings(command=(sys.executable, "-c", "raise SystemExit(7)")))
    assert said.endswith("ended with 7, so that nobody may have been told of the night")
    (said,), _ = tell(NotifySettings(command=("/no/such/program", "--token", "hidden")))
    assert said == "the command program could not be started to tell of the night: No such file or directory"
    assert tell(NotifySettings(command=("true",))) == ([], [])  # it does not read its input
    mark = f"{time.time():.6f}"
    hangs = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60) # {mark}'])"
    (said,), _ = tell(NotifySettings(command=(sys.executable, "-c", hangs), timeout_s=1))
    assert said.endswith("took longer than 1 s to tell of the night, and was ended")
    time.sleep(0.2)
    left = [p for p in psutil.process_iter(["cmdline", "status"]) if mark in " ".join(p.info["cmdline"] or ())]
    assert [p for p in left if p.info["status"] != psutil.STATUS_ZOMBIE] == []  # its children went with it


def test_which_nights_are_told_of_and_what_is_sent() -> None:
    failed = replace(NIGHT, outcome=Outcome.FAILED)
    for when, told in {"always": [1, 1, 1], "findings": [0, 1, 1], "failure": [0, 0, 1]}.items():
        settings = NotifySettings(when=when)  # type: ignore[arg-type]
        assert [is_told(*night, settings) for night in ((NIGHT, []), (NIGHT, [FINDING]), (failed, []))] == told
    assert BODY["text"] == (
        "Screening, night of 2026-11-22: published, 1,000 records, 99 flagged, 10 rejected.\nALARM: Twice as many."
    )
    assert BODY["counts"]["reasons"] == {"flat_lead": 10}
    assert BODY["notice"] == "Retrospective research software. Not a medical device; no result is a diagnosis."
