"""No name, number, date or remark of a person is in anything that a chain of real commands leaves."""

from __future__ import annotations

import pickle
import re
import stat
import traceback

import pytest

from tests.privacy.conftest import Chain
from tests.privacy.planted import SENTINELS
from tests.privacy.search import search

MAY_HOLD_PATHS = re.compile(r"(catalog|catalog-headers|runs/[0-9a-f]{16}/plan)/locations(-\d{5})?\.parquet")
"""Files of locations: their owner's alone, because that is what they are for."""
PATHS = {"folder", "sub-folder", "file", "patient id"}
WHO_ACTED = {"state/audit.jsonl", "said/audit.out"}
"""The audit log names on purpose who ran what; of all that is planted, this alone may stand in it."""


def test_people_are_nowhere_in_what_commands_leave(chain: Chain) -> None:
    found = search(chain.left, SENTINELS)
    leaks = {}
    located = set()
    for place, words in found.items():
        file = place.removesuffix(" (Parquet)")
        if MAY_HOLD_PATHS.fullmatch(file) and words <= PATHS:
            located.add(file)
        elif file not in WHO_ACTED or words != {"operating system's user"}:
            leaks[place] = words
    assert leaks == {}
    assert len(located) == 3  # so the search finds what there is
    for file in located:
        assert stat.S_IMODE((chain.left / file).stat().st_mode) == 0o600


def test_people_are_nowhere_in_the_logs_of_ray(chain: Chain) -> None:
    assert list(chain.sessions.rglob("worker-*"))
    assert search(chain.sessions, SENTINELS) == {}


def test_the_chain_met_what_it_was_to_meet(chain: Chain) -> None:
    said = {path.name: path.read_text() for path in (chain.left / "said").iterdir()}
    assert re.search(r"Ray ended the run: ValueError at .*in decode_block", said["run-disturbed.out"])
    assert "cannot be read" in said["catalog-broken.err"]
    assert "its first line holds numbers or dates, and not names of columns" in said["catalog-headless.err"]
    assert "statements are free text, which may name people, and were left out" in said["catalog.out"]
    for reason in ("bad_header", "missing_units", "missing_leads", "unsafe_path", "missing_file", "unknown_format"):
        assert reason in said["failures.out"]
    assert "The amplitudes were not measured: the archive could not be read (OSError)" in said["explain-disturbed.out"]


def test_what_a_worker_raises_holds_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps it for its dashboard and for whoever asks its state."""
    from screening.errors import Fault
    from screening.run import worker

    def fail() -> None:
        raise ValueError(f"cannot convert {SENTINELS['surname']}")

    monkeypatch.setattr(worker, "keep_freed_memory", fail)
    for work in (lambda: worker.decode_block(None, 0), lambda: worker.ScoringActor(None, None, None, 1)):  # type: ignore[arg-type]
        with pytest.raises(Fault, match=r"^ValueError at .* in fail$") as raised:
            work()
        kept = "".join(traceback.format_exception(raised.value)) + repr(pickle.dumps(raised.value))
        assert SENTINELS["surname"] not in kept


def test_a_fault_of_the_program_is_said_without_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import screening.cli
    from screening.cli import failures

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"cannot convert {SENTINELS['surname']}")

    monkeypatch.setattr(failures.command, "callback", fail)
    with pytest.raises(SystemExit) as left:
        screening.cli.main(["failures", "somewhere"])
    said = capsys.readouterr()
    assert left.value.code == 1
    assert SENTINELS["surname"] not in said.err + said.out
    assert re.fullmatch(
        r"Error: a fault of the program: ValueError at .* in fail; with SCREENING_TRACEBACK=1 in the environment the same "
        r"command shows the whole, which may quote patients' data\n",
        said.err,
    )
    monkeypatch.setenv("SCREENING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cannot convert"):
        screening.cli.main(["failures", "somewhere"])


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    from screening.errors import UserError
    from screening.storage import Folder

    with pytest.raises(
        UserError, match=r"the URL s3://bucket/runs was given with a password; give that in .*OPTIONS"
    ) as said:
        Folder("s3://ann:hunter2@bucket/runs").exists()
    assert "hunter2" not in str(said.value)
    assert Folder("/data/a:b@c/runs").is_local  # a path is no URL
