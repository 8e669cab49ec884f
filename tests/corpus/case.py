"""What a case of the corpus is, and how records are broken; no tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from screening.contract import LEADS, Reason
from tests.wfdb_files import SAMPLES, ecg, encode, record, signal_line


@dataclass(frozen=True)
class Case:
    """One record: its files by their path, the path of its header, and what must become of it."""

    name: str
    files: dict[str, bytes] = field(repr=False)
    header: str
    expected: Reason | None = None
    message: str = ""  # regular expression that the rejection's detail matches


def edited(edit: dict[bytes, bytes], files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """Return a record whose header has each key replaced, once; a key that is absent is a mistake here."""
    files = dict(files or record())
    header = files["r.hea"]
    for old, new in edit.items():
        if old not in header:
            raise ValueError(f"the header has no {old!r}")
        header = header.replace(old, new, 1)
    files["r.hea"] = header
    return files


def everywhere(old: bytes, new: bytes, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """Return a record whose header has ``old`` replaced wherever it stands."""
    files = dict(files or record())
    if old not in files["r.hea"]:
        raise ValueError(f"the header has no {old!r}")
    return files | {"r.hea": files["r.hea"].replace(old, new)}


def case(name: str, files: dict[str, bytes], expected: Reason | None = None, message: str = "") -> Case:
    """Return a case in a folder of its own, so that all of them make one archive."""
    return Case(name, {f"{name}/{file}": data for file, data in files.items()}, f"{name}/r.hea", expected, message)


def two_files() -> dict[str, bytes]:
    """Return a record with the limb leads in one file and the chest leads in another, of another format."""
    digital = ecg()
    lines = ["r 12 500 5000"]
    lines += [signal_line("r.dat", "16", d, lead) for d, lead in zip(digital[:6], LEADS[:6], strict=True)]
    lines += [
        signal_line("r.v", "212", d // 4, lead, gain="250") for d, lead in zip(digital[6:], LEADS[6:], strict=True)
    ]
    return {"r.hea": "\n".join(lines).encode(), "r.dat": encode(16, digital[:6]), "r.v": encode(212, digital[6:] // 4)}


def duplicate(*, shift: int) -> dict[str, bytes]:
    """Return a record with V1 twice, the second time ``shift`` steps higher."""
    digital = np.concatenate([ecg(), ecg()[6:7] + shift])
    return record(digital=digital, leads=(*LEADS, "V1"))


def mixed_rates(first: str) -> dict[str, bytes]:
    """Return a record whose first signal, named ``first``, has two samples a frame and the others one."""
    digital = ecg()
    fast = ecg(2 * SAMPLES)[0]
    frames = np.concatenate([fast.reshape(-1, 2), digital.T], axis=1)
    lines = ["r 13 500 5000", signal_line("r.dat", "16x2", fast, first)]
    lines += [signal_line("r.dat", "16", d, lead) for d, lead in zip(digital, LEADS, strict=True)]
    return {"r.hea": "\n".join(lines).encode(), "r.dat": frames.astype("<i2").tobytes()}


def until_adc_zero(header: bytes) -> bytes:
    """Return a header whose lines leave out initial value, checksum and block size, as some writers do."""
    first, *lines = header.decode().split("\n")
    fields = [line.split() for line in lines if line]
    return "\n".join([first, *(" ".join([*f[:5], f[-1]]) for f in fields), ""]).encode()


def write(cases: Iterable[Case], folder: Path) -> None:
    """Write the cases into ``folder`` as one archive, with a RECORDS file naming each without its suffix."""
    names = []
    for one in cases:
        for path, data in one.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        names.append(one.header.removesuffix(".hea"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RECORDS").write_text("".join(f"{name}\n" for name in names))
