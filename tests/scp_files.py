"""SCP-ECG files (EN 1064) for tests, written byte by byte."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Sequence

import numpy as np

from screening.contract import INDEPENDENT_LEADS, LEADS
from tests.people import PERSON, Person

SCP_NUMBERS = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))


def _bits(value: int) -> str:
    """Return the code of a number in the default table (EN 1064, annex C)."""
    if value == 0:
        return "0"
    if abs(value) <= 8:
        return "1" * (abs(value)) + "0" + ("1" if value < 0 else "0") if abs(value) else "0"
    if -128 <= value < 128:
        return "1111111110" + f"{value & 0xFF:08b}"
    return "1111111111" + f"{value & 0xFFFF:016b}"


def scp(
    digital: np.ndarray,
    *,
    rate: int = 500,
    step_uV: float = 5.0,
    coded: bool = True,
    differences: int = 2,
    beats: Sequence[int] = (),
    person: Person = PERSON,
) -> bytes:
    """Return an SCP-ECG of eight leads, its samples as Huffman codes of differences or as they are.

    ``beats`` are samples, numbered from 0: 0.3 s before and after the first of them are the reference beat, in steps of twice
    the size, which is subtracted at all of them.
    """
    measured = digital[[LEADS.index(name) for name in INDEPENDENT_LEADS]].astype(np.int64)
    reach, samples = round(0.3 * rate), measured.shape[1]
    if len(beats):
        reference = measured[:, beats[0] - reach : beats[0] + reach] // 2
        measured = measured.copy()
        for beat in beats:
            zone = measured[:, beat - reach : beat + reach]  # cut short by the end
            zone -= 2 * reference[:, : zone.shape[1]]

    def coded_lead(lead: np.ndarray) -> bytes:
        values = lead.copy()
        if differences >= 1:
            values[1:] = np.diff(lead)
        if differences == 2:
            values[1] = lead[1]
            values[2:] = lead[2:] - 2 * lead[1:-1] + lead[:-2]
        if not coded:
            return values.astype("<i2").tobytes()
        bits = "".join(map(_bits, values.tolist()))
        raw = int(bits, 2) << (-len(bits) % 16)
        return raw.to_bytes((len(bits) + 15) // 16 * 2, "big")

    def stored(leads: np.ndarray, step_nV: int) -> bytes:
        packed = [coded_lead(lead) for lead in leads]
        begin = struct.pack("<HHBB", step_nV, round(1e6 / rate), differences, 0)
        return begin + struct.pack("<8H", *map(len, packed)) + b"".join(packed)

    def field(tag: int, value: bytes) -> bytes:
        return struct.pack("<BH", tag, len(value)) + value

    numbers = (1, 2, 3, 4, 5, 6, 7, 8)  # I, II, V1 to V6 in table 5

    def text(value: str) -> bytes:
        return value.encode("latin-1") + b"\0"

    said = text(person.statement)
    contents = {
        1: field(2, text(person.id))
        + field(0, text(person.surname))
        + field(1, text(person.given_name))
        + field(5, struct.pack("<HBB", person.born.year, person.born.month, person.born.day))
        + field(13, text(person.remark))
        + field(16, text(person.institution))
        + field(20, text(person.physician))
        + field(22, text(person.operator))
        + field(30, text(person.remark))
        + field(4, struct.pack("<HB", 67, 1))
        + field(8, b"\1")
        + field(14, bytes(8) + b"ELI25\0" + bytes(30))
        + field(25, struct.pack("<HBB", 2011, 2, 3))
        + field(26, bytes((8, 9, 10)))
        + field(255, b""),
        **({2: struct.pack("<H", 19999)} if coded else {}),
        3: bytes((8, bool(len(beats)))) + b"".join(struct.pack("<IIB", 1, samples, number) for number in numbers),
        **(
            {
                4: struct.pack("<HHH", round(2000 * reach / rate), reach + 1, len(beats))
                + b"".join(struct.pack("<HIII", 0, at - reach + 1, at + 1, min(at + reach, samples)) for at in beats),
                5: stored(reference, round(step_uV * 2000)),
            }
            if len(beats)
            else {}
        ),
        6: stored(measured, round(step_uV * 1000)),
        7: bytes((1, 0)) + bytes(8) + struct.pack("<HH", 300, 452) + bytes(8),
        **({8: bytes(8) + struct.pack("<BBH", 1, 1, len(said)) + said} if person.statement else {}),
    }

    def section(number: int, content: bytes, name: bytes = bytes(6)) -> bytes:
        content += bytes(len(content) % 2)
        body = struct.pack("<HIBB", number, 16 + len(content), 20, 20) + name + content
        return struct.pack("<H", binascii.crc_hqx(body, 0xFFFF)) + body

    made = {number: section(number, content) for number, content in contents.items()}
    table_size = 16 + 10 * 12
    at = 6 + table_size + 1
    pointers = {0: (table_size, 7)}
    for number, data in made.items():
        pointers[number] = (len(data), at)
        at += len(data)
    table = b"".join(struct.pack("<HII", number, *pointers.get(number, (0, 0))) for number in range(12))
    whole = section(0, table, b"SCPECG") + b"".join(made.values())
    return scp_sealed(whole)


def scp_sealed(sections: bytes) -> bytes:
    """Return sections behind the record's checksum and size."""
    rest = struct.pack("<I", 6 + len(sections)) + sections
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def scp_mended(data: bytes) -> bytes:
    """Return a record with every checksum as it should be, as far as its sections can be found."""
    body = bytearray(data[6:])
    for at in range(16, min(len(body) - 9, 200), 10):
        number, size, index = struct.unpack_from("<HII", body, at)
        start = index - 7
        if number < 12 and size > 2 and start >= 0 and start + size <= len(body):
            struct.pack_into("<H", body, start, binascii.crc_hqx(bytes(body[start + 2 : start + size]), 0xFFFF))
    return scp_sealed(bytes(body))
