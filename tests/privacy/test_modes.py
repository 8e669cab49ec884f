"""Outputs that list patients are their owner's alone, also under an umask that closes nothing: the chain has 000."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.privacy.conftest import Chain

SHAREABLE = ("report/report.html", "report/report.json", "report/tables/")
OURS = ("catalog", "catalog-headers", "runs", "report", "explained.html", "explained.png", "sheets", "state")


def closed(path: Path, top: Path) -> bool:
    """Whether a folder between ``path`` and ``top`` keeps others out."""
    return any(not stat.S_IMODE(folder.stat().st_mode) & 0o077 for folder in path.parents if folder.is_relative_to(top))


def test_nothing_that_lists_patients_can_be_read_or_changed_by_others(chain: Chain) -> None:
    wrong = {}
    seen = 0
    for name in OURS:
        top = chain.left / name
        for path in [top, *top.rglob("*")]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            place = str(path.relative_to(chain.left))
            seen += 1
            if name == "state" and closed(path, top):
                continue  # what MLflow makes, by its own rules, in a folder that nobody else can enter
            shared = place.startswith(SHAREABLE) or place in ("report", "report/tables")
            allowed = (0o755 if path.is_dir() else 0o644) if shared else (0o700 if path.is_dir() else 0o600)
            if mode & ~allowed:
                wrong[place] = oct(mode)
    assert seen > 80
    assert wrong == {}


def test_what_is_for_sharing_can_be_read_by_others(chain: Chain) -> None:
    assert stat.S_IMODE((chain.left / "report" / "report.html").stat().st_mode) == 0o644
    assert stat.S_IMODE((chain.left / "report").stat().st_mode) == 0o755
    assert stat.S_IMODE((chain.left / "report" / "private").stat().st_mode) == 0o700


def test_the_sessions_of_ray_are_closed_to_others(chain: Chain) -> None:
    (folder,) = chain.sessions.iterdir()
    assert folder.name.startswith("screening-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.glob("ray/session_*/logs"))


@pytest.mark.parametrize("what", ["a link", "open to others"])
def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path, what: str) -> None:
    import os

    from screening.errors import UserError
    from screening.storage import private_folder

    place = tmp_path / f"screening-{os.getuid()}"
    if what == "a link":
        (tmp_path / "theirs").mkdir(0o700)
        place.symlink_to(tmp_path / "theirs")
    else:
        place.mkdir(0o755)
    with pytest.raises(UserError, match=r"must be a folder of yours that is closed to others \(chmod 700\); remove it"):
        private_folder(str(tmp_path))
