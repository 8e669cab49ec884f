"""Files of hospitals' and collections' formats that must be refused, each with its reason."""

from __future__ import annotations

import binascii
import gzip
import io
import struct
import zlib

import numpy as np

from screening.contract import LEADS, MAX_RECORD_BYTES, Reason
from tests import hospital_files as made
from tests.corpus.case import Case
from tests.corpus.hospital_files import case, digital, file_of
from tests.corpus.hospital_xml import xml_cases
from tests.scp_files import scp_sealed
from tests.wfdb_files import ecg


def _of_scp() -> list[Case]:
    good, plain = file_of("scp-ecg"), made.scp(digital(), coded=False, differences=0)
    beats = made.scp(digital(), beats=(400, 1000, 2000))
    flipped = bytearray(good)
    flipped[-900] ^= 1
    within = bytearray(good[6:])
    within[-900] ^= 1

    def edited(data: bytes, section: int, offset: int, new: bytes) -> bytes:
        """Return a record with bytes of a section replaced, and its checksums as they should be."""
        body = bytearray(data[6:])
        size, index = struct.unpack_from("<II", body, 16 + 10 * section + 2)
        at = index - 7
        body[at + 16 + offset : at + 16 + offset + len(new)] = new
        body[at : at + 2] = struct.pack("<H", binascii.crc_hqx(bytes(body[at + 2 : at + size]), 0xFFFF))
        return scp_sealed(bytes(body))

    form = "scp-ecg"
    return [
        case("scp_cut", form, good[:-100], Reason.TRUNCATED, "bytes claimed"),
        case("scp_flipped", form, bytes(flipped), Reason.CHECKSUM_MISMATCH, "the record does not give its checksum"),
        case("scp_section", form, scp_sealed(bytes(within)), Reason.CHECKSUM_MISMATCH, "section 7|section 6"),
        case("scp_no_step", form, edited(good, 6, 0, b"\0\0"), Reason.MISSING_UNITS, "no amplitude"),
        case("scp_no_rate", form, edited(good, 6, 2, b"\0\0"), Reason.MISSING_RATE, "no interval"),
        case("scp_bimodal", form, edited(good, 6, 5, b"\1"), Reason.UNKNOWN_FORMAT, "samples are left out"),
        case("scp_order", form, edited(good, 6, 4, b"\7"), Reason.UNKNOWN_FORMAT, "order 7"),
        case("scp_no_beats", form, edited(good, 3, 1, b"\1"), Reason.TRUNCATED, "sections 4 and 5"),
        case(
            "scp_beats_cut", form, edited(beats, 4, 4, b"\xff\xff"), Reason.TRUNCATED, "places of 65535 QRS complexes"
        ),
        case("scp_beat_cut", form, edited(beats, 5, 6, b"\xff\xff"), Reason.TRUNCATED, "the leads claim"),
        case("scp_beats_rate", form, edited(beats, 5, 2, b"\1\0"), Reason.UNKNOWN_FORMAT, "at another rate"),
        case("scp_beats_no_step", form, edited(beats, 5, 0, b"\0\0"), Reason.MISSING_UNITS, "of the reference beat"),
        case("scp_beats_overlap", form, edited(beats, 4, 16, struct.pack("<I", 5000)), Reason.BAD_HEADER, "overlap"),
        case("scp_many_leads", form, edited(good, 3, 0, b"\xff"), Reason.BAD_HEADER, "255 leads"),
        case("scp_lead", form, edited(good, 3, 2 + 8, b"\x63"), Reason.MISSING_LEADS, "no signal for I"),
        case("scp_times", form, edited(good, 3, 2, b"\2"), Reason.CONFLICTING_RATES, "not recorded at the same time"),
        case(
            "scp_huge",
            form,
            edited(plain, 3, 2, struct.pack("<IIB", 1, 2**31, 1) * 8),
            Reason.TOO_LARGE,
            "the limit is",
        ),
        case("scp_short_lead", form, edited(plain, 6, 6, b"\x10\x00"), Reason.TRUNCATED, "lead I holds 8 of 5000"),
        case("scp_no_rhythm", form, edited(good, 0, 16 + 10 * 6 - 16, bytes(10)), Reason.TOO_SHORT, "no rhythm data"),
    ]


def _of_edf() -> list[Case]:
    form, good = "edf", file_of("edf")
    count = int(good[252:256])

    def cell(field: int, widths: tuple[int, ...], signal: int, new: bytes) -> bytes:
        at = 256 + sum(widths[:field]) * count + signal * widths[field]
        return good[:at] + new.ljust(widths[field]) + good[at + widths[field] :]

    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    annotated = made.edf(digital(), is_annotated=True)
    gap = annotated.replace(b"EDF+C", b"EDF+D", 1).replace(b"+5\x14\x14", b"+9\x14\x14", 1)
    return [
        case("edf_cut", form, good[:-4_000], Reason.TRUNCATED, "samples claimed"),
        case("edf_no_unit", form, cell(2, widths, 4, b""), Reason.MISSING_UNITS, "unit of lead aVL"),
        case("edf_other_unit", form, cell(2, widths, 4, b"mmHg"), Reason.MISSING_UNITS, "not one of voltage"),
        case("edf_no_range", form, cell(4, widths, 0, b"-163840"), Reason.MISSING_UNITS, "the same"),
        case("edf_word", form, cell(3, widths, 0, b"low"), Reason.MISSING_UNITS, "no numbers"),
        case("edf_no_lead", form, cell(0, widths, 1, b"ECG x"), Reason.MISSING_LEADS, "no signal for II"),
        case("edf_two_rates", form, cell(8, widths, 6, b"250"), Reason.CONFLICTING_RATES, "250 and 500 Hz"),
        case("edf_huge", form, good[:236] + b"99999999" + good[244:], Reason.TOO_LARGE, "limit"),
        case("edf_no_time", form, good[:244] + b"0       " + good[252:], Reason.MISSING_RATE, "no length in time"),
        case("edf_letters", form, good[:236] + b"many    " + good[244:], Reason.BAD_HEADER, "no number"),
        case("edf_interrupted", form, gap, Reason.MISSING_SAMPLES, "interrupted"),
        case("edf_unsaid", form, good[:192] + b"EDF+D" + good[197:], Reason.MISSING_SAMPLES, "when records begin"),
        case("edf_empty", form, good[:236] + b"0       " + good[244:], Reason.TOO_SHORT, "no samples"),
        case("edf_picture", form, b"\x89PNG\r\n\x1a\n" + bytes(99), Reason.UNKNOWN_FORMAT, "a PNG file"),
    ]


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _of_dicom() -> list[Case]:
    import pydicom

    form, good = "dicom", file_of("dicom")

    def edited(edit: object) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(good))
        edit(dataset, dataset.WaveformSequence[1])  # type: ignore[operator]
        stream = io.BytesIO()
        dataset.save_as(stream)
        return stream.getvalue()

    def no_unit(_: object, group: pydicom.Dataset) -> None:
        del group.ChannelDefinitionSequence[3].ChannelSensitivityUnitsSequence

    def no_sensitivity(_: object, group: pydicom.Dataset) -> None:
        del group.ChannelDefinitionSequence[3].ChannelSensitivity

    def derived(_: object, group: pydicom.Dataset) -> None:
        group.WaveformOriginality = "DERIVED"
        group.NumberOfWaveformSamples, group.WaveformData = 600, group.WaveformData[: 600 * 24]

    def empty(_: object, group: pydicom.Dataset) -> None:
        group.NumberOfWaveformSamples, group.WaveformData = 0, b""

    def eleven(_: object, group: pydicom.Dataset) -> None:
        group.NumberOfWaveformChannels = 11

    def more(_: object, group: pydicom.Dataset) -> None:
        group.NumberOfWaveformSamples = 5001

    def huge(_: object, group: pydicom.Dataset) -> None:
        group.NumberOfWaveformSamples = 2**31

    def no_rate(_: object, group: pydicom.Dataset) -> None:
        del group.SamplingFrequency

    def nowhere(_: object, group: pydicom.Dataset) -> None:
        group.ChannelDefinitionSequence[7].ChannelSourceSequence[0].CodeValue = "MDC_ECG_LEAD_CM5"
        group.ChannelDefinitionSequence[7].ChannelSourceSequence[0].CodeMeaning = "CM5"

    def skewed(_: object, group: pydicom.Dataset) -> None:
        group.ChannelDefinitionSequence[7].ChannelSampleSkew = "3"

    def curves(dataset: pydicom.Dataset, _: object) -> None:
        del dataset.WaveformSequence

    bomb = pydicom.dcmread(io.BytesIO(made.dicom(digital(), syntax="DeflatedExplicitVRLittleEndian")))
    bomb.add_new("PixelData", "OW", bytes(MAX_RECORD_BYTES))
    deflated = io.BytesIO()
    bomb.save_as(deflated)
    once = made.dicom(digital(), syntax="DeflatedExplicitVRLittleEndian")
    within = once.index(b"1.2.840.10008.1.2.1.99") + 22
    twice = once[:within] + _deflated(b"\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99" + _deflated(good[132:]))

    return [
        case("dicom_bomb", form, deflated.getvalue(), Reason.TOO_LARGE, "inflates to more than 67108864 bytes"),
        case("dicom_twice", form, twice, Reason.UNDECODABLE, "deflated twice"),
        case("dicom_cut", form, good[:-60_000], Reason.TRUNCATED, "60000 bytes of the 120000"),
        case("dicom_no_unit", form, edited(no_unit), Reason.MISSING_UNITS, "lead aVR has no sensitivity, or its unit"),
        case("dicom_no_scale", form, edited(no_sensitivity), Reason.MISSING_UNITS, "lead aVR has no sensitivity"),
        case("dicom_derived", form, edited(derived), Reason.TOO_SHORT, "derived beats only"),
        case("dicom_empty", form, edited(empty), Reason.TOO_SHORT, "no samples"),
        case("dicom_eleven", form, edited(eleven), Reason.BAD_HEADER, "12 channels are described, and 11 claimed"),
        case("dicom_fewer", form, edited(more), Reason.TRUNCATED, "120000 bytes of the 120024"),
        case("dicom_huge", form, edited(huge), Reason.TOO_LARGE, "limit"),
        case("dicom_no_rate", form, edited(no_rate), Reason.MISSING_RATE, "no SamplingFrequency"),
        case("dicom_lead", form, edited(nowhere), Reason.MISSING_LEADS, "no signal for V2"),
        case("dicom_skewed", form, edited(skewed), Reason.CONFLICTING_RATES, "lead V2 is skewed"),
        case("dicom_picture", form, edited(curves), Reason.TOO_SHORT, "no ECG waveform"),
    ]


def _of_tables() -> list[Case]:
    good, leads = made.csv(digital()), list(LEADS)
    numbers, plain = made.npy(digital()), made.sidecar(leads=leads)
    bomb = bytearray(numbers)
    bomb[: len(bomb)] = numbers.replace(b"(5000, 12), }", b"(900000000, 12), }"[:18]).ljust(len(bomb))
    endless = numbers.replace(b"(5000, 12), }" + b" " * 14, b"(0, 9223372036854775808), }")
    assert endless != numbers
    pickled = io.BytesIO()
    np.save(pickled, np.array([[{"a": 1}]], object), allow_pickle=True)
    square = io.BytesIO()
    np.save(square, np.zeros((12, 12), np.int16))
    return [
        case("csv_alone", "csv", good, Reason.MISSING_UNITS, "an ecg.yaml beside it says them"),
        case(
            "csv_word",
            "csv",
            good.replace(b"\n7,", b"\n7,high", 1),
            Reason.UNDECODABLE,
            "no number",
            ecg_yaml=made.sidecar(),
        ),
        case("csv_ragged", "csv", good + b"1,2,3\n", Reason.UNDECODABLE, "other lengths", ecg_yaml=made.sidecar()),
        case("csv_no_lead", "csv", good.replace(b"V2", b"X2", 1), Reason.MISSING_LEADS, "V2", ecg_yaml=made.sidecar()),
        case(
            "csv_empty", "csv", good[: good.index(b"\n") + 1], Reason.TOO_SHORT, "no samples", ecg_yaml=made.sidecar()
        ),
        case(
            "csv_unnamed",
            "csv",
            made.csv(digital(), header=False),
            Reason.MISSING_LEADS,
            "neither a header nor ecg.yaml names",
            ecg_yaml=made.sidecar(),
        ),
        case(
            "csv_other_unit",
            "csv",
            good.replace(b",V2", b",V2 (mV)", 1),
            Reason.MISSING_UNITS,
            "another unit of lead V2",
            ecg_yaml=made.sidecar(),
        ),
        case("csv_comments", "csv", b"# nothing\n# else\n", Reason.TOO_SHORT, "no samples", ecg_yaml=plain),
        case("npy_empty", "npy", made.npy(digital()[:, :0]), Reason.TOO_SHORT, "no samples", ecg_yaml=plain),
        case("npy_alone", "npy", numbers, Reason.MISSING_UNITS, "ecg.yaml"),
        case("npy_pickle", "npy", pickled.getvalue(), Reason.UNKNOWN_FORMAT, "no plain numbers", ecg_yaml=plain),
        case("npy_cut", "npy", numbers[:-20], Reason.TRUNCATED, "119980 of the 120000 bytes", ecg_yaml=plain),
        case("npy_square", "npy", square.getvalue(), Reason.BAD_HEADER, "must state its layout", ecg_yaml=plain),
        case("npy_leads", "npy", numbers, Reason.BAD_HEADER, "names 8 leads", ecg_yaml=made.sidecar(leads=leads[:8])),
        case("npy_no_unit", "npy", numbers, Reason.BAD_HEADER, "bad setting unit", ecg_yaml=b"rate_hz: 500\n"),
        case("npy_unknown", "npy", numbers, Reason.BAD_HEADER, "not known", ecg_yaml=plain + b"Sentinel: 1\n"),
        case("npy_no_yaml", "npy", numbers, Reason.BAD_HEADER, "not YAML", ecg_yaml=b"\xff\xfe{"),
        case(
            "npy_tag", "npy", numbers, Reason.BAD_HEADER, "not YAML", ecg_yaml=b"!!python/object/apply:os.system [id]"
        ),
        case("npy_long", "npy", endless, Reason.TOO_SHORT, "no samples", ecg_yaml=plain),
        case("npy_huge", "npy", bytes(bomb), Reason.TOO_LARGE, "the limit is", ecg_yaml=plain),
    ]


def _of_hdf5() -> list[Case]:
    good, plain = made.hdf5({1: ecg()}, samples=5000), made.sidecar(leads=list(LEADS))
    other = made.sidecar(leads=list(LEADS), dataset="ecgs")
    packed, form = gzip.compress(good, mtime=0), "h5"
    return [
        case("hdf5_cut", form, good[: len(good) // 2], Reason.UNDECODABLE, "damaged, or cut off", ecg_yaml=plain),
        case("hdf5_bits", form, good[:100] + bytes(900) + good[1000:], Reason.UNDECODABLE, "damaged", ecg_yaml=plain),
        case("hdf5_empty", form, b"", Reason.UNDECODABLE, "damaged, or cut off", ecg_yaml=plain),
        case("hdf5_other", form, good, Reason.BAD_HEADER, "no dataset of 3 dimensions", ecg_yaml=other),
        case("hdf5_gzip", "h5.gz", packed, Reason.UNKNOWN_FORMAT, "HDF5 packed by gzip .*; unpack it", ecg_yaml=plain),
    ]


def _of_gzip() -> list[Case]:
    packed = gzip.compress(file_of("muse-xml"), mtime=0)
    bomb = gzip.compress(b"<RestingECG>" + bytes(80_000_000), mtime=0)
    zeros = bytes(20)
    return [
        Case("gzip_cut", {"gzip_cut/r.xml.gz": packed[:-2_000]}, "gzip_cut/r.xml.gz", Reason.BAD_HEADER, "cut off"),
        Case(
            "gzip_bits",
            {"gzip_bits/r.xml.gz": packed[:10] + zeros + packed[30:]},
            "gzip_bits/r.xml.gz",
            Reason.UNKNOWN_FORMAT,
            "gzip",
        ),
        Case(
            "gzip_within",
            {"gzip_within/r.xml.gz": packed[:9_000] + zeros + packed[9_020:]},
            "gzip_within/r.xml.gz",
            Reason.UNDECODABLE,
            "cannot be unpacked",
        ),
        Case("gzip_bomb", {"gzip_bomb/r.xml.gz": bomb}, "gzip_bomb/r.xml.gz", Reason.TOO_LARGE, "more than"),
        Case(
            "gzip_table_bomb",
            {"gzip_table_bomb/r.csv.gz": bomb, "gzip_table_bomb/ecg.yaml": made.sidecar()},
            "gzip_table_bomb/r.csv.gz",
            Reason.TOO_LARGE,
            "more than",
        ),
        Case(
            "gzip_table_bits",
            {"gzip_table_bits/r.csv.gz": packed[:10] + zeros + packed[30:], "gzip_table_bits/ecg.yaml": made.sidecar()},
            "gzip_table_bits/r.csv.gz",
            Reason.UNDECODABLE,
            "cannot be unpacked",
        ),
    ]


def hospital_cases() -> list[Case]:
    """Return every case; all of them are refused by the reader."""
    return [
        *xml_cases(),
        *_of_scp(),
        *_of_edf(),
        *_of_dicom(),
        *_of_tables(),
        *_of_hdf5(),
        *_of_gzip(),
    ]
