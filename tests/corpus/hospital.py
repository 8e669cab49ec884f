"""Files of hospitals' and collections' formats that must be refused, each with its reason."""

from __future__ import annotations

import binascii
import gzip
import io
import re
import struct
import zlib
from functools import cache

import numpy as np

from screening.contract import LEADS, MAX_RECORD_BYTES, Reason
from tests import hospital_files as made
from tests.corpus.case import Case
from tests.wfdb_files import ecg

_ENTITY = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
_FROM_ELSEWHERE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
_DECLARATION = re.compile(rb"<\?xml[^>]*\?>\s*(?:<!DOCTYPE[^>]*>)?")
_XML = ("muse-xml", "cardiosoft-xml", "sierra-xml", "hl7-aecg")


@cache
def digital() -> np.ndarray:
    """Return an ECG, 5 uV a step."""
    return np.rint(ecg(gain=1000 / made.STEP_UV)).astype(np.int64)


@cache
def file_of(form: str) -> bytes:
    """Return a good file of a format."""
    return made.WRITERS[form][1](digital())


def _case(name: str, form: str, data: bytes, expected: Reason, message: str, **more: bytes) -> Case:
    suffix = made.WRITERS[form][0] if form in made.WRITERS else f".{form}"
    folder = name.replace("-", "_")
    files = {f"{folder}/r{suffix}": data, **{f"{folder}/{at.replace('_', '.')}": rest for at, rest in more.items()}}
    return Case(folder, files, f"{folder}/r{suffix}", expected, message)


def _changed(form: str, *edits: tuple[str, str], count: int = -1, last: bool = False) -> bytes:
    """Return a file of text with each pattern replaced, everywhere, or ``count`` times, or in its last place."""
    encoding = "utf-16" if form == "sierra-xml" else "utf-8" if form == "hl7-aecg" else "latin-1"
    text = file_of(form).decode(encoding)
    for old, new in edits:
        places = list(re.finditer(old, text))
        if not places:
            raise ValueError(f"{form} has no {old!r}")
        for place in reversed(places[-1:] if last else places[: count if count > 0 else None]):
            text = text[: place.start()] + new + text[place.end() :]
    return text.encode(encoding)


def _of_every_xml() -> list[Case]:
    cases = []
    for form in _XML:
        data = file_of(form)
        text = data.decode("utf-16").encode() if form == "sierra-xml" else data
        text = text.replace(b"UTF-16", b"UTF-8")
        bomb = _DECLARATION.sub(lambda _: b'<?xml version="1.0"?>' + _ENTITY, text, count=1)
        elsewhere = _DECLARATION.sub(lambda _: b'<?xml version="1.0"?>' + _FROM_ELSEWHERE, text, count=1)
        deep = text[: text.rindex(b"</")] + b"<n>" * 100 + b"</n>" * 100 + text[text.rindex(b"</") :]
        nul = text[: text.rindex(b"</")] + b"\0" + text[text.rindex(b"</") :]
        cases += [
            _case(
                f"{form}_cut", form, data[: len(data) // 2 * 2 // 3], Reason.BAD_HEADER, "not well-formed, or cut off"
            ),
            _case(f"{form}_entities", form, bomb, Reason.BAD_HEADER, "declares entities"),
            _case(f"{form}_external", form, elsewhere, Reason.BAD_HEADER, "declares entities"),
            _case(f"{form}_deep", form, deep, Reason.TOO_LARGE, "64 levels"),
            _case(f"{form}_nul", form, nul, Reason.BAD_HEADER, "not well-formed"),
            _case(f"{form}_bits", form, text.replace(b">", b"\x00", 40), Reason.UNKNOWN_FORMAT, "a XML file"),
        ]
    return cases


def _of_muse() -> list[Case]:
    form = "muse-xml"
    rhythm = "(?s)<Waveform><WaveformType>Rhythm.*?</Waveform>"
    another = re.search(rhythm.encode(), made.muse(-digital()))
    with_another_strip = file_of(form).replace(b"</RestingECG>", (another or [b""])[0] + b"</RestingECG>")
    return [
        _case("muse_median_only", form, _changed(form, (rhythm, "")), Reason.TOO_SHORT, "no rhythm strip"),
        _case("muse_two_strips", form, _changed(form, (">Median<", ">Rhythm<")), Reason.BAD_HEADER, "2 rhythm strips"),
        _case("muse_two_ecgs", form, with_another_strip, Reason.DUPLICATE_LEAD, "lead I is present twice"),
        _case(
            "muse_two_rates",
            form,
            with_another_strip.replace(b"<SampleBase>500", b"<SampleBase>250", 2),
            Reason.BAD_HEADER,
            "different rates",
        ),
        _case(
            "muse_later",
            form,
            _changed(form, ("<LeadOffsetFirstSample>0", "<LeadOffsetFirstSample>2"), last=True),
            Reason.CONFLICTING_RATES,
            "another sample than the strip",
        ),
        _case(
            "muse_no_unit",
            form,
            _changed(form, ("<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", "")),
            Reason.MISSING_UNITS,
            "LeadAmplitudeUnits is missing",
        ),
        _case(
            "muse_other_unit", form, _changed(form, ("MICROVOLTS", "mmHg")), Reason.MISSING_UNITS, "not one of voltage"
        ),
        _case(
            "muse_no_scale",
            form,
            _changed(form, ("<LeadAmplitudeUnitsPerBit>5</LeadAmplitudeUnitsPerBit>", "")),
            Reason.MISSING_UNITS,
            "no LeadAmplitudeUnitsPerBit",
        ),
        _case(
            "muse_no_rate", form, _changed(form, ("<SampleBase>500", "<SampleBase>")), Reason.MISSING_RATE, "SampleBase"
        ),
        _case(
            "muse_huge_exponent",
            form,
            _changed(form, ("<SampleExponent>0", "<SampleExponent>300")),
            Reason.MISSING_RATE,
            "no exponent",
        ),
        _case("muse_slow", form, _changed(form, ("<SampleBase>500", "<SampleBase>5")), Reason.MISSING_RATE, "5 Hz"),
        _case(
            "muse_no_v4", form, _changed(form, ("<LeadID>V4<", "<LeadID>X<")), Reason.MISSING_LEADS, "no signal for V4"
        ),
        _case("muse_v4_twice", form, _changed(form, ("<LeadID>V5<", "<LeadID>V4<")), Reason.MISSING_LEADS, "V5"),
        _case(
            "muse_crc",
            form,
            _changed(form, (r"<LeadDataCRC32>\d", "<LeadDataCRC32>77")),
            Reason.CHECKSUM_MISMATCH,
            "LeadDataCRC32",
        ),
        _case(
            "muse_base64",
            form,
            _changed(form, ("<WaveFormData>\n....", "<WaveFormData>\n....")),
            Reason.UNDECODABLE,
            "base64",
        ),
        _case(
            "muse_huge",
            form,
            _changed(form, ("<LeadSampleCountTotal>5000", "<LeadSampleCountTotal>99999999999")),
            Reason.TOO_LARGE,
            "99999999999 samples",
        ),
        _case(
            "muse_fewer",
            form,
            _changed(form, ("<LeadSampleCountTotal>5000", "<LeadSampleCountTotal>5001")),
            Reason.TRUNCATED,
            "10000 bytes of the 10002",
        ),
        _case(
            "muse_empty",
            form,
            _changed(
                form,
                ("(?s)<WaveFormData>.*?</WaveFormData>", "<WaveFormData/>"),
                ("CountTotal>5000", "CountTotal>0"),
                (r"CRC32>\d+", "CRC32>0"),
            ),
            Reason.TOO_SHORT,
            "no samples",
        ),
        _case(
            "muse_one_lead_shorter",
            form,
            _changed(
                form,
                ("(?s)<WaveFormData>[^<]*</WaveFormData>", "<WaveFormData>AAAAAA==</WaveFormData>"),
                (r"<LeadSampleCountTotal>5000(?=(?:(?!LeadData>).)*V6)", "<LeadSampleCountTotal>2"),
                (r"<LeadDataCRC32>\d+", "<LeadDataCRC32>0"),
                last=True,
            ),
            Reason.TRUNCATED,
            "the leads have from 2 to 5000",
        ),
    ]


def _of_other_xml() -> list[Case]:
    card, aecg, sierra = "cardiosoft-xml", "hl7-aecg", "sierra-xml"
    return [
        _case("card_median_only", card, _changed(card, ("StripData", "Other")), Reason.TOO_SHORT, "no strip"),
        _case(
            "card_no_unit", card, _changed(card, (' units="uVperLsb"', "")), Reason.MISSING_UNITS, "units are missing"
        ),
        _case(
            "card_no_rate", card, _changed(card, ("<SampleRate.*?</SampleRate>", "")), Reason.MISSING_RATE, "SampleRate"
        ),
        _case("card_word", card, _changed(card, ('lead="V2">', 'lead="V2">high,')), Reason.UNDECODABLE, "no number"),
        _case(
            "card_count",
            card,
            _changed(card, ("Total>5000", "Total>4999")),
            Reason.TRUNCATED,
            "5000 of the 4999 samples",
        ),
        _case(
            "card_leads",
            card,
            _changed(card, ("Leads>12", "Leads>11")),
            Reason.BAD_HEADER,
            "11 leads are claimed, and 12",
        ),
        _case("card_no_lead", card, _changed(card, ('lead="V1"', 'lead="V9"')), Reason.MISSING_LEADS, "V1"),
        _case("aecg_beat_only", aecg, _changed(aecg, ('"RHYTHM"', '"DERIVED"')), Reason.TOO_SHORT, "no rhythm series"),
        _case("aecg_empty", aecg, _changed(aecg, ("<digits>[^<]*", "<digits>")), Reason.TOO_SHORT, "no samples"),
        _case(
            "card_empty",
            card,
            _changed(card, ("(<WaveformData[^>]*>)[^<]*", '<WaveformData lead="I">'), ("Total>\\d+", "Total>0")),
            Reason.TOO_SHORT,
            "no samples",
        ),
        _case(
            "card_in_metres",
            card,
            _changed(card, ("uVperLsb", "umperLsb")),
            Reason.MISSING_UNITS,
            "not those of a step",
        ),
        _case(
            "aecg_no_unit",
            aecg,
            _changed(aecg, ('<scale value="5" unit="uV"/>', '<scale value="5"/>')),
            Reason.MISSING_UNITS,
            "has no scale, or its unit",
        ),
        _case("aecg_no_scale", aecg, _changed(aecg, ("<scale[^>]*>", "")), Reason.MISSING_UNITS, "lead I has no scale"),
        _case("aecg_no_rate", aecg, _changed(aecg, ("<increment[^>]*>", "")), Reason.MISSING_RATE, "increment"),
        _case("aecg_in_metres", aecg, _changed(aecg, ('unit="ms"', 'unit="m"')), Reason.MISSING_RATE, "no time"),
        _case("aecg_word", aecg, _changed(aecg, ("<digits>", "<digits>high ")), Reason.UNDECODABLE, "no number"),
        _case("aecg_no_lead", aecg, _changed(aecg, ("LEAD_V3", "LEAD_X3")), Reason.MISSING_LEADS, "V3"),
        _case(
            "aecg_two_rates",
            aecg,
            _changed(
                aecg,
                (
                    '(?s)(?<=code="RHYTHM"/>)(.*?<sequenceSet>)',
                    '<component><sequenceSet><component><sequence><code code="TIME_RELATIVE"/><value>'
                    '<increment value="4" unit="ms"/></value></sequence></component><component><sequence>'
                    '<code code="TIME_ABSOLUTE"/><value><increment value="2" unit="ms"/></value></sequence></component>',
                ),
            ),
            Reason.CONFLICTING_RATES,
            "250 and 500 Hz",
        ),
        _case(
            "sierra_beats_only",
            sierra,
            _changed(sierra, ("parsedwaveforms", "repbeats")),
            Reason.TOO_SHORT,
            "no waveforms",
        ),
        _case(
            "sierra_no_resolution",
            sierra,
            _changed(sierra, ("<signalresolution>5</signalresolution>", "")),
            Reason.MISSING_UNITS,
            "no resolution",
        ),
        _case(
            "sierra_no_rate",
            sierra,
            _changed(sierra, ("<samplingrate>500</samplingrate>", "")),
            Reason.MISSING_RATE,
            "samplingrate",
        ),
        _case(
            "sierra_unnamed", sierra, _changed(sierra, ('leadlabels="[^"]*"', "")), Reason.MISSING_LEADS, "not named"
        ),
        _case("sierra_no_lead", sierra, _changed(sierra, (" V6", " X6")), Reason.MISSING_LEADS, "V6"),
        _case(
            "sierra_eleven",
            sierra,
            _changed(sierra, (" V6", ""), ('numberofleads="12"', 'numberofleads="11"')),
            Reason.TRUNCATED,
            "not whole samples of 11 leads",
        ),
        _case(
            "sierra_base64", sierra, _changed(sierra, (r'">[A-Za-z0-9+/]{4}', '">....')), Reason.UNDECODABLE, "base64"
        ),
        _case(
            "sierra_empty",
            sierra,
            _changed(sierra, ('(?s)(?<=")>[A-Za-z0-9+/=\\s]+<', "><"), last=True),
            Reason.TOO_SHORT,
            "no samples",
        ),
        _case(
            "sierra_packed",
            sierra,
            _changed(sierra, ("dataencoding", 'compression="XLI" dataencoding')),
            Reason.TRUNCATED,
            "a lead claims",
        ),
        _case(
            "sierra_packed_otherwise",
            sierra,
            _changed(sierra, ("dataencoding", 'compression="ZIP" dataencoding')),
            Reason.UNKNOWN_FORMAT,
            "another way than by XLI",
        ),
    ]


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
        return made.scp_sealed(bytes(body))

    form = "scp-ecg"
    return [
        _case("scp_cut", form, good[:-100], Reason.TRUNCATED, "bytes claimed"),
        _case("scp_flipped", form, bytes(flipped), Reason.CHECKSUM_MISMATCH, "the record does not give its checksum"),
        _case("scp_section", form, made.scp_sealed(bytes(within)), Reason.CHECKSUM_MISMATCH, "section 7|section 6"),
        _case("scp_no_step", form, edited(good, 6, 0, b"\0\0"), Reason.MISSING_UNITS, "no amplitude"),
        _case("scp_no_rate", form, edited(good, 6, 2, b"\0\0"), Reason.MISSING_RATE, "no interval"),
        _case("scp_bimodal", form, edited(good, 6, 5, b"\1"), Reason.UNKNOWN_FORMAT, "samples are left out"),
        _case("scp_order", form, edited(good, 6, 4, b"\7"), Reason.UNKNOWN_FORMAT, "order 7"),
        _case("scp_no_beats", form, edited(good, 3, 1, b"\1"), Reason.TRUNCATED, "sections 4 and 5"),
        _case(
            "scp_beats_cut", form, edited(beats, 4, 4, b"\xff\xff"), Reason.TRUNCATED, "places of 65535 QRS complexes"
        ),
        _case("scp_beat_cut", form, edited(beats, 5, 6, b"\xff\xff"), Reason.TRUNCATED, "the leads claim"),
        _case("scp_beats_rate", form, edited(beats, 5, 2, b"\1\0"), Reason.UNKNOWN_FORMAT, "at another rate"),
        _case("scp_beats_no_step", form, edited(beats, 5, 0, b"\0\0"), Reason.MISSING_UNITS, "of the reference beat"),
        _case("scp_beats_overlap", form, edited(beats, 4, 16, struct.pack("<I", 5000)), Reason.BAD_HEADER, "overlap"),
        _case("scp_many_leads", form, edited(good, 3, 0, b"\xff"), Reason.BAD_HEADER, "255 leads"),
        _case("scp_lead", form, edited(good, 3, 2 + 8, b"\x63"), Reason.MISSING_LEADS, "no signal for I"),
        _case("scp_times", form, edited(good, 3, 2, b"\2"), Reason.CONFLICTING_RATES, "not recorded at the same time"),
        _case(
            "scp_huge",
            form,
            edited(plain, 3, 2, struct.pack("<IIB", 1, 2**31, 1) * 8),
            Reason.TOO_LARGE,
            "the limit is",
        ),
        _case("scp_short_lead", form, edited(plain, 6, 6, b"\x10\x00"), Reason.TRUNCATED, "lead I holds 8 of 5000"),
        _case("scp_no_rhythm", form, edited(good, 0, 16 + 10 * 6 - 16, bytes(10)), Reason.TOO_SHORT, "no rhythm data"),
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
        _case("edf_cut", form, good[:-4_000], Reason.TRUNCATED, "samples claimed"),
        _case("edf_no_unit", form, cell(2, widths, 4, b""), Reason.MISSING_UNITS, "unit of lead aVL"),
        _case("edf_other_unit", form, cell(2, widths, 4, b"mmHg"), Reason.MISSING_UNITS, "not one of voltage"),
        _case("edf_no_range", form, cell(4, widths, 0, b"-163840"), Reason.MISSING_UNITS, "the same"),
        _case("edf_word", form, cell(3, widths, 0, b"low"), Reason.MISSING_UNITS, "no numbers"),
        _case("edf_no_lead", form, cell(0, widths, 1, b"ECG x"), Reason.MISSING_LEADS, "no signal for II"),
        _case("edf_two_rates", form, cell(8, widths, 6, b"250"), Reason.CONFLICTING_RATES, "250 and 500 Hz"),
        _case("edf_huge", form, good[:236] + b"99999999" + good[244:], Reason.TOO_LARGE, "limit"),
        _case("edf_no_time", form, good[:244] + b"0       " + good[252:], Reason.MISSING_RATE, "no length in time"),
        _case("edf_letters", form, good[:236] + b"many    " + good[244:], Reason.BAD_HEADER, "no number"),
        _case("edf_interrupted", form, gap, Reason.MISSING_SAMPLES, "interrupted"),
        _case("edf_unsaid", form, good[:192] + b"EDF+D" + good[197:], Reason.MISSING_SAMPLES, "when records begin"),
        _case("edf_empty", form, good[:236] + b"0       " + good[244:], Reason.TOO_SHORT, "no samples"),
        _case("edf_picture", form, b"\x89PNG\r\n\x1a\n" + bytes(99), Reason.UNKNOWN_FORMAT, "a PNG file"),
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
        _case("dicom_bomb", form, deflated.getvalue(), Reason.TOO_LARGE, "inflates to more than 67108864 bytes"),
        _case("dicom_twice", form, twice, Reason.UNDECODABLE, "deflated twice"),
        _case("dicom_cut", form, good[:-60_000], Reason.TRUNCATED, "60000 bytes of the 120000"),
        _case("dicom_no_unit", form, edited(no_unit), Reason.MISSING_UNITS, "lead aVR has no sensitivity, or its unit"),
        _case("dicom_no_scale", form, edited(no_sensitivity), Reason.MISSING_UNITS, "lead aVR has no sensitivity"),
        _case("dicom_derived", form, edited(derived), Reason.TOO_SHORT, "derived beats only"),
        _case("dicom_empty", form, edited(empty), Reason.TOO_SHORT, "no samples"),
        _case("dicom_eleven", form, edited(eleven), Reason.BAD_HEADER, "12 channels are described, and 11 claimed"),
        _case("dicom_fewer", form, edited(more), Reason.TRUNCATED, "120000 bytes of the 120024"),
        _case("dicom_huge", form, edited(huge), Reason.TOO_LARGE, "limit"),
        _case("dicom_no_rate", form, edited(no_rate), Reason.MISSING_RATE, "no SamplingFrequency"),
        _case("dicom_lead", form, edited(nowhere), Reason.MISSING_LEADS, "no signal for V2"),
        _case("dicom_skewed", form, edited(skewed), Reason.CONFLICTING_RATES, "lead V2 is skewed"),
        _case("dicom_picture", form, edited(curves), Reason.TOO_SHORT, "no ECG waveform"),
    ]


def _of_tables() -> list[Case]:
    good, leads = made.csv(digital()), list(LEADS)
    numbers, plain = made.npy(digital()), made.sidecar(leads=leads)
    bomb = bytearray(numbers)
    bomb[: len(bomb)] = numbers.replace(b"(5000, 12), }", b"(900000000, 12), }"[:18]).ljust(len(bomb))
    pickled = io.BytesIO()
    np.save(pickled, np.array([[{"a": 1}]], object), allow_pickle=True)
    square = io.BytesIO()
    np.save(square, np.zeros((12, 12), np.int16))
    return [
        _case("csv_alone", "csv", good, Reason.MISSING_UNITS, "an ecg.yaml beside it says them"),
        _case(
            "csv_word",
            "csv",
            good.replace(b"\n7,", b"\n7,high", 1),
            Reason.UNDECODABLE,
            "no number",
            ecg_yaml=made.sidecar(),
        ),
        _case("csv_ragged", "csv", good + b"1,2,3\n", Reason.UNDECODABLE, "other lengths", ecg_yaml=made.sidecar()),
        _case("csv_no_lead", "csv", good.replace(b"V2", b"X2", 1), Reason.MISSING_LEADS, "V2", ecg_yaml=made.sidecar()),
        _case(
            "csv_empty", "csv", good[: good.index(b"\n") + 1], Reason.TOO_SHORT, "no samples", ecg_yaml=made.sidecar()
        ),
        _case(
            "csv_unnamed",
            "csv",
            made.csv(digital(), header=False),
            Reason.MISSING_LEADS,
            "neither a header nor ecg.yaml names",
            ecg_yaml=made.sidecar(),
        ),
        _case(
            "csv_other_unit",
            "csv",
            good.replace(b",V2", b",V2 (mV)", 1),
            Reason.MISSING_UNITS,
            "another unit of lead V2",
            ecg_yaml=made.sidecar(),
        ),
        _case("csv_comments", "csv", b"# nothing\n# else\n", Reason.TOO_SHORT, "no samples", ecg_yaml=plain),
        _case("npy_empty", "npy", made.npy(digital()[:, :0]), Reason.TOO_SHORT, "no samples", ecg_yaml=plain),
        _case("npy_alone", "npy", numbers, Reason.MISSING_UNITS, "ecg.yaml"),
        _case("npy_pickle", "npy", pickled.getvalue(), Reason.UNKNOWN_FORMAT, "no plain numbers", ecg_yaml=plain),
        _case("npy_cut", "npy", numbers[:-20], Reason.TRUNCATED, "119980 of the 120000 bytes", ecg_yaml=plain),
        _case("npy_square", "npy", square.getvalue(), Reason.BAD_HEADER, "must state its layout", ecg_yaml=plain),
        _case("npy_leads", "npy", numbers, Reason.BAD_HEADER, "names 8 leads", ecg_yaml=made.sidecar(leads=leads[:8])),
        _case("npy_no_unit", "npy", numbers, Reason.BAD_HEADER, "bad setting unit", ecg_yaml=b"rate_hz: 500\n"),
        _case("npy_unknown", "npy", numbers, Reason.BAD_HEADER, "not known", ecg_yaml=plain + b"Sentinel: 1\n"),
        _case("npy_no_yaml", "npy", numbers, Reason.BAD_HEADER, "not YAML", ecg_yaml=b"\xff\xfe{"),
        _case(
            "npy_tag", "npy", numbers, Reason.BAD_HEADER, "not YAML", ecg_yaml=b"!!python/object/apply:os.system [id]"
        ),
        _case("npy_huge", "npy", bytes(bomb), Reason.TOO_LARGE, "the limit is", ecg_yaml=plain),
    ]


def _of_hdf5() -> list[Case]:
    good, plain = made.hdf5({1: ecg()}, samples=5000), made.sidecar(leads=list(LEADS))
    other = made.sidecar(leads=list(LEADS), dataset="ecgs")
    packed, form = gzip.compress(good, mtime=0), "h5"
    return [
        _case("hdf5_cut", form, good[: len(good) // 2], Reason.UNDECODABLE, "damaged, or cut off", ecg_yaml=plain),
        _case("hdf5_bits", form, good[:100] + bytes(900) + good[1000:], Reason.UNDECODABLE, "damaged", ecg_yaml=plain),
        _case("hdf5_empty", form, b"", Reason.UNDECODABLE, "damaged, or cut off", ecg_yaml=plain),
        _case("hdf5_other", form, good, Reason.BAD_HEADER, "no dataset of 3 dimensions", ecg_yaml=other),
        _case("hdf5_gzip", "h5.gz", packed, Reason.UNKNOWN_FORMAT, "HDF5 packed by gzip .*; unpack it", ecg_yaml=plain),
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
        *_of_every_xml(),
        *_of_muse(),
        *_of_other_xml(),
        *_of_scp(),
        *_of_edf(),
        *_of_dicom(),
        *_of_tables(),
        *_of_hdf5(),
        *_of_gzip(),
    ]
