"""From ``--model REF`` to a local folder that holds a verified bundle."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from screening.errors import StorageError
from screening.model.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    PRETRAINED,
    BundleError,
    decode_manifest,
    load_bundle,
)
from screening.storage import again, make_folders, open_filesystem


def resolve_model(
    ref: str | None,
    *,
    tracking_uri: str | None = None,
    cache_folder: str | Path | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Path:
    """Return the local folder of the bundle that ``ref`` means.

    Parameters
    ----------
    ref
        None for the bundle that ships with the package, a folder, an fsspec URL, or ``models:/name@alias`` and
        ``models:/name/version`` in the MLflow registry at ``tracking_uri``.
    cache_folder
        Where bundles from elsewhere are kept, by their hash; needed for those only.
    storage_options
        For fsspec, where ``ref`` is a URL.
    """
    if ref is None:
        return PRETRAINED
    if ref.startswith("models:/"):
        from screening.train.registry import resolve

        if tracking_uri is None or cache_folder is None:
            raise BundleError(f"{ref} needs an MLflow registry; name it with --tracking-uri.")
        return resolve(ref, tracking_uri=tracking_uri, cache_folder=cache_folder)
    if "://" not in ref:
        return Path(ref).absolute()
    if cache_folder is None:
        raise BundleError(f"{ref} is not on this machine; name a folder to keep it in.")
    return _fetch(ref, Path(cache_folder), storage_options)


def _fetch(url: str, cache_folder: Path, storage_options: dict[str, Any] | None) -> Path:
    """Copy the bundle at ``url`` into the cache, once: the hash names the folder."""
    try:
        files, root = open_filesystem(url, storage_options)
        root = root.rstrip("/")
        encoded = again(lambda: bytes(files.cat_file(f"{root}/{MANIFEST}", start=0, end=MAX_MANIFEST_BYTES + 1)))
    except StorageError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise BundleError(f"cannot read {url}/{MANIFEST}: {error}.") from None
    facts = decode_manifest(encoded, f"{url}/{MANIFEST}")
    target = cache_folder / str(facts["sha256"])
    if target.is_dir():
        if load_bundle(target).sha256 != target.name:
            raise BundleError(f"{target} holds another bundle than its name says; remove it, and it is fetched again.")
        return target
    make_folders(str(cache_folder))
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache_folder) as temporary:
        building = Path(temporary) / "bundle"
        building.mkdir()
        try:
            for file in facts["files"]:
                again(partial(files.get_file, f"{root}/{file}", str(building / file)))
        except StorageError:
            raise
        except OSError as error:
            raise BundleError(f"cannot read {url}/{file}: {error}.") from None
        (building / MANIFEST).write_bytes(encoded)
        load_bundle(building)
        keep(building, target)
    return target


def keep(building: Path, target: Path) -> None:
    """Move a verified bundle to its place in the cache; whoever comes second finds the same bytes there."""
    try:
        os.rename(building, target)
    except OSError:
        if not target.is_dir():
            raise
