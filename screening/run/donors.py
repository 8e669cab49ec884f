"""The donor set of an archive and model: made once, stored by its hash, used again night after night.

``RUNS/donors/<sha256>.safetensors`` holds the signals, ``RUNS/donors/index-<key>.json`` says which set belongs to an archive,
input contract and key. Both are readable by the owner alone on local disks, because they hold recordings.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from screening.archive.catalog import Catalog
from screening.attribution.donors import DonorSet
from screening.contract import CARRIED_COLUMNS, N_LEADS, sha256_of
from screening.errors import UserError
from screening.recording import Recording, Rejected
from screening.run.stages import decode_shard
from screening.signal.preprocess import Preprocessing
from screening.storage import Folder

Read = Callable[[str, str, str], Recording | Rejected]
"""Reads a record, given its location, its id and its version."""

_FORGOTTEN = ".forgotten"
CANDIDATES_PER_DONOR = 4
"""So many are drawn for each donor wanted, because some are rejected and some are of one patient."""


def donor_set_for(
    runs: Folder,
    catalog: Catalog,
    read: Read,
    *,
    preprocessing: Preprocessing,
    input_contract: str,
    size: int,
) -> str | None:
    """Return the SHA-256 of the stored donor set of this archive and input contract, making it if there is none.

    Candidates are the records with the smallest hashes of their ids, which is a random draw that anybody can repeat; those
    that fail the quality check, or are of a patient already drawn, are passed over. Returns None where fewer than
    two donors are left, in which case nothing can be explained.
    """
    key = sha256_of([catalog.root_url, catalog.key_id, catalog.patient_key_id, input_contract, size])[:16]
    index = f"donors/index-{key}.json"
    if runs.exists(index):
        return str(json.loads(runs.read(index))["donor_set"])
    chosen = _choose(catalog, read, preprocessing, size)
    if len(chosen.record_ids) < 2:
        return None
    name = chosen.sha256
    runs.write(f"donors/{name}.safetensors", _encoded(chosen))
    runs.write(index, json.dumps({"donor_set": name, "donors": len(chosen.record_ids)}).encode())
    return name


def load_donor_set(runs: Folder, name: str) -> DonorSet:
    """Return the stored donor set ``name``.

    Raises
    ------
    UserError
        It is not there, or its content is not what its name says.
    """
    try:
        data = runs.read(f"donors/{name}.safetensors")
        length = int.from_bytes(data[:8], "little")
        whose = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["donors"])
        found = DonorSet(load(data)["signals_mV"], tuple(whose["record_ids"]), tuple(whose["patient_keys"]))
        whole = found.sha256 == name and _encoded(found) == data
    except (ValueError, KeyError, TypeError, SafetensorError):
        whole = False
    except FileNotFoundError as error:
        if is_forgotten(runs, name):
            raise UserError(
                f"the donor set {name[:12]} was erased with a patient in it; what it explained can be read but not made again: "
                "start a new run, which has other donors"
            ) from error
        raise UserError(
            f"the donor set {name[:12]} is gone from {runs.url}/donors; restore it, or remove the run"
        ) from error
    if not whole:
        raise UserError(f"the donor set {name[:12]} in {runs.url}/donors is damaged; restore it, or remove the run")
    return found


def has_donor_set(runs: Folder, name: str) -> bool:
    """Whether the donor set ``name`` is stored."""
    return runs.exists(f"donors/{name}.safetensors")


def donor_sets_with(runs: Folder, record_ids: Collection[str], patient_keys: Collection[str]) -> list[str]:
    """Return the names of the stored donor sets that hold one of these records or patients."""
    stored = [file.removesuffix(".safetensors") for file in runs.names("donors") if file.endswith(".safetensors")]
    records, patients = set(record_ids), set(patient_keys)

    def concerned(donors: DonorSet) -> bool:
        return not records.isdisjoint(donors.record_ids) or not patients.isdisjoint(donors.patient_keys)

    return [name for name in stored if concerned(load_donor_set(runs, name))]


def forget_donors(runs: Folder, name: str) -> None:
    """Erase a donor set; the next run of its archive makes another."""
    for file in runs.names("donors"):
        if file.startswith("index-") and json.loads(runs.read(f"donors/{file}"))["donor_set"] == name:
            runs.remove(f"donors/{file}")
    runs.write(f"donors/{name}{_FORGOTTEN}", b"")
    runs.remove(f"donors/{name}.safetensors")


def is_forgotten(runs: Folder, name: str) -> bool:
    """Whether a donor set was erased on purpose."""
    return runs.exists(f"donors/{name}{_FORGOTTEN}")


def _encoded(donors: DonorSet) -> bytes:
    """Return the file of a donor set: one entry of metadata, because several would come in any order."""
    whose = json.dumps({"record_ids": donors.record_ids, "patient_keys": donors.patient_keys})
    return bytes(save({"signals_mV": np.ascontiguousarray(donors.signals_mV)}, metadata={"donors": whose}))


def _choose(catalog: Catalog, read: Read, preprocessing: Preprocessing, size: int) -> DonorSet:
    wanted = size * CANDIDATES_PER_DONOR
    draw = heapq.nsmallest(wanted, _ranked(catalog), key=lambda row: row[0])
    signals: list[np.ndarray] = []
    ids: list[str] = []
    patients: list[str | None] = []
    for start in range(0, len(draw), size):
        part = draw[start : start + size]
        planned = pa.table(
            {name: pa.array([row[1].get(name) for row in part], pa.string()) for name in CARRIED_COLUMNS}
        )
        outcomes = (read(row[1]["location"], row[1]["record_id"], row[1]["version"]) for row in part)
        decoded = decode_shard(planned, outcomes, preprocessing)
        for i, good in enumerate(decoded["reason"].is_null().to_pylist()):
            patient = part[i][1]["patient_key"]
            if not good or (patient is not None and patient in patients) or len(ids) == size:
                continue
            signal = np.asarray(decoded["signal"][i].values, dtype=np.float32)
            signals.append(signal.reshape(N_LEADS, preprocessing.samples))
            ids.append(part[i][1]["record_id"])
            patients.append(patient)
        if len(ids) == size:
            break
    empty = np.zeros((0, N_LEADS, preprocessing.samples), np.float32)
    return DonorSet(np.stack(signals) if signals else empty, tuple(ids), tuple(patients))


def _ranked(catalog: Catalog) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for batch in catalog.iter_batches(["record_id", "patient_key", "version"], with_location=True):
        for row in batch.to_pylist():
            yield hashlib.sha256(f"donor:{row['record_id']}".encode()).digest(), row
