"""Real exports, read as a second implementation reads them; where there is none, limb leads tell that the samples are right."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from screening.archive import formats
from screening.archive.reader import decode
from screening.contract import LEADS
from screening.recording import Recording

Second = Callable[[bytes], dict[str, np.ndarray]]


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "formats"


def read(folder: Path, name: str) -> tuple[Recording, bytes]:
    data = (folder / name).read_bytes()
    found = decode("x", data, {})
    assert isinstance(found, Recording), found
    return found, data


def by_base64(data: bytes) -> dict[str, np.ndarray]:
    """MUSE: the last block of each lead's name is the rhythm's."""
    text = data.decode("latin-1")
    rhythm = next(
        block for block in re.findall(r"(?s)<Waveform>.*?</Waveform>", text) if "<WaveformType>Rhythm" in block
    )
    found = {}
    for lead in re.findall(r"(?s)<LeadData>.*?</LeadData>", rhythm):
        name, per_bit = re.search(r"<LeadID>(\w+)", lead), re.search(r"UnitsPerBit>([\d.]+)", lead)
        samples = re.search(r"(?s)<WaveFormData>(.*?)</WaveFormData>", lead)
        assert name
        assert per_bit
        assert samples
        assert "<LeadAmplitudeUnits>MICROVOLTS<" in lead
        raw = base64.b64decode(samples[1])
        found[name[1]] = np.array(struct.unpack(f"<{len(raw) // 2}h", raw)) * float(per_bit[1]) / 1000
    return found


def by_text(data: bytes) -> dict[str, np.ndarray]:
    """aECG: digits of the rhythm series."""
    space = "{urn:hl7-org:v3}"
    (series,) = (
        one
        for one in ElementTree.fromstring(data).iter(f"{space}series")
        if (code := one.find(f"{space}code")) is not None and code.get("code") == "RHYTHM"
    )
    found = {}
    path = "/".join(f"{space}{name}" for name in ("component", "sequenceSet", "component", "sequence"))
    for sequence in series.findall(path):  # not those of the beat derived from it
        code, value = sequence.find(f"{space}code"), sequence.find(f"{space}value")
        if code is None or value is None or "LEAD" not in str(code.get("code")):
            continue
        scale, digits = value.find(f"{space}scale"), value.findtext(f"{space}digits")
        assert scale is not None
        assert scale.get("unit") == "uV"
        name = str(code.get("code")).removeprefix("MDC_ECG_LEAD_").replace("AV", "aV")
        found[name] = np.fromstring(str(digits), sep=" ") * float(str(scale.get("value"))) / 1000
    return found


def by_pydicom(data: bytes) -> dict[str, np.ndarray]:
    """DICOM: in the units of its channels, which here are microvolts."""
    import io

    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data))
    values = dataset.waveform_array(0)
    group = dataset.WaveformSequence[0]
    found = {}
    for channel, samples in zip(group.ChannelDefinitionSequence, values.T, strict=True):
        meaning = str(channel.ChannelSourceSequence[0].CodeMeaning)
        assert channel.ChannelSensitivityUnitsSequence[0].CodeValue == "uV"
        found[meaning.split("(")[0].removeprefix("Lead").strip().replace("AV", "aV")] = samples / 1000
    return found


def by_edfio(data: bytes) -> dict[str, np.ndarray]:
    """EDF: in the physical dimension that each signal states."""
    import edfio

    unit = {"uV": 1e-3, "mV": 1.0, "V": 1e3}
    return {
        signal.label.removeprefix("ECG").strip(): signal.data * unit[signal.physical_dimension]
        for signal in edfio.read_edf(data).signals
        if signal.physical_dimension in unit
    }


def by_words(data: bytes) -> dict[str, np.ndarray]:
    """SCP-ECG, uncompressed: sixteen bits a sample, found by the sizes that stand before them."""
    at = data.index(struct.pack("<HHBB", 183, 1000, 0, 0))  # nanovolts, microseconds, differences, bimodal
    sizes = struct.unpack_from("<8H", data, at + 6)
    at += 6 + 16
    found = {}
    for name, size in zip(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), sizes, strict=True):
        found[name] = np.array(struct.unpack_from(f"<{size // 2}h", data, at)) * 183e-6
        at += size
    return found


def by_sierraecg(data: bytes) -> dict[str, np.ndarray]:
    """Sierra XML: steps of 5 uV; what follows the strip is the calibration pulse."""
    import io

    import sierraecg

    samples = {"1.03": 5264, "1.04": 5300}
    file = sierraecg.read_file(io.BytesIO(data))
    return {lead.label: np.array(lead.samples)[: samples[file.doc_ver]] * 0.005 for lead in file.leads}


@pytest.mark.parametrize(
    ("name", "form", "rate_hz", "samples", "second", "tolerance_mV"),
    [
        ("muse_xml/example1.xml", "muse-xml", 500, 5000, by_base64, 1e-6),
        ("muse_xml/MUSE_introecg.xml", "muse-xml", 500, 5000, by_base64, 1e-6),
        ("hl7_aecg/hl7aecg_example.xml", "hl7-aecg", 100, 1000, by_text, 1e-6),
        ("dicom/waveform_ecg.dcm", "dicom", 1000, 10000, by_pydicom, 1e-6),
        ("edf/0000050.ECG.edf", "edf", 800, 37855, by_edfio, 5e-5),
        ("scp/demo.scp", "scp-ecg", 1000, 10000, by_words, 1e-6),
        ("philips_sierra_xml/129DYPRG.XML", "sierra-xml", 500, 5264, by_sierraecg, 1e-6),
        ("philips_sierra_xml/ad4d3d80-d165_1-04_orig.xml", "sierra-xml", 500, 5300, by_sierraecg, 1e-6),
    ],
)
def test_samples_are_those_of_a_second_implementation(
    folder: Path, name: str, form: str, rate_hz: float, samples: int, second: Second, tolerance_mV: float
) -> None:
    got, data = read(folder, name)
    assert (got.source_format, got.rate_hz, got.signal_mV.shape) == (form, rate_hz, (12, samples))
    wanted = second(data)
    shared = [lead for lead in LEADS if lead in wanted]
    assert len(shared) >= 8, sorted(wanted)
    for lead in shared:
        np.testing.assert_allclose(
            got.signal_mV[LEADS.index(lead)], wanted[lead], atol=tolerance_mV, rtol=0, err_msg=lead
        )


@pytest.mark.parametrize(
    ("name", "form", "samples", "step_mV", "sha256"),
    [
        ("philips_sierra_xml/129DYPRG.XML", "sierra-xml", 5264, 0.005, "b1390ec92f96192b"),
        ("philips_sierra_xml/ad4d3d80-d165_1-04_orig.xml", "sierra-xml", 5300, 0.005, "597d1cccc03757e0"),
        ("scp/Example.scp", "scp-ecg", 5000, 0.0025, "cc80d4e29602e677"),
    ],
)
def test_limb_leads_agree_and_samples_stay_as_they_were(
    folder: Path, name: str, form: str, samples: int, step_mV: float, sha256: str
) -> None:
    got, _ = read(folder, name)
    assert (got.source_format, got.rate_hz, got.signal_mV.shape) == (form, 500, (12, samples))
    i, ii, iii, avr, avl, avf = got.signal_mV[:6].astype(float)
    # Each is rounded to a step by itself.
    for residual in (i + iii - ii, avr + (i + ii) / 2, avl - (i - iii) / 2, avf - (ii + iii) / 2):
        assert np.abs(residual).max() <= 2 * step_mV + 1e-6
    # Looked at as drawn, once, and like this since.
    assert hashlib.sha256(np.rint(got.signal_mV / step_mV).astype("<i4").tobytes()).hexdigest()[:16] == sha256


def test_calibration_pulses_are_taken_off_and_told(folder: Path) -> None:
    for name in ("129DYPRG.XML", "ad4d3d80-d165_1-04_orig.xml"):
        got, _ = read(folder, f"philips_sierra_xml/{name}")
        assert got.flags == ("calibration_removed",)
        end = got.signal_mV[:, -20:]
        assert np.ptp(end, axis=0).min() > 0.02, "all leads stand at one level: that is no heart"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("muse_xml/example1.xml", {"rate_hz": 500.0, "duration_s": 10.0}),
        ("dicom/waveform_ecg.dcm", {"rate_hz": 1000.0, "duration_s": 10.0, "qrs_ms": 75.0}),
        ("scp/Example.scp", {"rate_hz": 500.0, "qrs_ms": 120.0, "device": "ELI250", "sex": "male", "age": 49.0}),
        ("hl7_aecg/hl7aecg_example.xml", {"rate_hz": 100.0, "qrs_ms": 88.0, "paced": False, "device": "BeneHeart R12"}),
        ("philips_sierra_xml/129DYPRG.XML", {"qrs_ms": 135.0, "sex": "male"}),
        ("scp/demo.scp", {"acquired_at": datetime(2004, 6, 24, 16, 52, 16)}),
    ],
)
def test_what_files_state(folder: Path, name: str, expected: dict[str, object]) -> None:
    stated = formats.facts((folder / name).read_bytes())
    assert {key: getattr(stated, key) for key in expected} == expected
