"""The bundle a run was planned with, kept beside the runs by its hash, so that every worker and every resume has it."""

from __future__ import annotations

from pathlib import Path

from screening.errors import UserError
from screening.model.bundle import MANIFEST, Bundle, load_bundle
from screening.storage import Folder, private_folder


def store_bundle(runs: Folder, bundle: Bundle) -> None:
    """Copy a bundle to ``RUNS/models/<sha256>/`` unless it is there; bundle.json last, so that it says all is there."""
    folder = runs.folder(f"models/{bundle.sha256}")
    if folder.exists(MANIFEST):
        return
    for name in (*bundle.files, MANIFEST):
        folder.write(name, (bundle.path / name).read_bytes())


def fetch_bundle(runs: Folder, sha256: str) -> Bundle:
    """Return the verified bundle ``sha256``, read in place from a local disk and through a temporary copy from elsewhere.

    Raises
    ------
    UserError
        It is not there, damaged, or another one than its name says.
    """
    folder = runs.folder(f"models/{sha256}")
    if folder.is_local:
        bundle = load_bundle(folder.path(""))
    else:
        place = Path(private_folder()) / "models" / sha256
        for name in folder.names():
            Folder(str(place)).write(name, folder.read(name))
        bundle = load_bundle(place)
    if bundle.sha256 != sha256:
        raise UserError(f"{folder.url} holds another model than its name says; restore it, or start a new run")
    return bundle
