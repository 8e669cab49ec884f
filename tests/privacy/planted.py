"""An archive with people in it: names, numbers, dates and remarks that must not be found in anything that a command leaves.

``SENTINELS`` stand wherever an archive can hold them: names of files and folders, record lines, signal lines and comments of
headers, RECORDS, columns of the table that are mapped and that are not, statements, and files that are broken in such a way
that a message about them could quote them. Site and device are columns that are carried on purpose, so nothing is planted
there; neither is the root of the archive, which is a setting of the user.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from screening.contract import LEADS
from tests.wfdb_files import ecg, record

SENTINELS = {
    "patient id": "7731904468",
    "surname": "Quackenbush",
    "surname, cut off": "Quackenb",  # what a field of eight characters holds
    "given name": "Wilhelmüne",
    "birth date": "1931-02-17",
    "birth date, European": "17.02.1931",
    "birth date, compact": "19310217",
    "birth date, American": "02-17-1931",
    "birth date, in words": "17-FEB-1931",
    "operator": "Tjomsland",
    "physician": "Brunnhilde",
    "institution": "Hrafnkelsstadir",
    "folder": "ymir_skarphedinsson",
    "sub-folder": "Zsigmondy 4b",
    "file": "farnsworth-z",
    "remark": "allergic to marzipan",
    "statement": "denies chest pain at the Kvikkjokk clinic",
    "operating system's user": "oddvarberglund",
}
FOLDER = f"{SENTINELS['folder']}/{SENTINELS['sub-folder']}"
STEM = f"{SENTINELS['file']}-{SENTINELS['patient id']}"
FAILING = f"{STEM}-unreadable"
"""Stem of the record that storage does not give while it is told to fail."""
RECORDS, PATIENTS = 48, 24

_COMMENTS = f"""#<age>: 61 <sex>: F
#Subject_ID: {SENTINELS["patient id"]}
#Patient: {SENTINELS["surname"]}, {SENTINELS["given name"]}
#Born: {SENTINELS["birth date, European"]} ({SENTINELS["birth date, compact"]})
#Age: 61
#Sex: F
#Operator: {SENTINELS["operator"]}
#Physician: Prof. {SENTINELS["physician"]}
#Dx: 426783006,{SENTINELS["statement"]}
#Reason for admission: {SENTINELS["remark"]}
# {SENTINELS["remark"]}
"""
MAPPING = """path: file
patient_id: mrn
acquired_at: acquired
age: age
sex: sex
site: ward
device: machine
labels: findings
labels_separator: ";"
fold: fold
"""
RULE = "name: infarct\npositive_codes: [MI]\nnegative_codes: [NORM]\n"


def samples() -> np.ndarray:
    """Return the ECGs of the good records, digital (RECORDS, 12, n), 1000 steps a millivolt, no two alike.

    Each begins at another moment of the beat: otherwise they would be one tracing, which counts once. Most whose statement is
    that of an infarction show it, and few others, so that a network can be trained and calibrated.
    """
    rng = np.random.default_rng(5)
    shown = np.where(np.isin(LEADS, ("V2", "V3", "V4", "V5")), -1, 1)[:, None]
    made = []
    for i in range(RECORDS):
        digital = np.rint(ecg(seed=i) * rng.uniform(0.5, 1.5)).astype(np.int64)
        shows = (_code(i) == "MI") != (i % 7 == 0)
        made.append(np.roll(digital * shown if shows else digital, 53 * i, axis=1))
    return np.stack(made)


def _code(record: int) -> str:
    return ("MI", "NORM", "STACH")[record % 3]


def plant(root: Path) -> None:
    """Write the archive, with ``ecgs.csv`` in it."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    good = samples()
    stems = [FAILING, *(f"{STEM}-{i}" for i in range(1, RECORDS))]
    for stem, digital in zip(stems, good, strict=True):
        _write(folder, _named(record(_word(stem), digital=digital), stem))
    broken = _break(folder)
    (root / "RECORDS").write_text("".join(f"{FOLDER}/{stem}\n" for stem in (*stems, *broken, f"{STEM}-absent")))
    _table(root / "ecgs.csv", (*stems, *broken, f"{STEM}-absent"))


def _word(stem: str) -> str:
    return f"{SENTINELS['surname']}_{stem}"  # the record's own name, which need not be that of its file


def _named(files: dict[str, bytes], stem: str) -> dict[str, bytes]:
    """Return the files under the stem, with people in the header's comments."""
    word = _word(stem)
    comments = _COMMENTS.encode()
    header = files.pop(f"{word}.hea").replace(f"{word}.dat".encode(), f"{stem}.dat".encode())
    return {f"{stem}.hea": header + comments, f"{stem}.dat": files.pop(f"{word}.dat")}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _break(folder: Path) -> list[str]:
    """Write records that are refused, each with people in what a message could quote; return their stems."""
    s = SENTINELS
    whole = record("r", digital=ecg())
    header, data = whole["r.hea"].decode(), whole["r.dat"]
    person = f"{s['surname']}_{s['patient id']}"
    made: dict[str, dict[str, bytes]] = {
        "no-header": {".hea": f"{person} {s['birth date']} {s['remark']}\n".encode()},
        "no-units": {".hea": header.replace("/mV", f"/{person}").encode(), ".dat": data},
        "no-leads": {
            ".hea": header.replace(" V1", f" {person}").replace(" V2", f" {s['physician']}").encode(),
            ".dat": data,
        },
        "bad-line": {".hea": header.replace("r.dat 16", f"r.dat {s['operator']}", 1).encode()},
        "outside": {".hea": header.replace("r.dat", f"../../../{person}.dat").encode()},
        "absent-signal": {".hea": header.replace("r.dat", f"{person}.dat").encode()},
        "short": {".hea": header.encode(), ".dat": data[:999]},
        "empty": {".hea": b""},
        "latin-1": {".hea": f"{s['given name']} {s['surname']} 12 500\n".encode("latin-1")},
        "xml": {".hea": f'<?xml version="1.0"?><PatientName>{person}</PatientName>'.encode()},
        "flac": {".hea": header.replace(" 16 ", " 516 ").encode(), ".dat": f"fLaC{person}".encode() * 20},
        "matlab": {".hea": header.replace("r.dat 16", "r.dat 16+24").encode(), ".dat": person.encode() * 50},
    }
    stems = []
    for kind, files in made.items():
        stem = f"{STEM}-{kind}"
        stems.append(stem)
        for suffix, content in files.items():
            (folder / f"{stem}{suffix}").write_bytes(content.replace(b"r.dat", f"{stem}.dat".encode()))
    os.mkfifo(folder / f"{STEM}-pipe.hea")
    (folder / f"{STEM}-link.hea").symlink_to(f"/tmp/{person}")
    (folder / f"{STEM}-folder.hea").mkdir()
    return [*stems, f"{STEM}-pipe", f"{STEM}-link", f"{STEM}-folder"]


def _table(path: Path, stems: tuple[str, ...]) -> None:
    """Write the metadata table: mapped columns, and beside them those of a hospital's export."""
    s = SENTINELS
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["file", "mrn", "acquired", "age", "sex", "ward", "machine", "findings", "fold"]
            + ["surname", "given name", "born", "operator", "physician", "remark"]
        )
        for i, stem in enumerate(stems):
            bad = i % 11 == 3  # values that cannot be understood, with people in them
            patient = i % PATIENTS
            writer.writerow(
                [
                    f"{FOLDER}/{stem}",
                    f"{s['patient id']}{patient:02d}",
                    f"{s['birth date']} {s['surname']}" if bad else f"2020-03-{1 + i % 28:02d} 10:00:00",
                    s["surname"] if bad else 40 + i % 50,
                    s["physician"] if bad else "FM"[i % 2],
                    "ward A" if i % 2 else "ward B",
                    "cart 7",
                    f"{_code(i)};{s['statement']}",
                    s["remark"] if bad and i >= RECORDS else 1 + patient % 10,  # one fold a patient among good records
                    s["surname"],
                    s["given name"],
                    s["birth date"],
                    s["operator"],
                    s["physician"],
                    s["remark"],
                ]
            )


def broken_table(path: Path) -> None:
    """Write a table with a row that has too many cells, all of them about a person."""
    s = SENTINELS
    columns = "file,mrn,acquired,age,sex,ward,machine,findings,fold"
    row = [f"{FOLDER}/{STEM}", s["patient id"], s["surname"], s["birth date"], s["remark"]]
    path.write_text(f"{columns}\n{','.join(row)},,,,\n{','.join(row * 3)}\n")


def headless_table(path: Path) -> None:
    """Write a table without a header line, so that a person stands where names of columns are expected."""
    s = SENTINELS
    path.write_text(f"{FOLDER}/{STEM},{s['patient id']},{s['surname']},{s['birth date']},61\n" * 3)


def broken_lists(root: Path) -> dict[str, str]:
    """Write archives whose RECORDS files name folders of people and cannot be followed; return what is said of each."""
    s = SENTINELS
    person = f"{s['surname']}_{s['given name']}_{s['birth date']}"
    nested: dict[str, bytes | str | None] = {
        "absent": None,
        "latin-1": f"{s['given name']}\n".encode("latin-1"),
        "endless": s["surname"].encode() * 10_000,
        "link": "/etc/passwd",
        "absent-below": f"{s['folder']}/\n".encode(),
    }
    for kind, content in nested.items():
        archive = root / kind
        _write_all(archive / "a", record())
        (archive / "RECORDS").write_text(f"a/r\n{person}/\n", encoding="utf-8")
        if content is not None:
            (archive / person).mkdir()
        if isinstance(content, bytes):
            (archive / person / "RECORDS").write_bytes(content)
        elif content is not None:
            (archive / person / "RECORDS").symlink_to(content)
    return {
        "absent": "The folder of line 2 of RECORDS is not in the archive",
        "latin-1": "Line 1 of RECORDS in the folder of line 2 of RECORDS is not UTF-8 text",
        "endless": "Line 1 of RECORDS in the folder of line 2 of RECORDS has 65536 bytes and more",
        "link": "RECORDS in the folder of line 2 of RECORDS in the archive is a symbolic link that leads out of it",
        "absent-below": "The folder of line 1 of RECORDS in the folder of line 2 of RECORDS is not in the archive",
    }


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    _write(folder, files)
