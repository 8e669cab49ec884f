"""Records that must be read, and records that are read but hold no ECG worth scoring; no tests."""

from __future__ import annotations

import struct

import numpy as np

from screening.contract import LEADS, Reason
from tests.corpus.case import Case, case, duplicate, edited, everywhere, mixed_rates, two_files, until_adc_zero
from tests.wfdb_files import SAMPLES, ecg, encode, flac_record, matlab_record, record, segmented


def _extra_signals() -> dict[str, bytes]:
    digital = np.concatenate([ecg()[:3], np.full((1, SAMPLES), 77), ecg()[3:], np.full((1, SAMPLES), 78)])
    files = record(digital=digital, leads=(*LEADS[:3], "resp", *LEADS[3:], "vx"))
    # The last signal stands in a file that is absent and in a format that nobody knows: it does not matter.
    files["r.dat"] = encode(16, digital[:-1])
    last = files["r.hea"].rstrip().rsplit(b"\n", 1)[1]
    return edited({last: b"elsewhere.xyz 999 1/mmHg 16 0 0 1 0 vx"}, files)


_HOSTILE_COMMENTS = (
    b"#Age: 1e999\n#Sex: <script>alert(1)</script>\n#Dx: =cmd(),../../etc/passwd,\x1b[2J\n#Age: 60\n"
    b"#subject_id: '; DROP TABLE records; --\n#ECG date: 99/99/9999\n#" + "\u202e\U0001f600".encode() + b"\n#\0\n"
)


def matlab_claims(rows: int, columns: int, *, kind: int = 30, imaginary: int = 0, name: int = 4) -> dict[str, bytes]:
    """Return a MATLAB record whose matrix claims to be another than it is; the header's offset says where samples are."""
    files = matlab_record()
    return files | {"r.mat": struct.pack("<5I", kind, rows, columns, imaginary, name) + files["r.mat"][20:]}


def valid_cases() -> list[Case]:
    """Return records that must be read."""
    header, dat = record()["r.hea"], record()["r.dat"]
    missing = ecg()
    missing[2, 100:120] = -32768
    eight = [LEADS.index(lead) for lead in ("V6", "I", "II", "V1", "V2", "V3", "V4", "V5")]
    long_unit = "1e3(0)/\N{MICRO SIGN}V".encode()
    cases = [case(f"format_{fmt}", record(fmt=fmt)) for fmt in (8, 16, 24, 32, 61, 80, 160, 212, 310, 311)]
    cases += [
        case("matlab", matlab_record()),
        case("matlab_without_offset", matlab_record(offset="")),
        case("two_files", two_files()),
        case("extra_signals", _extra_signals()),
        case("extra_signal_faster", mixed_rates("resp")),
        case("eight_leads", record(digital=ecg()[eight], leads=tuple(LEADS[i] for i in eight))),
        case("duplicate_identical", duplicate(shift=0)),
        case("two_samples_a_frame", record(per_frame=2)),
        case("units_uV", everywhere(b"1000/mV", b"1.0/uV")),
        case("units_micro_sign", everywhere(b"1000/mV", long_unit.replace(b"1e3", b"1"))),
        case("units_V", everywhere(b"1000/mV", b"1e6/V")),
        case("units_default", everywhere(b"1000/mV", b"1000")),
        case("gain_baseline", everywhere(b"1000/mV", b"1000(-12)/mV")),
        case("gain_baseline_no_unit", everywhere(b"1000/mV", b"1000.5(7)")),
        case("gain_scientific", everywhere(b"1000/mV", b"1.0e+03/mV")),
        case("baseline_from_adc_zero", everywhere(b" 16 0 ", b" 16 25 ")),
        case("missing_samples", record(digital=missing)),
        case("skew", edited({b"r.dat 16 ": b"r.dat 16:3 "})),
        case("byte_offset", {"r.hea": header.replace(b" 16 1000", b" 16+512 1000"), "r.dat": bytes(512) + dat}),
        case("no_length", edited({b"r 12 500 5000": b"r 12 500"})),
        case("zero_length", edited({b"r 12 500 5000": b"r 12 500 0"})),
        case("counter_time_date", edited({b"r 12 500 5000": b"r 12 500.0/360(0.5) 5000 12:30:01.5 31/12/1999"})),
        case("trailing_bytes", {"r.hea": header, "r.dat": dat + bytes(100)}),
        case("no_checksums", {"r.hea": until_adc_zero(header), "r.dat": dat}),
        case("carriage_returns", {"r.hea": header.replace(b"\n", b"\r\n"), "r.dat": dat}),
        case("byte_order_mark", {"r.hea": b"\xef\xbb\xbf" + header, "r.dat": dat}),
        case("comments_anywhere", {"r.hea": b"# first\n\n" + header.replace(b"V1\n", b"V1\n# mid\n"), "r.dat": dat}),
        case("latin_1_comment", {"r.hea": header + b"# M\xfcller\n#Dx: 164865005\n", "r.dat": dat}),
        case("tabs", {"r.hea": header.replace(b" ", b"\t"), "r.dat": dat}),
        case("names_lower_case", edited({b" aVR": b" avr", b" V1": b" v1", b" I\n": b" Lead I\n"})),
        case("file_in_subfolder", {"r.hea": header.replace(b"r.dat", b"data/r.dat"), "data/r.dat": dat}),
        case("numbers_written_oddly", edited({b"r 12 500 5000": b"r 012 +.5e3 0005000"})),
        case("rate_with_a_point", edited({b"r 12 500 5000": b"r 12 500. 5000"})),
        case("counter_infinite", edited({b"r 12 500 5000": b"r 12 500/1e999(-1e999) 5000"})),
        case("gain_negative", everywhere(b" 16 1000/mV", b" 16 -1000/mV")),
        case("format_written_oddly", everywhere(b"r.dat 16 ", b"r.dat 016x01:0+00 ")),
        case("names_of_ten_thousand_letters", edited({b" 0 V6\n": b" 0 V6\n#" + b"x" * 10_000 + b"\n"})),
        case("hostile_comments", edited({b" 0 V6\n": b" 0 V6\n" + _HOSTILE_COMMENTS})),
        case("flac", flac_record()),
        case("matlab_claims_the_world", matlab_claims(2**32 - 1, 2**32 - 1)),
        case("matlab_claims_no_rows", matlab_claims(0, 0)),
        case("segments", segmented()),
        case("segments_variable", segmented(variable=True)),
    ]
    return cases


def poor_cases() -> list[Case]:
    """Return records that can be read but hold no ECG worth scoring."""
    flat, missing = ecg(), ecg()
    flat[8] = 0
    missing[8] = -32768
    infinite = np.full_like(flat, -32768)
    constant = np.zeros((12, 300_000), np.int64)  # ten minutes, of which FLAC makes a few kilobytes
    swapped = ecg()
    swapped[[1, 8]] = swapped[[8, 1]]
    return [
        case("flat_lead", record(digital=flat), Reason.FLAT_LEAD),
        case("lead_all_missing", record(digital=missing), Reason.MISSING_SAMPLES),
        case("one_second", record(digital=ecg(500)), Reason.TOO_SHORT),
        case("unit_a_thousandfold", everywhere(b"1000/mV", b"1/mV"), Reason.IMPLAUSIBLE_AMPLITUDE),
        case("all_samples_missing", record(digital=infinite), Reason.MISSING_SAMPLES),
        case("one_sample", record(digital=ecg()[:, :1]), Reason.TOO_SHORT),
        case("flac_that_expands", flac_record(constant), Reason.FLAT_LEAD),
        case("gain_huge", everywhere(b"1000/mV", b"1e300/mV"), Reason.FLAT_LEAD),
        case("gain_smallest", everywhere(b"1000/mV", b"1e-3/mV"), Reason.IMPLAUSIBLE_AMPLITUDE),
        case("baseline_huge", everywhere(b"1000/mV", b"1000(99999999999999999)/mV"), Reason.IMPLAUSIBLE_AMPLITUDE),
        case("baseline_least", everywhere(b"1000/mV", b"1e-3(-999999999999999999)/mV"), Reason.IMPLAUSIBLE_AMPLITUDE),
        case("skew_past_the_end", edited({b"r.dat 16 ": b"r.dat 16:999999999 "}), Reason.MISSING_SAMPLES),
        case("rate_highest", edited({b"r 12 500 ": b"r 12 19999.999999999 "}), Reason.TOO_SHORT),
        case("unit_nV", everywhere(b"1000/mV", b"1000/nV"), Reason.FLAT_LEAD),
        case("unit_V", everywhere(b"1000/mV", b"1000/V"), Reason.IMPLAUSIBLE_AMPLITUDE),
        case("limb_leads_contradict", record(digital=swapped), Reason.INCONSISTENT_LIMB_LEADS),
    ]
