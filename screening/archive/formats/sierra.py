"""Philips Sierra XML (restingecgdata, versions 1.03 to 1.04.01): base64 of 16-bit samples, plain or packed by XLI.

XLI is LZW with codes of ten bits over second differences; limb leads beyond I and II are kept as the difference from what
follows from these. After the description by the sierra-ecg-tools project (C. A. Watford, MIT,
github.com/sixlettervariables/sierra-ecg-tools), written anew.
"""

from __future__ import annotations

import struct
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from screening.archive.container import Refused
from screening.archive.facts import SEXES, Facts, age_at, as_id, parse_age
from screening.archive.formats.xml import decoded, moment, number_of, parse, root_of, text_of
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import LEADS, MAX_SAMPLES, Reason

NAME = "sierra-xml"
_CODE_BITS = 10
_END = (1 << _CODE_BITS) - 1
_MAX_PACKED = 2**22
_QRS = ("globalmeasurements/qrsdur", "globalmeasurements/meanqrsdur")  # as of 1.04, and as of 1.03


def looks_like(head: bytes) -> bool:
    """Whether a file begins as Sierra XML."""
    return root_of(head) == "restingecgdata"


def read(data: bytes) -> Leads:
    """Return the leads of the strip, without the calibration pulse at its end."""
    root = parse(data)
    waves = root.find("waveforms/parsedwaveforms")
    if waves is None:
        raise Refused(Reason.TOO_SHORT, "there are no waveforms, only representative beats or nothing")
    acquired = root.find("dataacquisition/signalcharacteristics")
    names = _names(root, waves, acquired)
    rate = _first(number_of(acquired, "samplingrate"), waves.get("samplespersecond"))
    if rate is None:
        raise Refused(Reason.MISSING_RATE, "neither samplingrate nor samplespersecond is stated")
    resolution_uV = _first(
        waves.get("resolution"), number_of(acquired, "signalresolution"), number_of(acquired, "resolution")
    )
    if resolution_uV is None:
        raise Refused(Reason.MISSING_UNITS, "no resolution is stated")
    if _first(waves.get("bitspersample"), number_of(acquired, "bitspersample")) not in (None, 16):
        raise Refused(Reason.UNKNOWN_FORMAT, "samples of another size than 16 bits are not known")
    if waves.get("dataencoding", "Base64").lower() != "base64":
        raise Refused(Reason.UNKNOWN_FORMAT, "samples that are not base64 are not known")
    raw = decoded(waves.text)
    if not raw:
        raise Refused(Reason.TOO_SHORT, "the strip holds no samples")
    leads = _unpacked(raw, names, waves)
    channels = [Channel(name, samples, resolution_uV / 1000) for name, samples in zip(names, leads, strict=True)]
    return assemble(channels, rate, source_format=NAME, unit_source="resolution in uV")


def _first(*stated: float | str | None) -> float | None:
    for one in stated:
        try:
            if one is not None:
                return float(one)
        except ValueError:
            continue
    return None


def _names(root: Element, waves: Element, acquired: Element | None) -> list[str]:
    """Return the leads' names in the order in which they are stored."""
    stated = (waves.get("leadlabels") or "").split()
    if stated:
        count = int(_first(waves.get("numberofleads")) or len(stated))
        return stated[:count]
    # 1.03 names no leads here: its schema stores a set of twelve in this order, which ten wires measure.
    kind = (text_of(acquired, "leadset") or text_of(acquired, "acquisitiontype") or "").upper()
    if kind.startswith(("STD-12", "10-WIRE")) and number_of(acquired, "numberchannelsvalid") in (None, 12):
        return list(LEADS)
    raise Refused(Reason.MISSING_LEADS, "the leads are not named, and not of the standard set of twelve")


def _unpacked(raw: bytes, names: list[str], waves: Element) -> list[np.ndarray]:
    packed = (waves.get("compression") or waves.get("compressmethod") or "").upper()
    if waves.get("compressflag", "").lower() == "false" or packed in ("", "UNCOMPRESSED", "NONE"):
        if len(raw) % (2 * len(names)):
            raise Refused(Reason.TRUNCATED, f"{len(raw)} bytes are not whole samples of {len(names)} leads")
        return list(np.frombuffer(raw, "<i2").reshape(len(names), -1))
    if packed != "XLI":
        raise Refused(Reason.UNKNOWN_FORMAT, "samples packed in another way than by XLI are not known")
    leads: list[np.ndarray] = []
    at = 0
    for _ in names:
        if at + 8 > len(raw):
            raise Refused(Reason.TRUNCATED, f"there are {len(leads)} of {len(names)} leads")
        size, _, first = struct.unpack_from("<ihh", raw, at)
        if not 0 < size <= min(_MAX_PACKED, len(raw) - at - 8):
            raise Refused(Reason.TRUNCATED, f"a lead claims {size} packed bytes of {len(raw) - at - 8}")
        leads.append(_differences_undone(_lzw(raw[at + 8 : at + 8 + size]), first))
        at += 8 + size
    shortest = min(map(len, leads))
    by_name = {name: lead[:shortest].astype(np.int64) for name, lead in zip(names, leads, strict=True)}
    return [_reconstructed(name, by_name) for name in names]


def _lzw(packed: bytes) -> bytes:
    """Undo LZW of ten-bit codes, most significant bit first, whose table is not renewed when it is full."""
    table: list[bytes] = [bytes((value,)) for value in range(256)]
    out = bytearray()
    before = b""
    held = bits = 0
    for byte in packed:
        held = (held << 8 | byte) & 0xFFFFFF
        bits += 8
        if bits < _CODE_BITS:
            continue
        bits -= _CODE_BITS
        code = held >> bits & _END
        if code == _END:
            break
        if code < len(table):
            entry = table[code]
        elif code == len(table) and before:
            entry = before + before[:1]
        else:
            raise Refused(Reason.UNDECODABLE, "a code of the packed samples is none")
        out += entry
        if len(out) > 2 * MAX_SAMPLES:
            raise Refused(Reason.TOO_LARGE, f"a lead unpacks to more than {MAX_SAMPLES} samples")
        if before and len(table) < _END:
            table.append(before + entry[:1])
        before = entry
    return bytes(out)


def _differences_undone(data: bytes, first: int) -> np.ndarray:
    """Return samples from second differences, whose high bytes stand before all their low bytes."""
    half = len(data) // 2
    if half < 2:
        raise Refused(Reason.TRUNCATED, "a lead unpacks to less than two samples")
    stored = np.frombuffer(data[: 2 * half], np.uint8).reshape(2, half).astype(np.int64)
    values = ((stored[0] << 8 | stored[1]) ^ 0x8000) - 0x8000
    # z[i] = 2 z[i-1] - z[i-2] - (v[i-1] - 64), where v[1] - 64 is stated beforehand: twice a running sum.
    bends = -np.concatenate(([first], values[2:-1] - 64))
    slope = values[1] - values[0] + np.cumsum(bends)
    rest = values[1] + np.cumsum(slope)
    whole = np.concatenate((values[:2], rest[: half - 2]))
    return ((whole & 0xFFFF) ^ 0x8000) - 0x8000  # as sixteen bits hold them


def _reconstructed(name: str, of: dict[str, np.ndarray]) -> np.ndarray:
    if not {"I", "II"} <= of.keys():
        return of[name]
    one, two = of["I"], of["II"]
    if name == "III":
        return two - one - of["III"]
    if name == "aVR":
        return -of["aVR"] - ((one + two) >> 1)
    if name in ("aVL", "aVF") and "III" in of:
        three = two - one - of["III"]
        return ((one - three) >> 1) - of["aVL"] if name == "aVL" else ((two + three) >> 1) - of["aVF"]
    return of[name]


def facts(data: bytes) -> Facts:
    """Return what the file states."""
    root = parse(data)
    acquisition, patient = root.find("dataacquisition"), root.find("patient/generalpatientdata")
    waves = root.find("waveforms/parsedwaveforms")
    rate = number_of(acquisition, "signalcharacteristics/samplingrate")
    acquired_at = None
    if acquisition is not None:
        acquired_at = moment(acquisition.get("date"), acquisition.get("time"), "%Y-%m-%d %H:%M:%S")
    duration_ms = _first(waves.get("durationperchannel")) if waves is not None else None
    statements = {
        " ".join(part for part in (text_of(one, "leftstatement"), text_of(one, "rightstatement")) if part): None
        for one in root.iter("statement")
    }
    statements.pop("", None)
    pace = (text_of(patient, "pacestatus") or "").lower()
    return Facts(
        patient_id=as_id(text_of(patient, "patientid")),
        acquired_at=acquired_at,
        age=_age(patient, acquired_at),
        sex=SEXES.get((text_of(patient, "sex") or "").lower()),
        site=text_of(acquisition, "acquirer/institutionname"),
        device=text_of(acquisition, "machine"),
        statements=dict(statements) or None,
        rate_hz=rate,
        duration_s=duration_ms / 1000 if duration_ms else None,
        qrs_ms=_first(*(text_of(root, f".//{name}") for name in _QRS)),
        paced=True if pace in ("paced", "yes") else False if pace in ("no", "not paced") else None,
    )


def _age(patient: Element | None, acquired_at: datetime | None) -> float | None:
    try:
        if (years := text_of(patient, "age/years")) is not None:
            return parse_age(years)
    except ValueError:
        return None
    return age_at(acquired_at, moment(text_of(patient, "age/dateofbirth"), None, "%Y-%m-%d %H:%M:%S"))
