"""Formats told by their bytes; a tracing comes out of each as it went in, with what the file states and no more."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defusedxml.ElementTree import fromstring

from screening.archive import formats
from screening.archive.build import build_catalog
from screening.archive.formats import aecg, cardiosoft, dicom, edf, muse, scp, sierra
from screening.archive.formats.xml import number_of
from screening.archive.leads import Channel, assemble
from screening.archive.mapping import ColumnMapping
from screening.archive.reader import ArchiveReader, decode
from screening.contract import LEADS, Reason, lead_of, mV_per_unit
from screening.recording import Recording, Rejected
from tests import hospital_files as made
from tests.archive.formats.expected import SIDECAR, STEP_MV, good, rows_of, wanted
from tests.corpus.hospital import hospital_cases
from tests.corpus.hospital_files import digital, file_of
from tests.people import PERSON

MODULES = {module.NAME: module for module in (aecg, cardiosoft, dicom, edf, muse, scp, sierra)}


@pytest.mark.parametrize("form", made.WRITERS)
def test_a_tracing_comes_out_as_it_went_in(form: str) -> None:
    got = good(decode("x", file_of(form), {}))
    np.testing.assert_allclose(got.signal_mV, wanted(form), atol=1e-6, rtol=0)
    assert (got.source_format, got.rate_hz) == (form, 500)
    assert got.unit_source != "", "whose word the unit is, is told"
    assert ("derived_leads" in got.flags) == (form in ("muse-xml", "scp-ecg"))
    assert ("calibration_removed" in got.flags) == (form == "sierra-xml")
    assert "padding_removed" not in got.flags


OTHERWISE: dict[str, tuple[str, bytes]] = {
    "muse, exponent 1": ("muse-xml", made.muse(digital(), exponent=1)),
    "muse, exponent -1": ("muse-xml", made.muse(digital(), exponent=-1)),
    "muse, millivolts": ("muse-xml", made.muse(digital(), unit="MILLIVOLTS", unit_uV=1000)),
    "muse, micro volts": ("muse-xml", made.muse(digital(), unit="MICRO VOLTS")),
    "muse, medians last": ("muse-xml", made.muse(digital(), medians_first=False)),
    "cardiosoft, mVperLsb": ("cardiosoft-xml", made.cardiosoft(digital(), unit="mVperLsb", unit_uV=1000)),
    "cardiosoft, nVperLsb": ("cardiosoft-xml", made.cardiosoft(digital(), unit="nVperLsb", unit_uV=0.001)),
    "cardiosoft, uVperLSB": ("cardiosoft-xml", made.cardiosoft(digital(), unit="uVperLSB")),
    "cardiosoft, C1 to C6": ("cardiosoft-xml", made.cardiosoft(digital()).replace(b'lead="V', b'lead="C')),
    "aecg, origin": ("hl7-aecg", made.aecg(digital() - 100, origin_mV=0.5)),
    "aecg, us": ("hl7-aecg", made.aecg(digital(), unit_s=("us", 1e-6))),
    "aecg, \N{MICRO SIGN}s": ("hl7-aecg", made.aecg(digital(), unit_s=("\N{MICRO SIGN}s", 1e-6))),
    "aecg, s": ("hl7-aecg", made.aecg(digital(), unit_s=("s", 1.0))),
    "aecg, other prefix": ("hl7-aecg", made.aecg(digital()).replace(b"MDC_ECG_LEAD_", b"MINDRAY_ECG_LEAD_")),
    "aecg, no code": ("hl7-aecg", made.aecg(digital()).replace(b'<code code="RHYTHM"/>', b"")),
    "aecg, small letters": ("hl7-aecg", made.aecg(digital()).replace(b'"RHYTHM"', b'"rhythm"')),
    "aecg, a short strip first": ("hl7-aecg", made.aecg(digital()).replace(b"REPRESENTATIVE_BEAT", b"RHYTHM")),
    "aecg, a set of one lead": (
        "hl7-aecg",
        made.aecg(digital()).replace(
            b"</sequenceSet></component></series></component></AnnotatedECG>",
            b"</sequenceSet></component><component><sequenceSet><component><sequence><code code='MDC_ECG_LEAD_II'/>"
            b"<value><scale value='5' unit='uV'/><digits>" + b"1 " * 9_000 + b"</digits></value></sequence></component>"
            b"</sequenceSet></component></series></component></AnnotatedECG>",
        ),
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_a_file_states_is_heeded(name: str) -> None:
    form, data = OTHERWISE[name]
    got = good(decode("x", data, {}))
    np.testing.assert_allclose(got.signal_mV, wanted(form), atol=1e-6, rtol=0)
    assert (got.source_format, got.rate_hz) == (form, 500)


def test_a_lead_that_was_off_holds_nothing() -> None:
    got = good(decode("x", made.muse(digital(), off="V3"), {}))
    assert np.isnan(got.signal_mV).all(axis=1).tolist() == [lead == "V3" for lead in LEADS]


def test_strips_of_muse_are_put_together() -> None:
    """A strip may be there twice; further leads, here six of the eight, may stand in a strip of their own."""
    text = file_of("muse-xml").decode("latin-1")
    found = re.search("(?s)<Waveform><WaveformType>Rhythm.*?</Waveform>", text)
    assert found
    twice = good(decode("x", text.replace("</RestingECG>", found[0] + "</RestingECG>").encode("latin-1"), {}))
    assert "duplicate_lead" in twice.flags
    limb, leads = found[0].index("<LeadData>"), found[0].split("<LeadData>")
    chest = found[0][:limb] + "<LeadData>" + "<LeadData>".join(leads[3:])
    apart = text.replace(found[0], "<LeadData>".join(leads[:3]) + "</Waveform>" + chest)
    for got in (twice, good(decode("x", apart.encode("latin-1"), {}))):
        np.testing.assert_allclose(got.signal_mV, wanted("muse-xml"), atol=1e-6, rtol=0)


def test_a_checksum_of_muse_may_be_signed() -> None:
    text = file_of("muse-xml").decode("latin-1")
    signed = re.sub(r"(?<=CRC32>)\d+", lambda found: str((int(found[0]) ^ 2**31) - 2**31), text)
    assert "CRC32>-" in signed
    good(decode("x", signed.encode("latin-1"), {}))


@pytest.mark.parametrize("born", ["01-02-1944", "1944-01-02"])
def test_an_age_follows_from_the_birth(born: str) -> None:
    age = b"<PatientAge>67</PatientAge><AgeUnits>YEARS</AgeUnits>"
    assert age in file_of("muse-xml")
    stated = formats.facts(file_of("muse-xml").replace(age, f"<DateofBirth>{born}</DateofBirth>".encode()))
    assert stated
    assert stated.age == 67


@pytest.mark.parametrize(
    "attributes", ['compression="xli"', 'compressmethod="XLI"', 'compressflag="true" compressmethod="XLI"']
)
def test_sierra_says_in_several_ways_that_it_is_packed(attributes: str, shared_data: Path) -> None:
    data = (shared_data / "formats/philips_sierra_xml/ad4d3d80-d165_1-04_orig.xml").read_bytes()
    text = data.decode("utf-16")
    assert 'compression="XLI"' in text
    changed = good(decode("x", text.replace('compression="XLI"', attributes).encode("utf-16"), {}))
    np.testing.assert_array_equal(changed.signal_mV, good(decode("x", data, {})).signal_mV)


def test_sierra_of_ten_wires_that_is_not_packed() -> None:
    text = file_of("sierra-xml").decode("utf-16")
    text = re.sub('leadlabels="[^"]*"', 'compressflag="False" compressmethod="XLI"', text)
    text = text.replace("<bitspersample>", "<acquisitiontype>10-WIRE</acquisitiontype><bitspersample>")
    got = good(decode("x", text.encode("utf-16"), {}))
    np.testing.assert_allclose(got.signal_mV, wanted("sierra-xml"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("code", ["MDC_ECG_TIME_PD_QRS", "MDC_ECG_TIME_PD_QRS_GL"])
def test_the_qrs_of_an_annotated_ecg(code: str) -> None:
    note = f'<annotation><code code="{code}"/><value value="152" unit="ms"/></annotation></AnnotatedECG>'
    stated = formats.facts(file_of("hl7-aecg").replace(b"</AnnotatedECG>", note.encode()))
    assert stated
    assert stated.qrs_ms == 152


# --- Letters ---------------------------------------------------------------------------------------------------------

_CITY = {"gb2312": "\u5317\u4eac", "GBK": "\u5317\u4eac", "GB18030": "\u5317\u4eac", "Big5": "\u53f0\u5317"}
_CITY |= {"Shift_JIS": "\u6771\u4eac", "EUC-JP": "\u6771\u4eac", "EUC-KR": "\uc11c\uc6b8"}


@pytest.mark.parametrize("codec", _CITY)
def test_letters_of_east_asia(codec: str) -> None:
    text = file_of("muse-xml").decode("latin-1").replace("ISO-8859-1", codec).replace("Sankt J\xf6rg", _CITY[codec])
    data = text.encode(codec)
    np.testing.assert_array_equal(
        good(decode("x", data, {})).signal_mV, good(decode("x", file_of("muse-xml"), {})).signal_mV
    )
    stated = formats.facts(data)
    assert stated
    assert stated.site == _CITY[codec]


def _latin(declared: str) -> bytes:
    return file_of("muse-xml").replace(b'encoding="ISO-8859-1"', declared.encode())


SAVED_AGAIN = {
    "Latin letters, said to be UTF-8": _latin('encoding="UTF-8"'),
    "Latin letters, nothing said": _latin(""),
    "Latin letters, said to be of no codec": _latin('encoding="nonsense"'),
    "Latin letters, said to be no letters": _latin('encoding="zlib"'),
    "UTF-8, said to be UTF-16": _latin('encoding="UTF-16"').decode("latin-1").encode(),
    "UTF-16, said to be UTF-8": _latin('encoding="UTF-8"').decode("latin-1").encode("utf-16"),
    "UTF-16 without a mark": _latin('encoding="UTF-16"').decode("latin-1").encode("utf-16-le"),
    "UTF-16, begun by a line": ("\n" + _latin('encoding="UTF-8"').decode("latin-1")).encode("utf-16-be"),
    "a line before it": b"\r\n" + file_of("muse-xml"),
    "a NUL behind it": file_of("muse-xml") + b"\0",
}


@pytest.mark.parametrize("how", SAVED_AGAIN)
def test_what_an_editor_does_to_xml_does_not_hide_it(how: str) -> None:
    assert formats.format_of(SAVED_AGAIN[how]) is muse
    got = good(decode("x", SAVED_AGAIN[how], {}))
    np.testing.assert_allclose(got.signal_mV, wanted("muse-xml"), atol=1e-6, rtol=0)
    stated = formats.facts(SAVED_AGAIN[how])
    assert stated
    assert stated.site == "Sankt J\xf6rg"


def test_a_second_try_at_the_letters_expands_nothing_either() -> None:
    bomb = (
        b'<?xml version="1.0" encoding="GBK"?><!DOCTYPE x [<!ENTITY a "ha">]>' + file_of("muse-xml").partition(b"?>")[2]
    )
    for data in (bomb, re.sub(rb"<!DOCTYPE RestingECG[^>]*>", b"", bomb)):
        got = decode("x", data, {})
        assert isinstance(got, Rejected)
        assert got.reason == Reason.BAD_HEADER
    assert "declares entities" in got.detail


# --- Names of leads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["EKG {}", "ECG Lead {}", "ECG_LEAD_{}", "Lead {}", "{}-Ref", "{} (mV)", "{} [\N{MICRO SIGN}V]", "ecg:{}"]
    + ["MDC_ECG_LEAD_{}", "MDC_ECG_ELEC_POTL_{}", "MINDRAY_ECG_LEAD_{}", "MDC_ECG_{}"],
)
def test_a_lead_is_known_by_many_names(name: str) -> None:
    assert [lead_of(name.format(lead)) for lead in LEADS] == list(LEADS)
    assert [lead_of(name.format(other)) for other in ("V7", "X", "IV", "")] == [None] * 4


def test_chest_leads_may_be_called_as_the_iec_does_but_not_sites_of_an_eeg() -> None:
    assert [lead_of(f"ECG C{at}") for at in range(1, 7)] == list(LEADS[6:])
    assert [lead_of(name) for name in ("C3", "C4", "C4-A1", "EEG C3", "ECG C7")] == [None] * 5
    mV = digital() * STEP_MV
    named = [
        Channel(lead.replace("V", "C") if lead[0] == "V" else lead, row, 1.0)
        for lead, row in zip(LEADS, mV, strict=True)
    ]
    leads = assemble(named, 500, source_format="x", unit_source="y")
    np.testing.assert_allclose(leads.signal_mV, mV, atol=1e-6)
    beside = [Channel(lead, row, 1.0) for lead, row in zip(LEADS, mV, strict=True)]
    beside += [Channel(f"C{at}", mV[0], 1.0) for at in range(1, 7)]
    leads = assemble(beside, 500, source_format="x", unit_source="y")
    np.testing.assert_allclose(leads.signal_mV, mV, atol=1e-6)
    assert leads.flags == set()


@pytest.mark.parametrize(
    "unit", ["uV", "\N{MICRO SIGN}V", "\N{GREEK SMALL LETTER MU}V", "microV", "microvolt", "MICRO VOLTS", "uVolt"]
)
def test_a_microvolt_has_many_names(unit: str) -> None:
    assert mV_per_unit(unit) == 1e-3
    assert [mV_per_unit(of) for of in ("millivolts", "mVolt", "nV", "V", "volt", "mmHg", "uV/bit", "")] == [
        1,
        1,
        1e-6,
        1e3,
        1e3,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("form", made.WRITERS)
def test_one_format_alone_knows_a_file_and_no_suffix_matters(form: str) -> None:
    data = file_of(form)
    assert [name for name, module in MODULES.items() if module.looks_like(data[: formats.HEAD])] == [form]
    assert formats.format_of(gzip.compress(data)) is MODULES[form]
    for other in set(MODULES) - {form}:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, it is caught by the door
            MODULES[other].read(data)


def test_what_files_state_reaches_the_catalog_and_nobody_is_named(tmp_path: Path) -> None:
    for form, (suffix, _) in made.WRITERS.items():
        (tmp_path / "archive" / form).mkdir(parents=True)
        (tmp_path / "archive" / form / f"1{suffix}").write_bytes(file_of(form))
    build_catalog(str(tmp_path / "archive"), str(tmp_path / "catalog"), deidentified=True)
    rows = {row["format"]: row for row in rows_of(tmp_path)}
    assert set(rows) == set(made.WRITERS)
    for form, row in rows.items():
        assert (row["rate_hz"], row["age"], row["sex"]) == (500, 67, "male"), form
        assert row["duration_s"] == pytest.approx(10.4 if form == "sierra-xml" else 10), form
        assert row["acquired_at"].isoformat() == "2011-02-03T08:09:10", form
        assert row["patient_key"], form
    assert len({row["patient_key"] for row in rows.values()}) == 1, "one patient, whatever wrote the file"
    with_statement = {"muse-xml", "cardiosoft-xml", "sierra-xml", "dicom"}
    assert {form for form, row in rows.items() if row["lbbb"]} == with_statement
    assert {form for form, row in rows.items() if row["qrs_ms"] == 152} == {*with_statement, "scp-ecg"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "catalog").rglob("*") if path.is_file())
    for secret in (PERSON.id, PERSON.surname):
        assert secret.encode() not in written


def test_another_format_under_a_suffix_is_read_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    under = {".xml": "dicom", ".dcm": "muse-xml", ".scp": "hl7-aecg", ".edf": "scp-ecg"}
    for suffix, form in under.items():
        (tmp_path / "archive" / f"a{suffix}").write_bytes(file_of(form))
    build_catalog(str(tmp_path / "archive"), str(tmp_path / "catalog"), deidentified=True)
    assert {row["record_id"][1:]: row["format"] for row in rows_of(tmp_path)} == under
    for suffix, form in under.items():
        assert good(ArchiveReader(str(tmp_path / "archive")).read(f"a{suffix}", "x")).source_format == form


def test_a_file_without_suffix_or_packed_is_found_by_its_bytes(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/IM0001").write_bytes(file_of("dicom"))
    (root / "deep/no_preamble").write_bytes(made.dicom(digital(), preamble=False))
    (root / "deep/x.XML.GZ").write_bytes(gzip.compress(file_of("muse-xml")))
    (root / "deep/sierra.dat1").write_bytes(file_of("sierra-xml"))
    (root / "dicom.edf").write_bytes(file_of("dicom"))
    (root / "muse.dcm").write_bytes(file_of("muse-xml"))
    (root / "notes.unknown").write_text("who reads this?")
    (root / "numbers.csv").write_bytes(made.csv(digital()))
    catalog = tmp_path / "catalog"
    summary = build_catalog(str(root), str(catalog), deidentified=True)
    rows = {row["record_id"]: row["format"] for row in rows_of(tmp_path)}
    assert rows == {
        "deep/er/IM0001": "dicom",
        "deep/no_preamble": "dicom",
        "deep/x.XML.GZ": "muse-xml",
        "deep/sierra.dat1": "sierra-xml",
        "dicom.edf": "dicom",
        "muse.dcm": "muse-xml",
    }
    assert (summary.records, summary.new) == (6, 6)
    assert any("1 table" in warning and "ecg.yaml" in warning for warning in summary.warnings)
    for name in rows:
        good(ArchiveReader(str(root)).read(name, "x"))
    again = build_catalog(str(root), str(catalog), deidentified=True)
    assert (again.unchanged, again.new) == (6, 0)
    assert {r["record_id"]: r["format"] for r in rows_of(tmp_path)} == rows


# --- Whatever bytes come ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", made.WRITERS)
def test_damaged_files_are_rows_with_a_reason(form: str) -> None:
    """Flips, cuts and doublings anywhere end in a Recording or a Rejected, and never name the patient."""
    data = np.frombuffer(file_of(form), np.uint8)
    rng = np.random.default_rng(len(data))
    for _ in range(60):
        broken = data.copy()
        at = rng.integers(0, len(data) if rng.random() < 0.3 else 4_000, rng.integers(1, 6))
        broken[at] = rng.integers(0, 256, len(at))
        if rng.random() < 0.3:
            broken = broken[: rng.integers(1, len(broken))]
        got = decode("the id", broken.tobytes(), {})
        assert got.record_id == "the id"
        if isinstance(got, Rejected):
            assert got.detail
            assert "Sentinel" not in got.detail
            assert PERSON.id not in got.detail
        formats.facts(broken.tobytes())


def test_messages_name_nobody() -> None:
    for case in hospital_cases():
        folder = case.header.rpartition("/")[0]
        files = {name.removeprefix(f"{folder}/"): data for name, data in case.files.items() if name != case.header}
        got = decode("x", case.files[case.header], files)
        if isinstance(got, Rejected):
            assert "Sentinel" not in got.detail
            assert PERSON.id not in got.detail


def test_a_library_that_is_absent_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for name in ("pydicom", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)
    got = decode("x", file_of("dicom"), {})
    assert isinstance(got, Rejected)
    assert got.reason == Reason.UNKNOWN_FORMAT
    assert got.detail == "pydicom is not installed; pip install 'ecg-screening[hospital]' brings it"
    (tmp_path / "ecg.yaml").write_bytes(SIDECAR["ecg.yaml"])
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    got = ArchiveReader(str(tmp_path)).read("a.h5#1", "x")
    assert isinstance(got, Rejected)
    assert got.detail == "h5py is not installed; pip install 'ecg-screening[hospital]' brings it"
    build_catalog(str(tmp_path), str(tmp_path / "catalog"), deidentified=True)  # the run says why, not the catalog


# --- On an object store ----------------------------------------------------------------------------------------------


def test_formats_are_read_from_an_object_store(s3: dict[str, Any], tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("s3", **s3)
    root = "screening/export"
    for form, (suffix, _) in made.WRITERS.items():
        fs.pipe_file(f"{root}/{form}/1{suffix}", file_of(form))
    fs.pipe_file(f"{root}/IM0001", file_of("dicom"))
    fs.pipe_file(f"{root}/ecg.yaml", SIDECAR["ecg.yaml"])
    fs.pipe_file(f"{root}/a.npy", made.npy(digital()))
    fs.pipe_file(f"{root}/many.h5", made.hdf5({5: digital(), 6: digital()}, samples=5000))
    build_catalog(f"s3://{root}", str(tmp_path / "catalog"), deidentified=True, storage_options=s3)
    rows = {row["record_id"]: row for row in rows_of(tmp_path)}
    assert set(rows) == {f"{form}/1{suffix}" for form, (suffix, _) in made.WRITERS.items()} | {
        *("IM0001", "a.npy", "many.h5#0", "many.h5#1")
    }
    reader = ArchiveReader(f"s3://{root}", s3)
    for record_id, row in rows.items():
        got = good(reader.read(record_id, "x", version=row["version"]))
        np.testing.assert_allclose(got.signal_mV[:2], (digital() * STEP_MV)[:2], atol=1e-6, rtol=0)
    fs.pipe_file(f"{root}/many.h5", made.hdf5({7: digital()}, samples=5000))
    changed = ArchiveReader(f"s3://{root}", s3).read("many.h5#0", "x", version=rows["many.h5#0"]["version"])
    assert isinstance(changed, Rejected)
    assert changed.reason == Reason.CHANGED


def test_bytes_tell_a_format_whatever_the_suffix_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    (root / "beside").mkdir(parents=True)
    names = {"1.dat": "muse-xml", "2.mat": "dicom", "3.txt": "scp-ecg", "4": "edf", "5.ECG": "hl7-aecg"}
    for name, form in names.items():
        (root / name).write_bytes(file_of(form))
    for name in ("README.txt", "notes.txt", "page.pdf"):
        (root / name).write_text("of no format")
    (root / "more.zip").write_bytes(b"PK\x03\x04")
    (root / "beside" / "r.hea").write_text("r 1 500 5000\nother.dat 16 1000/mV 16 0 0 0 0 I\n")
    (root / "beside" / "other.dat").write_bytes(bytes(10_000))
    summary = build_catalog(str(root), str(tmp_path / "catalog"), deidentified=True)
    found = {row["record_id"]: row["format"] for row in rows_of(tmp_path)}
    assert found == {**names, "beside/r": "wfdb"}
    told = " ".join(summary.warnings)
    assert "1 files of no known format were left out" in told  # notes.txt; the other two have names that say enough
    assert "1 zip or tar files were not looked into; unpack them" in told
    reader = ArchiveReader(str(root))
    assert all(isinstance(reader.read(name, "x"), Recording) for name in names)


def test_a_table_does_not_hide_what_files_state(tmp_path: Path) -> None:
    root, out, table = tmp_path / "archive", tmp_path / "catalog", tmp_path / "table.csv"
    root.mkdir()
    (root / "1.xml").write_bytes(file_of("muse-xml"))
    mapping = ColumnMapping(path="file", age="years", site="place")

    def scanned(row: str) -> tuple[dict[str, Any], int]:
        table.write_text(f"file,years,place\n{row}\n")
        summary = build_catalog(str(root), str(out), metadata=str(table), mapping=mapping, deidentified=True)
        (found,) = rows_of(tmp_path)
        return found, summary.headers_read

    first, read = scanned("1.xml,55,north")
    assert (first["age"], first["site"], first["format"]) == (55, "north", "muse-xml"), "what the table tells, holds"
    assert (first["qrs_ms"], first["lbbb"], first["sex"], first["rate_hz"]) == (152, True, "male", 500)
    assert first["acquired_at"].isoformat() == "2011-02-03T08:09:10"
    assert read == 1
    again, read = scanned("1.xml,56,north")
    assert again == first | {"age": 56}
    assert read == 0, "an unchanged file is not read again"


@pytest.mark.parametrize(
    ("written", "number"), [("1,5", 1.5), ("nan", None), ("inf", None), ("1e999", None), ("x", None)]
)
def test_what_is_no_number_is_none_stated(written: str, number: float | None) -> None:
    assert number_of(fromstring(f"<a><b>{written}</b></a>"), "b") == number
    # Of MUSE's offset, of which a NaN ended in the last line of defence.
    stated = made.muse(digital()).replace(b"<LeadOffsetFirstSample>0<", f"<LeadOffsetFirstSample>{written}<".encode())
    assert stated != made.muse(digital())
    got = decode("x", stated, {})
    assert isinstance(got, Recording) == (number is None)
    assert isinstance(got, Recording) or got.detail == "a lead begins at another sample than the strip"
