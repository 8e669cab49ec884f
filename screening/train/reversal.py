"""What exchanged electrodes do to the flags, simulated: the network has never seen such ECGs on purpose.

With the potentials of the electrodes (R right arm, L left arm, F foot), I = L - R, II = F - R, III = F - L,
aVR = R - (L + F)/2, aVL = L - (R + F)/2, aVF = F - (R + L)/2, and the chest leads are measured against (R + L + F)/3
(AHA/ACC/HRS recommendations, Kligfield et al., Circulation 2007; 115:1306). Exchanging R and L therefore turns I over,
swaps II with III and aVR with aVL, and leaves aVF and the chest leads alone; Einthoven's law still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from screening.contract import LEADS
from screening.signal.quality import assess

Changes = Mapping[str, Mapping[str, int]]
"""``negatives`` and ``positives`` -> ``n``, ``flagged`` as recorded, ``flagged_exchanged``, ``gained`` and ``lost`` flags,
and ``noticed`` by the quality check, where that looks for the exchange."""

ARMS, V1_V2 = "right and left arm", "V1 and V2"
_SIGNED_SOURCE: Mapping[str, Mapping[str, tuple[int, str]]] = {
    ARMS: {"I": (-1, "I"), "II": (1, "III"), "III": (1, "II"), "aVR": (1, "aVL"), "aVL": (1, "aVR")},
    V1_V2: {"V1": (1, "V2"), "V2": (1, "V1")},
}
"""Exchange -> lead -> the sign and the lead it is made from; other leads stay."""
_CHUNK = 512


def exchange(signals_mV: np.ndarray, which: str) -> np.ndarray:
    """Return the ECGs (n, 12, T) as they would have been recorded with two electrodes exchanged (``ARMS``, ``V1_V2``)."""
    exchanged = signals_mV.copy()
    for lead, (sign, source) in _SIGNED_SOURCE[which].items():
        exchanged[:, LEADS.index(lead)] = sign * signals_mV[:, LEADS.index(source)]
    return exchanged


def flags_under_exchange(
    flag: Callable[[np.ndarray], np.ndarray],
    signals_mV: np.ndarray,
    target: np.ndarray,
    *,
    rate_hz: float,
) -> dict[str, dict[str, dict[str, int]]]:
    """Return how the flags change when electrodes are exchanged.

    Parameters
    ----------
    flag : callable
        Filtered ECGs, float32 (b, 12, T) in mV -> flags, bool (b,).
    signals_mV : array, float32 (n, 12, T)
        Filtered, as the network takes them; one ECG a patient.
    target : array (n,)
        1 for infarction, 0 for none.
    rate_hz : float
        Of the signals.

    Returns
    -------
    dict
        Exchange -> ``Changes``.
    """
    parts = [slice(at, at + _CHUNK) for at in range(0, len(signals_mV), _CHUNK)]
    before = _joined([flag(signals_mV[part]) for part in parts])
    found: dict[str, dict[str, dict[str, int]]] = {}
    for which in _SIGNED_SOURCE:
        flags, noticed = [], []
        for part in parts:
            exchanged = exchange(signals_mV[part], which)
            flags.append(flag(exchanged))
            if which == ARMS:
                told = assess(exchanged, rate_hz)["quality_flags"]
                noticed.append(np.array(["suspected_limb_reversal" in of.split(",") for of in told], dtype=bool))
        after = _joined(flags)
        found[which] = {}
        for who, chosen in (("negatives", np.asarray(target) != 1), ("positives", np.asarray(target) == 1)):
            found[which][who] = {
                "n": int(chosen.sum()),
                "flagged": int(before[chosen].sum()),
                "flagged_exchanged": int(after[chosen].sum()),
                "gained": int((after & ~before)[chosen].sum()),
                "lost": int((before & ~after)[chosen].sum()),
            }
            if which == ARMS:
                found[which][who]["noticed"] = int(_joined(noticed)[chosen].sum())
    return found


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(bool) if parts else np.zeros(0, dtype=bool)
