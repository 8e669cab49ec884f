"""Broken and hostile XML of electrocardiographs: what it must be refused for."""

from __future__ import annotations

import re

from screening.contract import Reason
from tests import hospital_files as made
from tests.corpus.case import Case
from tests.corpus.hospital_files import case, changed, digital, file_of

_ENTITY = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
_FROM_ELSEWHERE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
_DECLARATION = re.compile(rb"<\?xml[^>]*\?>\s*(?:<!DOCTYPE[^>]*>)?")
_XML = ("muse-xml", "cardiosoft-xml", "sierra-xml", "hl7-aecg")


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
            case(
                f"{form}_cut", form, data[: len(data) // 2 * 2 // 3], Reason.BAD_HEADER, "not well-formed, or cut off"
            ),
            case(f"{form}_entities", form, bomb, Reason.BAD_HEADER, "declares entities"),
            case(f"{form}_external", form, elsewhere, Reason.BAD_HEADER, "declares entities"),
            case(f"{form}_deep", form, deep, Reason.TOO_LARGE, "64 levels"),
            case(f"{form}_nul", form, nul, Reason.BAD_HEADER, "not well-formed"),
            case(f"{form}_bits", form, text.replace(b">", b"\x00", 40), Reason.UNKNOWN_FORMAT, "a XML file"),
        ]
    return cases


def _of_muse() -> list[Case]:
    form = "muse-xml"
    rhythm = "(?s)<Waveform><WaveformType>Rhythm.*?</Waveform>"
    another = re.search(rhythm.encode(), made.muse(-digital()))
    with_another_strip = file_of(form).replace(b"</RestingECG>", (another or [b""])[0] + b"</RestingECG>")
    return [
        case("muse_median_only", form, changed(form, (rhythm, "")), Reason.TOO_SHORT, "no rhythm strip"),
        case("muse_two_strips", form, changed(form, (">Median<", ">Rhythm<")), Reason.BAD_HEADER, "2 rhythm strips"),
        case("muse_two_ecgs", form, with_another_strip, Reason.DUPLICATE_LEAD, "lead I is present twice"),
        case(
            "muse_two_rates",
            form,
            with_another_strip.replace(b"<SampleBase>500", b"<SampleBase>250", 2),
            Reason.BAD_HEADER,
            "different rates",
        ),
        case(
            "muse_later",
            form,
            changed(form, ("<LeadOffsetFirstSample>0", "<LeadOffsetFirstSample>2"), last=True),
            Reason.CONFLICTING_RATES,
            "another sample than the strip",
        ),
        case(
            "muse_no_unit",
            form,
            changed(form, ("<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", "")),
            Reason.MISSING_UNITS,
            "LeadAmplitudeUnits is missing",
        ),
        case(
            "muse_other_unit", form, changed(form, ("MICROVOLTS", "mmHg")), Reason.MISSING_UNITS, "not one of voltage"
        ),
        case(
            "muse_no_scale",
            form,
            changed(form, ("<LeadAmplitudeUnitsPerBit>5</LeadAmplitudeUnitsPerBit>", "")),
            Reason.MISSING_UNITS,
            "no LeadAmplitudeUnitsPerBit",
        ),
        case(
            "muse_no_rate", form, changed(form, ("<SampleBase>500", "<SampleBase>")), Reason.MISSING_RATE, "SampleBase"
        ),
        case(
            "muse_huge_exponent",
            form,
            changed(form, ("<SampleExponent>0", "<SampleExponent>300")),
            Reason.MISSING_RATE,
            "no exponent",
        ),
        case("muse_slow", form, changed(form, ("<SampleBase>500", "<SampleBase>5")), Reason.MISSING_RATE, "5 Hz"),
        case(
            "muse_no_v4", form, changed(form, ("<LeadID>V4<", "<LeadID>X<")), Reason.MISSING_LEADS, "no signal for V4"
        ),
        case("muse_v4_twice", form, changed(form, ("<LeadID>V5<", "<LeadID>V4<")), Reason.MISSING_LEADS, "V5"),
        case(
            "muse_crc",
            form,
            changed(form, (r"<LeadDataCRC32>\d", "<LeadDataCRC32>77")),
            Reason.CHECKSUM_MISMATCH,
            "LeadDataCRC32",
        ),
        case(
            "muse_base64",
            form,
            changed(form, ("<WaveFormData>\n....", "<WaveFormData>\n....")),
            Reason.UNDECODABLE,
            "base64",
        ),
        case(
            "muse_huge",
            form,
            changed(form, ("<LeadSampleCountTotal>5000", "<LeadSampleCountTotal>99999999999")),
            Reason.TOO_LARGE,
            "99999999999 samples",
        ),
        case(
            "muse_fewer",
            form,
            changed(form, ("<LeadSampleCountTotal>5000", "<LeadSampleCountTotal>5001")),
            Reason.TRUNCATED,
            "10000 bytes of the 10002",
        ),
        case(
            "muse_empty",
            form,
            changed(
                form,
                ("(?s)<WaveFormData>.*?</WaveFormData>", "<WaveFormData/>"),
                ("CountTotal>5000", "CountTotal>0"),
                (r"CRC32>\d+", "CRC32>0"),
            ),
            Reason.TOO_SHORT,
            "no samples",
        ),
        case(
            "muse_one_lead_shorter",
            form,
            changed(
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
        case("card_median_only", card, changed(card, ("StripData", "Other")), Reason.TOO_SHORT, "no strip"),
        case("card_no_unit", card, changed(card, (' units="uVperLsb"', "")), Reason.MISSING_UNITS, "units are missing"),
        case(
            "card_no_rate", card, changed(card, ("<SampleRate.*?</SampleRate>", "")), Reason.MISSING_RATE, "SampleRate"
        ),
        case("card_word", card, changed(card, ('lead="V2">', 'lead="V2">high,')), Reason.UNDECODABLE, "no number"),
        case(
            "card_count",
            card,
            changed(card, ("Total>5000", "Total>4999")),
            Reason.TRUNCATED,
            "5000 of the 4999 samples",
        ),
        case(
            "card_leads",
            card,
            changed(card, ("Leads>12", "Leads>11")),
            Reason.BAD_HEADER,
            "11 leads are claimed, and 12",
        ),
        case("card_no_lead", card, changed(card, ('lead="V1"', 'lead="V9"')), Reason.MISSING_LEADS, "V1"),
        case("aecg_beat_only", aecg, changed(aecg, ('"RHYTHM"', '"DERIVED"')), Reason.TOO_SHORT, "no rhythm series"),
        case("aecg_empty", aecg, changed(aecg, ("<digits>[^<]*", "<digits>")), Reason.TOO_SHORT, "no samples"),
        case(
            "card_empty",
            card,
            changed(card, ("(<WaveformData[^>]*>)[^<]*", '<WaveformData lead="I">'), ("Total>\\d+", "Total>0")),
            Reason.TOO_SHORT,
            "no samples",
        ),
        case(
            "card_in_metres",
            card,
            changed(card, ("uVperLsb", "umperLsb")),
            Reason.MISSING_UNITS,
            "not those of a step",
        ),
        case(
            "aecg_no_unit",
            aecg,
            changed(aecg, ('<scale value="5" unit="uV"/>', '<scale value="5"/>')),
            Reason.MISSING_UNITS,
            "has no scale, or its unit",
        ),
        case("aecg_no_scale", aecg, changed(aecg, ("<scale[^>]*>", "")), Reason.MISSING_UNITS, "lead I has no scale"),
        case("aecg_no_rate", aecg, changed(aecg, ("<increment[^>]*>", "")), Reason.MISSING_RATE, "increment"),
        case("aecg_in_metres", aecg, changed(aecg, ('unit="ms"', 'unit="m"')), Reason.MISSING_RATE, "no time"),
        case("aecg_word", aecg, changed(aecg, ("<digits>", "<digits>high ")), Reason.UNDECODABLE, "no number"),
        case("aecg_no_lead", aecg, changed(aecg, ("LEAD_V3", "LEAD_X3")), Reason.MISSING_LEADS, "V3"),
        case(
            "aecg_two_rates",
            aecg,
            changed(
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
        case(
            "sierra_beats_only",
            sierra,
            changed(sierra, ("parsedwaveforms", "repbeats")),
            Reason.TOO_SHORT,
            "no waveforms",
        ),
        case(
            "sierra_no_resolution",
            sierra,
            changed(sierra, ("<signalresolution>5</signalresolution>", "")),
            Reason.MISSING_UNITS,
            "no resolution",
        ),
        case(
            "sierra_no_rate",
            sierra,
            changed(sierra, ("<samplingrate>500</samplingrate>", "")),
            Reason.MISSING_RATE,
            "samplingrate",
        ),
        case("sierra_unnamed", sierra, changed(sierra, ('leadlabels="[^"]*"', "")), Reason.MISSING_LEADS, "not named"),
        case("sierra_no_lead", sierra, changed(sierra, (" V6", " X6")), Reason.MISSING_LEADS, "V6"),
        case(
            "sierra_eleven",
            sierra,
            changed(sierra, (" V6", ""), ('numberofleads="12"', 'numberofleads="11"')),
            Reason.TRUNCATED,
            "not whole samples of 11 leads",
        ),
        case("sierra_base64", sierra, changed(sierra, (r'">[A-Za-z0-9+/]{4}', '">....')), Reason.UNDECODABLE, "base64"),
        case(
            "sierra_empty",
            sierra,
            changed(sierra, ('(?s)(?<=")>[A-Za-z0-9+/=\\s]+<', "><"), last=True),
            Reason.TOO_SHORT,
            "no samples",
        ),
        case(
            "sierra_packed",
            sierra,
            changed(sierra, ("dataencoding", 'compression="XLI" dataencoding')),
            Reason.TRUNCATED,
            "a lead claims",
        ),
        case(
            "sierra_packed_otherwise",
            sierra,
            changed(sierra, ("dataencoding", 'compression="ZIP" dataencoding')),
            Reason.UNKNOWN_FORMAT,
            "another way than by XLI",
        ),
    ]


def xml_cases() -> list[Case]:
    """Return every case; all of them are refused by the reader."""
    return [*_of_every_xml(), *_of_muse(), *_of_other_xml()]
