"""Pseudonyms and the key behind them."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path

import pytest

from screening.archive.identity import PUBLIC_KEY, PseudonymKey, load_key
from screening.errors import UserError


def test_pseudonym_is_hmac_sha256_under_the_key() -> None:
    expected = hmac.new(b"k" * 32, b"screening/patient\x0015709", hashlib.sha256).hexdigest()[:32]
    assert PseudonymKey.of(b"k" * 32).pseudonym("patient", "15709") == expected


def test_pseudonyms_differ_by_key_kind_and_value() -> None:
    one, two = PseudonymKey.of(b"a" * 32), PseudonymKey.of(b"b" * 32)
    made = {key.pseudonym(kind, value) for key in (one, two) for kind in ("record", "patient") for value in ("1", "01")}  # type: ignore[arg-type]
    assert len(made) == 8
    assert one.key_id != two.key_id


def test_the_secret_is_not_shown() -> None:
    assert "kkkk" not in repr(PseudonymKey.of(b"k" * 32))


def test_public_key_is_a_published_constant() -> None:
    # Literal: a change would silently change every published catalog.
    assert (PUBLIC_KEY.key_id, PUBLIC_KEY.pseudonym("patient", "15709")) == (
        "public",
        "66f56f004225f6e3834ef25f2f80fe6b",
    )


def test_absent_key_is_made_once_with_mode_0600_and_said(tmp_path: Path) -> None:
    file = tmp_path / "state" / "pseudonym.key"
    key, note = load_key(file)
    assert note is not None
    assert f"Made a new pseudonym key at {file}" in note
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_key(file) == (key, None)
    assert [path.name for path in file.parent.iterdir()] == ["pseudonym.key"]


def test_absent_key_is_an_error_where_none_may_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no pseudonym key at .*absent\.key; name the file"):
        load_key(tmp_path / "absent.key", create=False)
    assert list(tmp_path.iterdir()) == []


def test_key_from_the_environment_equals_the_same_key_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef" * 4 + "\n")
    file.chmod(0o600)
    assert load_key(None, "0123456789abcdef" * 4) == load_key(file)


def test_a_named_file_wins_over_the_environment(tmp_path: Path) -> None:
    key, _ = load_key(tmp_path / "key", "0123456789abcdef" * 4)
    assert key != load_key(None, "0123456789abcdef" * 4)[0]


@pytest.mark.parametrize("secret", ["", "short", " " * 64])
def test_short_keys_are_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(
        UserError, match=r"SCREENING_PSEUDONYM_KEY has \d+ characters and needs at least 32; make one with"
    ):
        load_key(None, secret)
    file = tmp_path / "key"
    file.write_text(secret)
    file.chmod(0o600)
    with pytest.raises(UserError, match=r"key file .*key has \d+ characters"):
        load_key(file)


def test_key_that_everybody_can_read_is_refused_and_one_for_the_group_is_said(tmp_path: Path) -> None:
    file = tmp_path / "key"
    load_key(file)
    file.chmod(0o644)
    with pytest.raises(UserError, match=r"can be read by everybody on this machine; run: chmod 600"):
        load_key(file)
    file.chmod(0o640)
    _, note = load_key(file)
    assert note is not None
    assert note.endswith("can be read by its group.")


def test_unusable_key_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be used \(Is a directory\)"):
        load_key(tmp_path)
    binary = tmp_path / "key"
    binary.write_bytes(os.urandom(16) + b"\xff\xfe" * 32)
    binary.chmod(0o600)
    with pytest.raises(UserError, match=r"cannot be used \(it is not text\)"):
        load_key(binary)
