"""What readers get, what they must not get, and the key."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from screening.contract import Reason
from screening.errors import UserError
from screening.recording import Recording, Rejected
from screening.report.readings import parse_readings
from screening.report.sampling import draw
from screening.report.sheets import FOR_READERS, QUESTION, Key, form, key_of, read_key, write_sheets

IDS = [f"secret-patient-{i}" for i in range(60)]


@pytest.fixture(scope="module")
def key() -> Key:
    log_odds = np.linspace(-4, 3, 60)
    sample = draw(log_odds, log_odds > 1.5, readings=24, seed=0)
    return key_of(
        sample,
        [IDS[row] for row in sample.row],
        bundle_sha256="ab" * 32,
        model="tiny 1",
        threshold=0.3,
        catalog_id="cd" * 32,
        index_rule="first",
        seed=0,
        question=QUESTION,
    )


def recordings(key: Key) -> list[Recording | Rejected]:
    wave = np.sin(np.linspace(0, 60, 500, dtype=np.float32))
    found: list[Recording | Rejected] = [
        Recording(record_id, np.tile(wave, (12, 1)), 100.0, "ef" * 32, "wfdb-16", "header")
        for record_id in key.record_id
    ]
    found[2] = Rejected(key.record_id[2], Reason.MISSING_FILE, "gone")
    return found


@pytest.fixture(scope="module")
def written(key: Key, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation") / "sheets"
    seen: list[int] = []
    assert write_sheets(folder, key, iter(recordings(key)), readers=2, progress=seen.append) == 1
    assert sum(seen) == 24
    return folder


def test_only_the_owner_may_open_what_is_written(written: Path) -> None:
    for path in (written, *written.rglob("*")):
        assert os.stat(path).st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_readers_see_no_score_no_flag_and_no_identifier(written: Path, key: Key) -> None:
    given = sorted(p.relative_to(written / FOR_READERS).as_posix() for p in (written / FOR_READERS).rglob("*.*"))
    assert given == [
        "instructions.txt",
        "readings-1.csv",
        "readings-2.csv",
        "sheets.html",
        *[f"sheets/{i:04d}.png" for i in range(1, 25) if i != 3],
    ]
    for path in (written / FOR_READERS).rglob("*.*"):
        data = path.read_bytes()
        assert b"secret" not in data
        assert key.bundle_sha256.encode() not in data
        if path.suffix != ".png":
            assert not re.search(r"score|probabilit|log-odds|stratum|threshold", data.decode().lower())
    pictures = {p.read_bytes() for p in (written / FOR_READERS / "sheets").iterdir()}
    assert len(pictures) == 23, "each carries its own number"
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_the_page_shows_each_sheet_once_and_needs_nothing_from_elsewhere(written: Path) -> None:
    page = (written / FOR_READERS / "sheets.html").read_text()
    assert re.findall(r'<img src="([^"]+)" alt="12-lead ECG of sheet', page) == [
        f"sheets/{i:04d}.png" for i in range(1, 25) if i != 3
    ]
    assert re.findall(r"<h2>Sheet (\d+) of 24</h2>", page) == [str(i) for i in range(1, 25)]
    assert page.count("cannot be drawn; write <b>unreadable</b>") == 1
    assert "http" not in page
    assert "break-before: page" in page


def test_on_paper_a_second_is_25_mm(written: Path) -> None:
    """The grid's darker lines are 5 mm apart; the printed width is what the page says."""
    from PIL import Image

    page = (written / FOR_READERS / "sheets.html").read_text()
    printed = re.search(r"@media print.*img \{ width: ([\d.]+)mm; \}", page, re.DOTALL)
    assert printed
    picture = np.asarray(Image.open(written / FOR_READERS / "sheets/0001.png").convert("RGB")).astype(int)
    redness = (picture[..., 0] - picture[..., 1])[picture.shape[0] // 3 : -picture.shape[0] // 4].mean(axis=0)
    spectrum = np.abs(np.fft.rfft(redness - redness.mean(), 2**18))
    cycles = np.fft.rfftfreq(2**18, float(printed[1]) / picture.shape[1])  # a millimetre
    around = (cycles > 0.15) & (cycles < 0.25)
    assert cycles[around][spectrum[around].argmax()] == pytest.approx(0.2, rel=0.01)


def test_the_form_is_what_import_reads(written: Path) -> None:
    blank = (written / FOR_READERS / "readings-1.csv").read_bytes()
    assert blank.splitlines()[:2] == [b"sheet,reading,certainty,comment", b"1,,,"]
    with pytest.raises(UserError, match="holds no reading"):
        parse_readings(blank, 24, "readings-1.csv")
    filled = re.sub(rb"(?m)^(\d+),,", rb"\1,none,", blank)
    assert parse_readings(filled, 24, "readings-1.csv") == dict.fromkeys(range(1, 25), "none")
    assert form([3, 9], ("sheet", "one", "two", "reading"), [("none", "infarct"), ("", "none")]) == (
        b"sheet,one,two,reading\n3,none,infarct,\n9,,none,\n"
    )


def test_the_question_is_put_in_words(written: Path) -> None:
    text = (written / FOR_READERS / "instructions.txt").read_text()
    assert text.startswith(QUESTION)
    assert "There are 24 sheets" in text
    assert all(f"\n{word}" in text for word in ("infarct ", "none ", "unreadable "))
    assert max(map(len, text.splitlines())) <= 124


def test_the_key_comes_back(written: Path, key: Key) -> None:
    assert read_key(written) == key
    stored = json.loads((written / "key.json").read_text())["sheets"]
    assert (
        stored[0]["inclusion_probability"] == key.strata[key.stratum[0]].sampled / key.strata[key.stratum[0]].patients
    )


def test_a_folder_in_use_is_left_alone(written: Path, key: Key) -> None:
    with pytest.raises(UserError, match="exists and is not an empty folder; name another one with --out"):
        write_sheets(written, key, [], readers=1)


def test_a_key_that_is_absent_or_damaged_is_named(tmp_path: Path, written: Path) -> None:
    with pytest.raises(
        UserError, match="holds no key.json; name the folder that `screening validate sample --out` wrote"
    ):
        read_key(tmp_path)
    whole = json.loads((written / "key.json").read_text())
    for broken in (
        "[",
        "[]",
        json.dumps({**whole, "schema_version": 9}),
        json.dumps({**whole, "sheets": whole["sheets"][1:]}),
        json.dumps({**whole, "sheets": whole["sheets"][:-1]}),
        json.dumps({k: v for k, v in whole.items() if k != "threshold"}),
    ):
        (tmp_path / "key.json").write_text(broken)
        with pytest.raises(UserError, match=r"key.json is damaged or of another version; restore it"):
            read_key(tmp_path)
