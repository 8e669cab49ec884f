"""What commands left: where people are named in it, and what of it others could open."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from tests.privacy.planted import SENTINELS
from tests.privacy.search import search

MAY_HOLD_PATHS = re.compile(r"(catalog(-\w+)?|runs(-\w+)?/[0-9a-f]{16}/plan)/locations(-\d{5})?\.parquet")
"""Files of locations: their owner's alone, because that is what they are for."""
SHAREABLE = ("report/report.html", "report/report.json", "report/tables/", "trained/")
"""A bundle, too: it names records by hashes of their bytes alone."""
_IN_PATHS = {"folder", "sub-folder", "file", "patient id", "surname", "surname, cut off", "birth date"}


def named(folder: Path) -> tuple[dict[str, set[str]], set[str]]:
    """Return where people are named that must not be, and the files of locations, which name them."""
    leaks: dict[str, set[str]] = {}
    located = set()
    for place, words in search(folder, SENTINELS).items():
        file = place.removesuffix(" (Parquet)")
        if MAY_HOLD_PATHS.fullmatch(file) and words <= _IN_PATHS:
            located.add(file)
        else:
            leaks[place] = words
    return leaks, located


def open_to_others(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, str], int]:
    """Return the modes of what others could open and should not, and how much was looked at."""
    wrong, seen = {}, 0
    for name in names:
        top = folder / name
        for path in [top, *top.rglob("*")]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            place = str(path.relative_to(folder))
            seen += 1
            if name == "state" and _closed(path, top):
                continue  # what MLflow makes, by its own rules, in a folder that nobody else can enter
            shared = place.startswith(SHAREABLE) or place in ("report", "report/tables", "trained")
            allowed = (0o755 if path.is_dir() else 0o644) if shared else (0o700 if path.is_dir() else 0o600)
            if mode & ~allowed:
                wrong[place] = oct(mode)
    return wrong, seen


def _closed(path: Path, top: Path) -> bool:
    """Whether a folder between ``path`` and ``top`` keeps others out."""
    return any(not stat.S_IMODE(folder.stat().st_mode) & 0o077 for folder in path.parents if folder.is_relative_to(top))
