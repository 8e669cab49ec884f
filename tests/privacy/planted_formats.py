"""A second archive with people in it: every format but WFDB, as good files and as such that a message about them could quote.

In good files people stand in every field that the format has for them. In broken ones, made of good ones, each value of the
file in turn is a person: a number, a unit, a lead, an encoding, a length.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from screening.contract import LEADS
from tests import hospital_files as made
from tests.people import Person
from tests.privacy.planted import FOLDER, SENTINELS, STEM, samples
from tests.scp_files import scp_mended
from tests.wfdb_files import ecg

NAME = SENTINELS["surname"]
UNREADABLE = "-not-given"
"""Ends the stem of the record that storage does not give while it is told to fail; a word that says nothing of anybody."""
GOOD_OF_EACH = 2
_CARRIED = ("MAC55", "Sankt J\xf6rg", "CardioSoft", "PageWriter", "ELI")  # site and device of the writers
_SHORT = 1000  # samples of what is refused anyway
_ENCODING = {"sierra-xml": "utf-16", "hl7-aecg": "utf-8"}
_VALUE = re.compile(r"""(?<=[>"'])[^<>"']{1,60}(?=[<"'])""")


def person(number: int) -> Person:
    """Return one of the people, no two of whom have the same id."""
    s = SENTINELS
    return Person(
        id=f"{s['patient id']}{number:02d}",
        surname=NAME,
        given_name=s["given name"],
        born=date.fromisoformat(s["birth date"]),
        physician=s["physician"],
        operator=s["operator"],
        institution=s["institution"],
        remark=s["remark"],
        statement=s["statement"],
    )


def plant(root: Path) -> None:
    """Write the archive."""
    for folder, files in ((FOLDER, good()), (f"{FOLDER}/broken", broken())):
        _write(root / folder, files)
    for kind, sidecar in broken_sidecars().items():
        numbers = {f"{STEM}-sidecar-{kind}.npy": made.npy(_short()), "ecg.yaml": sidecar}
        _write(root / FOLDER / f"{NAME}-{kind}", numbers)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def good() -> dict[str, bytes]:
    """Return files that are read, each of another person, with their sidecar and what lies beside records."""
    digital = iter(samples() // 5)
    files: dict[str, bytes] = {}
    for number in range(GOOD_OF_EACH):
        for at, (form, (suffix, writer)) in enumerate(made.WRITERS.items()):
            files[f"{STEM}-{form}-{number}{suffix}"] = writer(next(digital), person=person(10 * at + number))
        files[f"{STEM}-csv-{number}.csv"] = made.csv(next(digital), person=person(70 + number))
        files[f"{STEM}-npy-{number}.npy"] = made.npy(next(digital))
    in_one = {int(person(80 + number).id): next(digital) for number in range(GOOD_OF_EACH)}
    files[f"{STEM}{UNREADABLE}.dcm"] = made.dicom(next(digital), person=person(69))
    files[f"{STEM}-hdf5.h5"] = made.hdf5(in_one, samples=5000, person=person(80))
    files["ecg.yaml"] = _sidecar() + f"# {NAME}: {SENTINELS['remark']}\n".encode()
    files[f"{NAME}.pdf"] = files[f"{NAME}.zip"] = NAME.encode()
    return files


def _sidecar(**settings: Any) -> bytes:
    return made.sidecar(**{"leads": list(LEADS), "ids": "exam_id", **settings})


def _short() -> np.ndarray:
    return ecg(_SHORT) // 5


def broken() -> dict[str, bytes]:
    """Return files most of which are refused; their sidecar is a good one."""
    files: dict[str, bytes] = {}
    for form, (suffix, writer) in made.WRITERS.items():
        whole = writer(_short(), person=person(90))
        kinds = dict(_misfiled(form, whole)) | dict(_cut(whole))
        files |= {f"{STEM}-{form}-{kind}{suffix}": data for kind, data in kinds.items()}
    files |= {f"{STEM}-{kind}": data for kind, data in (*_tables(), *_hdf5())}
    packed = io.BytesIO()
    with gzip.GzipFile(f"{NAME}.xml", "wb", fileobj=packed) as stream:  # a header of gzip holds the file's name
        stream.write(made.muse(_short(), person=person(90)))
    files[f"{STEM}-packed.xml.gz"] = packed.getvalue()
    files[f"{STEM}-packed-cut.xml.gz"] = packed.getvalue()[:-999]
    files[f"{STEM}-packed-damaged.xml.gz"] = packed.getvalue()[:4000] + NAME.encode() * 20 + packed.getvalue()[4220:]
    files[f"{STEM}-unknown.xml"] = f"<{NAME}><PatientName>{NAME}</PatientName></{NAME}>".encode()
    files["ecg.yaml"] = _sidecar()
    return files


def broken_sidecars() -> dict[str, bytes]:
    """Return what `ecg.yaml` may say of a person, by its kind."""
    return {
        "unit": _sidecar(unit=NAME),
        "rate": _sidecar(rate_hz=NAME),
        "leads": _sidecar(leads=[NAME] * 12),
        "lead-count": _sidecar(leads=[NAME]),
        "lead-types": _sidecar(leads={NAME: 1}),
        "layout": _sidecar(layout=NAME),
        "steps": _sidecar(units_per_step=f"5 {NAME}"),
        "key": _sidecar(**{NAME: 1}),
        "no-settings": NAME.encode(),
        "no-yaml": f"{{{NAME}: [".encode(),
        "tag": f"!!python/object/apply:{NAME} [{NAME}]\n".encode(),
        "latin-1": SENTINELS["given name"].encode("latin-1"),
    }


def _cut(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a file that ends behind the name, and in the middle."""
    for encoding in ("latin-1", "utf-16-le"):
        if (at := whole.find(NAME.encode(encoding))) >= 0:
            yield f"cut-after-name-{encoding}", whole[: at + len(NAME.encode(encoding))]
    yield "cut", whole[: len(whole) * 2 // 3 // 2 * 2]


def _misfiled(form: str, whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, file) with each value in turn a person's name."""
    if form.endswith("xml") or form == "hl7-aecg":
        yield from _misfiled_in_xml(whole, _ENCODING.get(form, "latin-1"))
    elif form == "dicom":
        yield from _misfiled_in_dicom(whole)
    elif form == "edf":
        yield from _misfiled_in_edf(whole)
    else:
        yield from _misfiled_in_scp(whole)


def _misfiled_in_xml(whole: bytes, encoding: str) -> Iterator[tuple[str, bytes]]:
    """Of what stands in several places, the last is of the rhythm and not of a median beat."""
    text = whole.decode(encoding)
    last = {}
    for at in _VALUE.finditer(text):
        if at[0] not in _CARRIED:
            last[re.sub(r"\W+", "-", text[text.rindex("<", 0, at.start()) : at.start()])[:60]] = at
    for place, at in last.items():
        yield f"misfiled{place}", (text[: at.start()] + NAME + text[at.end() :]).encode(encoding)


def _misfiled_in_dicom(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Numbers in text are words, and what is no text has another VR than it should."""
    import pydicom
    from pydicom.dataelem import DataElement

    def elements(dataset: Any) -> Iterator[tuple[Any, Any]]:
        for element in dataset:
            if element.value not in _CARRIED:
                yield dataset, element
            if element.VR == "SQ" and element.value:
                yield from elements(element.value[-1])

    def opened() -> Any:
        return pydicom.dcmread(io.BytesIO(whole))

    def misfiled(number: int) -> tuple[str, bytes]:
        dataset = opened()
        of, element = list(elements(dataset))[number]
        if element.VR in ("DS", "IS"):
            element._value = NAME
        else:
            of[element.tag] = DataElement(element.tag, "UT" if element.VR == "LO" else "LO", NAME)
        stream = io.BytesIO()
        dataset.save_as(stream)
        return f"misfiled-{number}-{element.tag:08x}", stream.getvalue()

    for number in range(len(list(elements(opened())))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is wrong, which is what it is for
            yield misfiled(number)


def _misfiled_in_edf(whole: bytes) -> Iterator[tuple[str, bytes]]:
    count = int(whole[252:256])
    of_file = [8, 80, 80, 8, 8, 8, 44, 8, 8, 4]
    of_signal = [16, 80, 8, 8, 8, 8, 8, 80, 8, 32]
    at = 0
    cells = []
    for width in of_file:
        cells.append((at, width))
        at += width
    for width in of_signal:
        cells.append((at, width))  # of lead I
        at += count * width
    for start, width in cells[1:]:
        yield f"misfiled-{start}", whole[:start] + NAME.encode()[:width].ljust(width) + whole[start + width :]


def _misfiled_in_scp(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Each section in turn holds nothing but the name, under the right checksums, and all of the name under wrong ones."""
    for number in range(12):
        size, index = struct.unpack_from("<II", whole, 6 + 16 + 10 * number + 2)
        if size > 16:
            filled = (NAME.encode() * size)[: size - 16]
            start = 6 + index - 7 + 16
            changed = whole[:start] + filled + whole[start + size - 16 :]
            yield f"misfiled-{number}", scp_mended(changed)
            yield f"unsealed-{number}", changed


def _tables() -> Iterator[tuple[str, bytes]]:
    lines, numbers = made.csv(_short(), person=person(90)), made.npy(_short())
    named = np.zeros(5, [(NAME, "<i2"), (SENTINELS["patient id"], "<i2")])
    yield "cell.csv", lines.replace(b"\n7,", f"\n7,{NAME}".encode(), 1)
    yield "ragged.csv", lines + f"{NAME},{SENTINELS['remark']}\n".encode()
    yield "unit.csv", lines.replace(b",V2", f",V2 ({NAME})".encode(), 1)
    yield "other-unit.csv", lines.replace(b",V2", b",V2 (mV)", 1)
    yield "lead.csv", lines.replace(b",V2", f",{NAME}".encode(), 1)
    yield "prose.csv", f"{NAME};{SENTINELS['remark']}\n{SENTINELS['birth date']};{SENTINELS['operator']}\n".encode()
    yield "latin-1.csv", SENTINELS["given name"].encode("latin-1") + b",I,II\n1,2,3\n"
    yield "empty.csv", f"# {NAME}\n".encode()
    yield "names.npy", _npy(named)
    yield "words.npy", _npy(np.array([[NAME] * 12] * 5))
    yield "header.npy", numbers.replace(b"'<i2'", f"'{NAME}'".encode(), 1)
    yield "shape.npy", numbers.replace(b"(1000, 12)", f"({NAME[:6]},)".ljust(10).encode(), 1)
    yield "pickle.npy", _npy(np.array([[{NAME: 1}]], object))
    yield "cut.npy", numbers[:-20] + NAME.encode()
    yield "prose.npy", NAME.encode() * 20


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def _hdf5() -> Iterator[tuple[str, bytes]]:
    import h5py

    whole = made.hdf5({int(person(90).id): _short()}, samples=_SHORT, person=person(90))
    yield "cut.h5", whole[: len(whole) // 2]
    yield "cut-after-name.h5", whole[: whole.index(NAME.encode()) + len(NAME)]
    yield "prose.h5", b"\x89HDF\r\n\x1a\n" + NAME.encode() * 50

    def changed(change: Any) -> bytes:
        stream = io.BytesIO(whole)
        with h5py.File(stream, "r+") as file:
            change(file)
        return stream.getvalue()

    def put(name: str, value: Any) -> Any:
        def change(file: Any) -> None:
            del file[name]
            file[name] = value

        return change

    def two(file: Any) -> None:
        put("exam_id", np.array([1, 1]))(file)
        put("tracings", np.zeros((2, 500, 12), np.float32))(file)

    def packed(file: Any) -> None:
        del file["tracings"]
        file.create_dataset("tracings", data=np.zeros((1, _SHORT, 12), np.float32), compression="gzip")
        places.append(file["tracings"].id.get_chunk_info(0).byte_offset)

    places: list[int] = []
    in_chunk = changed(packed)
    yield "chunk.h5", in_chunk[: places[0]] + NAME.encode() + in_chunk[places[0] + len(NAME) :]
    yield "absent.h5", changed(lambda file: file.move("tracings", f"{NAME}-2"))
    yield "words.h5", changed(put("tracings", [[[NAME] * 12] * 9]))
    yield "ids.h5", changed(put("exam_id", [f"{NAME} {SENTINELS['birth date']}"]))
    yield "ids-count.h5", changed(put("exam_id", [NAME, NAME]))
    yield "ids-twice.h5", changed(two)
    yield "elsewhere.h5", changed(put("tracings", h5py.ExternalLink(f"{NAME}.h5", f"/{NAME}")))
    yield "nowhere.h5", changed(put("tracings", h5py.SoftLink(f"/{NAME}/{NAME}")))


def pack_zip(path: Path) -> None:
    """Write an archive of its own as a zip file, with people in names and comments of members, and in its own."""
    with zipfile.ZipFile(path, "w") as packed:
        packed.comment = f"{NAME}, {SENTINELS['remark']}".encode()
        for name, data in _members():
            member = zipfile.ZipInfo(name)
            member.comment = SENTINELS["operator"].encode()
            packed.writestr(member, data)
    whole = path.read_bytes()  # a member whose own header bears another name than the index says
    at = whole.index(f"{STEM}-cut-0.xml".encode())
    path.write_bytes(whole[:at] + whole[at : at + 3].swapcase() + whole[at + 3 :])


def pack_tar(path: Path) -> None:
    """Write the same as a tar file, with people in names, owners and extended headers."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": NAME}) as packed:
        for name, data in _members():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.uname, member.gname = SENTINELS["operator"], NAME
            member.pax_headers = {"comment": SENTINELS["remark"], NAME: NAME}
            packed.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(f"{FOLDER}/{NAME}.xml")
        link.type, link.linkname = tarfile.SYMTYPE, f"/{NAME}"
        packed.addfile(link)


def _members() -> Iterator[tuple[str, bytes]]:
    for at, (form, (suffix, writer)) in enumerate(made.WRITERS.items()):
        whole = writer(samples()[at] // 5, person=person(at))
        yield f"{FOLDER}/{STEM}-{form}{suffix}", whole
        yield f"{FOLDER}/{STEM}-cut-{at}{suffix}", whole[: len(whole) // 2]
    for name in ("ecg.yaml", f"{NAME}/ecg.yaml"):
        yield f"{FOLDER}/{name}", _sidecar()
    yield f"{FOLDER}/{NAME}/{STEM}.npy", made.npy(samples()[20] // 5)
    yield f"{FOLDER}/{NAME}/{STEM}.h5", made.hdf5({int(person(1).id): samples()[21] // 5}, samples=5000)
    yield f"{FOLDER}/{NAME}/{STEM}-prose.h5", b"\x89HDF\r\n\x1a\n" + NAME.encode() * 50


def broken_archives(folder: Path) -> list[str]:
    """Write zip and tar files that cannot be opened, or not wholly, with people in them; return their URLs."""
    folder.mkdir()
    pack_zip(folder / "whole.zip")
    pack_tar(folder / "whole.tar")
    urls = []
    for kind in ("zip", "tar"):
        whole = (folder / f"whole.{kind}").read_bytes()
        damaged = {
            "cut": whole[: len(whole) // 2],
            "prose": NAME.encode() * 200,
            "damaged": whole[:1024] + NAME.encode() * 400 + whole[1024 + 400 * len(NAME) :],
        }
        if kind == "tar":
            damaged["packed"] = gzip.compress(whole)
            damaged["number"] = whole.replace(b"comment=", b"size=%s" % NAME[:3].encode(), 1)
        for name, data in damaged.items():
            (folder / f"{name}.{kind}").write_bytes(data)
            urls.append(f"{kind}::file://{folder}/{name}.{kind}")
    return urls
