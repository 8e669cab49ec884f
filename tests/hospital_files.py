"""Builds ECG files as hospitals and research collections hold them, from digital leads; deterministic, no tests.

Written from the formats' definitions, apart from the readers that they test. Samples are integers (12, n) of
5 uV unless stated.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from screening.contract import INDEPENDENT_LEADS, LEADS
from tests.people import PERSON, Person
from tests.scp_files import SCP_NUMBERS, scp

STEP_UV = 5.0
RATE = 500


def _rows(names: tuple[str, ...]) -> list[int]:
    return [LEADS.index(name) for name in names]


def muse(
    digital: np.ndarray,
    *,
    rate: int = RATE,
    step_uV: float = STEP_UV,
    medians_first: bool = True,
    exponent: int = 0,
    unit: str = "MICROVOLTS",
    unit_uV: float = 1.0,
    off: str = "",
    person: Person = PERSON,
) -> bytes:
    """Return a MUSE-like export: eight leads, a median block that must not be taken for the rhythm.

    ``unit`` is of ``unit_uV``, and the lead ``off`` was not attached.
    """

    def waveform(kind: str, samples: np.ndarray) -> str:
        leads = "".join(
            f"<LeadData><LeadByteCountTotal>{2 * len(lead)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>"
            f"<LeadSampleCountTotal>{len(lead)}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{step_uV / unit_uV:g}</LeadAmplitudeUnitsPerBit>"
            f"<LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits><LeadID>{name}</LeadID>"
            f"<LeadOffsetFirstSample>0</LeadOffsetFirstSample><LeadSampleSize>2</LeadSampleSize>"
            f"<LeadOff>{str(name == off).upper()}</LeadOff>"
            f"<LeadDataCRC32>{zlib.crc32(raw)}</LeadDataCRC32>"
            f"<WaveFormData>\n{base64.encodebytes(raw).decode()}</WaveFormData></LeadData>"
            for name, lead in zip(INDEPENDENT_LEADS, samples, strict=True)
            if (raw := lead.astype("<i2").tobytes()) is not None
        )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><NumberofLeads>8</NumberofLeads>"
            f"<SampleBase>{rate / 10**exponent:g}</SampleBase><SampleExponent>{exponent}</SampleExponent>{leads}</Waveform>"
        )

    measured = digital[_rows(INDEPENDENT_LEADS)]
    blocks = [waveform("Median", measured[:, :600]), waveform("Rhythm", measured)]
    spoken = (
        f"<DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>{person.statement}</StmtText></DiagnosisStatement>"
    )
    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'
        f"<!-- {person.surname} --><?editor {person.operator}?><PatientDemographics><PatientID>{person.id}</PatientID>"
        f"<SecondaryID>{person.id}</SecondaryID><PatientAge>67</PatientAge><AgeUnits>YEARS</AgeUnits>"
        f"<DateofBirth>{person.born:%m-%d-%Y}</DateofBirth><Gender>MALE</Gender>"
        f"<PatientLastName>{person.surname}</PatientLastName><PatientFirstName>{person.given_name}</PatientFirstName>"
        "</PatientDemographics>"
        f"<Order><AdmitDiagnosis>{person.remark}</AdmitDiagnosis><HISOrderingMDLastName>{person.physician}"
        "</HISOrderingMDLastName></Order>"
        f"<TestDemographics><LocationName>{person.institution}</LocationName><TestReason>{person.remark}</TestReason>"
        f"<AcquisitionTechLastName>{person.operator}</AcquisitionTechLastName>"
        f"<OverreaderLastName>{person.physician}</OverreaderLastName>"
        "<SiteName>Sankt J\xf6rg</SiteName><AcquisitionDevice>MAC55</AcquisitionDevice>"
        "<AcquisitionTime>08:09:10</AcquisitionTime><AcquisitionDate>02-03-2011</AcquisitionDate></TestDemographics>"
        "<RestingECGMeasurements><QRSDuration>152</QRSDuration></RestingECGMeasurements>"
        "<Diagnosis><DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>Left bundle branch block</StmtText>"
        f"</DiagnosisStatement>{spoken if person.statement else ''}<DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag>"
        f"<StmtText>Confirmed by: {person.physician}</StmtText></DiagnosisStatement></Diagnosis>"
        f"{''.join(blocks if medians_first else blocks[::-1])}</RestingECG>"
    )
    return text.encode("latin-1")


def cardiosoft(
    digital: np.ndarray,
    *,
    rate: int = RATE,
    step_uV: float = STEP_UV,
    unit: str = "uVperLsb",
    unit_uV: float = 1.0,
    person: Person = PERSON,
) -> bytes:
    """Return a CardioSoft-like export, whose ``unit`` is of ``unit_uV``."""

    def block(name: str, samples: np.ndarray) -> str:
        leads = "".join(
            f'<WaveformData lead="{lead}">{",".join(map(str, values.tolist()))}</WaveformData>'
            for lead, values in zip(LEADS, samples, strict=True)
        )
        return (
            f'<{name}><NumberOfLeads>12</NumberOfLeads><SampleRate units="Hz">{rate}</SampleRate>'
            f"<ChannelSampleCountTotal>{samples.shape[1]}</ChannelSampleCountTotal>"
            f'<Resolution units="{unit}">{step_uV / unit_uV:g}</Resolution>{leads}</{name}>'
        )

    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?><CardiologyXML><ObservationType>RestECG</ObservationType>'
        "<ObservationDateTime><Hour>8</Hour><Minute>9</Minute><Second>10</Second><Day>3</Day><Month>2</Month>"
        "<Year>2011</Year></ObservationDateTime><ClinicalInfo><DeviceInfo><Desc>CardioSoft</Desc></DeviceInfo></ClinicalInfo>"
        f"<!-- {person.surname} --><PatientInfo><PID>{person.id}</PID><Name><FamilyName>{person.surname}</FamilyName>"
        f"<GivenName>{person.given_name}</GivenName></Name><BirthDateTime>{person.born:%d.%m.%Y}</BirthDateTime>"
        f'<Comments>{person.remark}</Comments><Age units="years">67</Age><Gender>MALE</Gender></PatientInfo>'
        f"<OrderInfo><Ward>{person.institution}</Ward><RequestingPhysician>{person.physician}</RequestingPhysician>"
        f"<Technician>{person.operator}</Technician></OrderInfo>"
        "<Interpretation><Diagnosis><DiagnosisText>---</DiagnosisText><DiagnosisText>Left bundle branch block</DiagnosisText>"
        f"<DiagnosisText>{person.statement}</DiagnosisText>"
        "</Diagnosis></Interpretation><RestingECGMeasurements><QRSDuration units='ms'>152</QRSDuration>"
        f"{block('MedianSamples', digital[:, :600])}</RestingECGMeasurements>{block('StripData', digital)}</CardiologyXML>"
    )
    return text.encode("latin-1")


def aecg(
    digital: np.ndarray,
    *,
    rate: int = RATE,
    step_uV: float = STEP_UV,
    origin_mV: float = 0.0,
    unit_s: tuple[str, float] = ("ms", 1e-3),
    person: Person = PERSON,
) -> bytes:
    """Return an HL7 aECG: a representative beat first, then the rhythm.

    Samples are stored as from ``origin_mV``; times in a unit, which is of so many seconds.
    """

    def series(code: str, samples: np.ndarray) -> str:
        leads = "".join(
            f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper() if lead[0] != "a" else lead}"/>'
            f'<value xsi:type="SLIST_PQ"><origin value="{origin_mV:g}" unit="mV"/><scale value="{step_uV:g}" unit="uV"/>'
            f"<digits>{' '.join(map(str, values.tolist()))}</digits></value></sequence></component>"
            for lead, values in zip(LEADS, samples, strict=True)
        )
        return (
            f'<component><series><code code="{code}"/><effectiveTime><low value="20110203080910"/></effectiveTime>'
            '<component><sequenceSet><component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS">'
            f'<head value="20110203080910"/><increment value="{1 / unit_s[1] / rate:g}" unit="{unit_s[0]}"/></value>'
            "</sequence></component>"
            f"{leads}</sequenceSet></component></series></component>"
        )

    spoken = (
        '<subjectOf><annotationSet><component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT"/>'
        f"<value>{person.statement}</value></annotation></component></annotationSet></subjectOf>"
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><componentOf><timepointEvent><componentOf><subjectAssignment>'
        f'<subject><trialSubject><id extension="{person.id}"/><subjectDemographicPerson><name><family>{person.surname}</family>'
        f'<given>{person.given_name}</given></name><administrativeGenderCode code="M"/>'
        f'<birthTime value="{person.born:%Y%m%d}"/></subjectDemographicPerson></trialSubject></subject>'
        f"<definition><text>{person.remark}</text></definition></subjectAssignment></componentOf>"
        f"<performer><name>{person.operator}</name><of>{person.institution}</of></performer></timepointEvent></componentOf>"
        f"<author><name>{person.physician}</name></author>{spoken if person.statement else ''}"
        f"{series('REPRESENTATIVE_BEAT', digital[:, :600])}{series('RHYTHM', digital)}</AnnotatedECG>"
    )
    return text.encode()


def sierra(
    digital: np.ndarray, *, rate: int = RATE, step_uV: float = STEP_UV, pulse: bool = True, person: Person = PERSON
) -> bytes:
    """Return a Sierra-like export of version 1.04, not packed, with the calibration pulse that its samples end in."""
    if pulse:
        one_mV = np.zeros(200, np.int64)
        one_mV[60:160] = round(1000 / step_uV)
        digital = np.concatenate([digital, np.tile(one_mV, (len(digital), 1))], axis=1)
    raw = base64.encodebytes(digital.astype("<i2").tobytes()).decode()
    text = (
        '<?xml version="1.0" encoding="UTF-16"?><restingecgdata xmlns="http://www3.medical.philips.com">'
        "<documentinfo><documentversion>1.04</documentversion></documentinfo>"
        f"<!-- {person.surname} --><reportinfo><reportdescription>{person.remark}</reportdescription>"
        f"<orderingclinician>{person.physician}</orderingclinician></reportinfo>"
        '<dataacquisition date="2011-02-03" time="08:09:10"><machine machineid="X">PageWriter</machine>'
        f"<acquirer><operatorid>{person.operator}</operatorid><departmentname>{person.institution}</departmentname></acquirer>"
        f"<signalcharacteristics><samplingrate>{rate}</samplingrate><signalresolution>{step_uV:g}</signalresolution>"
        "<bitspersample>16</bitspersample></signalcharacteristics></dataacquisition>"
        f"<patient><generalpatientdata><patientid>{person.id}</patientid><name><lastname>{person.surname}</lastname>"
        f"<firstname>{person.given_name}</firstname></name><dateofbirth>{person.born}</dateofbirth>"
        "<age><years>67</years></age><sex>Male</sex></generalpatientdata></patient>"
        "<internalmeasurements><crossleadmeasurements/></internalmeasurements>"
        "<interpretations><interpretation><globalmeasurements><qrsdur>152</qrsdur></globalmeasurements>"
        "<statement><leftstatement>Left bundle branch block</leftstatement></statement>"
        f"<statement><leftstatement>{person.statement}</leftstatement></statement></interpretation></interpretations>"
        f'<waveforms><parsedwaveforms dataencoding="Base64" leadlabels="{" ".join(LEADS)}" numberofleads="12" '
        f'durationperchannel="{1000 * digital.shape[1] // rate}">{raw}</parsedwaveforms></waveforms></restingecgdata>'
    )
    return text.encode("utf-16")


"""Lead -> its number in SCP-ECG and IEEE 11073."""


def dicom(
    digital: np.ndarray,
    *,
    rate: int = RATE,
    step_uV: float = STEP_UV,
    preamble: bool = True,
    syntax: str = "ExplicitVRLittleEndian",
    correction: float = 2.0,
    zero_at: int = 0,
    is_unsigned: bool = False,
    padding: int | None = None,
    lead_code: str = "MDC_ECG_LEAD_{lead}",
    lead_meaning: str = "Lead {lead}",
    person: Person = PERSON,
) -> bytes:
    """Return a DICOM 12-lead waveform, by pydicom: a derived median group first, then the rhythm.

    Parameters
    ----------
    correction
        Part of the scale that stands in the correction factor.
    zero_at
        What is stored where the ECG is at 0 mV.
    padding
        Stands for a sample that is missing, in its place in ``digital``.
    lead_code, lead_meaning
        With {lead} and {number} in them.
    """
    import pydicom.uid
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import generate_uid

    order = ">" if syntax == "ExplicitVRBigEndian" else "<"
    stored_as = np.dtype(f"{order}{'u' if is_unsigned else 'i'}2")

    def code(value: str, scheme: str, meaning: str) -> Any:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return Sequence([item])

    def group(samples: np.ndarray, *, original: bool) -> Any:
        item = Dataset()
        item.WaveformOriginality = "ORIGINAL" if original else "DERIVED"
        item.MultiplexGroupLabel = "RHYTHM" if original else "MEDIAN BEAT"
        item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = samples.shape
        item.SamplingFrequency = str(rate)
        item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 16, "US" if is_unsigned else "SS"
        item.WaveformData = np.ascontiguousarray(samples.T + zero_at).astype(stored_as).tobytes()
        if padding is not None:
            item.add_new("WaveformPaddingValue", "OW", np.array(padding + zero_at).astype(stored_as).tobytes())
        channels = []
        for lead in LEADS:
            names = {"lead": lead, "number": SCP_NUMBERS[lead]}
            channel = Dataset()
            channel.ChannelSourceSequence = code(lead_code.format(**names), "MDC", lead_meaning.format(**names))
            channel.ChannelSensitivity = f"{step_uV / correction:g}"
            channel.ChannelSensitivityUnitsSequence = code("uV", "UCUM", "microvolt")
            channel.ChannelSensitivityCorrectionFactor = f"{correction:g}"
            channel.ChannelBaseline = f"{-zero_at * step_uV:g}"
            channel.ChannelSampleSkew, channel.WaveformBitsStored = "0", 16
            channels.append(channel)
        item.ChannelDefinitionSequence = Sequence(channels)
        return item

    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.9.1.1", generate_uid(entropy_srcs=["one"])
    made.Modality, made.AcquisitionDateTime = "ECG", "20110203080910"
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientID, made.PatientName = person.id, f"{person.surname}^{person.given_name}"
    made.PatientBirthDate = f"{person.born:%Y%m%d}"
    made.OtherPatientIDs, made.AccessionNumber, made.PatientAddress = person.id, person.id, person.institution
    made.ReferringPhysicianName = made.NameOfPhysiciansReadingStudy = person.physician
    made.OperatorsName, made.InstitutionAddress = person.operator, person.institution
    made.InstitutionalDepartmentName = made.CurrentPatientLocation = person.institution
    made.PatientComments, made.StudyDescription, made.Allergies = person.remark, person.remark, person.remark
    made.private_block(0x0011, person.surname, create=True).add_new(0x01, "LO", person.remark)
    made.PatientAge, made.PatientSex, made.ManufacturerModelName = "067Y", "M", "ELI"
    made.WaveformSequence = Sequence([group(digital[:, :600], original=False), group(digital, original=True)])
    notes = []
    for text in filter(None, ("Left bundle branch block", person.statement)):
        note = Dataset()
        note.UnformattedTextValue = text
        notes.append(note)
    qrs = Dataset()
    qrs.ConceptNameCodeSequence = code("5.13.5-9", "SCPECG", "QRS Duration")
    qrs.MeasurementUnitsCodeSequence, qrs.NumericValue = code("ms", "UCUM", "millisecond"), "152"
    made.WaveformAnnotationSequence = Sequence([*notes, qrs])
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = (
        made.SOPClassUID,
        made.SOPInstanceUID,
    )
    made.file_meta.ImplementationClassUID = generate_uid(entropy_srcs=["writer"])
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue() if preamble else stream.getvalue()[132:]


def edf(
    digital: np.ndarray,
    *,
    rate: int = RATE,
    step_uV: float = STEP_UV,
    zero_at: int = 0,
    is_annotated: bool = False,
    person: Person = PERSON,
) -> bytes:
    """Return an EDF+, by edfio, with a signal that is no lead; ``zero_at`` is stored where the ECG is at 0 mV."""
    import datetime

    import edfio

    limits = (-32768, 32767)
    physical = ((-32768 - zero_at) * step_uV, (32767 - zero_at) * step_uV)
    signals = [
        edfio.EdfSignal.from_digital(
            (row + zero_at).astype(np.int16),
            rate,
            label=f"ECG {lead}",
            physical_dimension="uV",
            physical_range=physical,
            digital_range=limits,
        )
        for lead, row in zip(LEADS, digital, strict=True)
    ]
    breath = np.linspace(-1, 1, digital.shape[1] // rate * 10)
    pulse = edfio.EdfSignal(
        breath, 10, label="Resp", transducer_type=person.surname, prefiltering=person.remark, physical_dimension="V"
    )

    def words(text: str) -> str:
        return text.replace(" ", "_").encode("ascii", "replace").decode()

    made = edfio.Edf(
        [*signals, pulse],
        patient=edfio.Patient(
            code=person.id,
            sex="M",
            birthdate=person.born,
            name=words(person.surname),
            additional=(words(person.remark),),
        ),
        recording=edfio.Recording(
            startdate=datetime.date(2011, 2, 3),
            hospital_administration_code=words(person.institution),
            investigator_technician_code=words(person.operator),
            additional=(words(person.physician),),
        ),
        starttime=datetime.time(8, 9, 10),
        data_record_duration=1,
        annotations=[edfio.EdfAnnotation(2.5, None, person.remark)] if is_annotated else None,
    )
    stream = io.BytesIO()
    made.write(stream)
    return stream.getvalue()


# --- Tables of numbers ---------------------------------------------------------------------------------------------------


def sidecar(**settings: Any) -> bytes:
    """Return an ecg.yaml."""
    import yaml

    return yaml.safe_dump({"unit": "uV", "rate_hz": RATE, "units_per_step": STEP_UV, **settings}).encode()


def csv(digital: np.ndarray, *, header: bool = True, person: Person | None = None) -> bytes:
    """Return lines of samples, a column a lead; a person stands in comments, and in the name of a column that is no lead."""
    lines = [",".join([person.surname if person else "time", *LEADS])] if header else []
    if person:
        lines = [*(f"# {name}: {value}" for name, value in asdict(person).items()), *lines]
    lines += [",".join(map(str, [at, *row] if header else row)) for at, row in enumerate(digital.T.tolist())]
    return ("\n".join(lines) + "\n").encode()


def npy(digital: np.ndarray, dtype: str = "<i2") -> bytes:
    """Return samples (n, 12) as NumPy writes them."""
    stream = io.BytesIO()
    np.save(stream, digital.T.astype(dtype))
    return stream.getvalue()


def hdf5(digital: Mapping[int, np.ndarray], *, samples: int = 4096, person: Person | None = None) -> bytes:
    """Return ECGs (12, n) by id as CODE-15% keeps them: (records, samples, 12), float32, zeros on both sides.

    A person stands in attributes, in the names of one and of a dataset, and in that dataset.
    """
    import h5py

    filled = np.zeros((len(digital), samples, 12), np.float32)
    for row, one in zip(filled, digital.values(), strict=True):
        start = (samples - one.shape[1]) // 2
        row[start : start + one.shape[1]] = one.T
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["tracings"] = filled
        file["exam_id"] = np.array(list(digital), np.int64)
        if person:
            for of in (file, file["tracings"]):
                of.attrs.update({name: str(value) for name, value in asdict(person).items()})
                of.attrs[person.surname] = person.remark
            file[person.surname] = [person.given_name, person.remark]
    return stream.getvalue()


WRITERS: dict[str, tuple[str, Callable[..., bytes]]] = {
    "muse-xml": (".xml", muse),
    "cardiosoft-xml": (".xml", cardiosoft),
    "sierra-xml": (".xml", sierra),
    "hl7-aecg": (".xml", aecg),
    "dicom": (".dcm", dicom),
    "scp-ecg": (".scp", scp),
    "edf": (".edf", edf),
}
"""Format -> suffix and writer."""
