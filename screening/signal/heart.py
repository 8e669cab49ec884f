"""A heart of several moving dipoles in a torso: where its segments lie, when they fire, what the electrodes see.

Each myocardial segment is a current dipole with its own place, direction and time. An electrode sees the potential of a
dipole in an infinite homogeneous conductor, phi = m . (e - r) / |e - r|^3 (Malmivuo & Plonsey, Bioelectromagnetism, 1995,
chapter 8), so a precordial electrode sees the nearest segments best: the eight independent leads have more than the rank
3 of a single dipole. Lengths are in cm from the centre of the ventricles; x points to the left arm, y to the feet, z to
the front. Limb electrodes stand at effective places nearer than the skin, which makes up for the torso's insulating
boundary.
"""

from __future__ import annotations

import numpy as np

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
ELECTRODE_CM = np.array(
    [
        (-11.0, -11.0, 2.0),
        (12.0, -11.0, 0.0),
        (2.0, 16.0, 1.0),
        (-5.5, -2.0, 8.0),
        (-0.8, -2.0, 8.8),
        (2.8, 0.0, 8.8),
        (6.4, 2.0, 8.0),
        (10.0, 2.0, 4.6),
        (11.6, 2.0, 0.2),
    ]
)

SEGMENTS = ("septal", "rv", "anterior", "apical", "lateral", "high_lateral", "inferior", "basal")
"""Ventricular segments; the atria are apart."""
SEPTAL, RV, ANTERIOR, APICAL, LATERAL, HIGH_LATERAL, INFERIOR, BASAL = range(8)

# The left ventricle's frame: long axis from base to apex; from the septum to the right ventricle; the anterior wall.
_LONG = np.array((0.66, 0.45, 0.60))
_SEPTUM = np.array((-0.66, 0.02, 0.75))
_SEPTUM -= _LONG * (_SEPTUM @ _LONG) / (_LONG @ _LONG)
_LONG, _SEPTUM = _LONG / np.linalg.norm(_LONG), _SEPTUM / np.linalg.norm(_SEPTUM)
_ANTERIOR = np.cross(_LONG, _SEPTUM)
_ANTERIOR *= -np.sign(_ANTERIOR[1])  # up


def _place(long: float, septum: float, anterior: float) -> np.ndarray:
    return long * _LONG + septum * _SEPTUM + anterior * _ANTERIOR


SEGMENT_CM = np.array(
    [
        _place(0.5, 1.5, 0.0),
        _place(0.5, 3.5, 0.0),
        _place(1.0, 1.2, 2.4),
        _place(4.0, 0.0, 0.0),
        _place(0.5, -2.8, -0.5),
        _place(-1.0, -2.2, 2.0),
        _place(0.5, 0.0, -2.8),
        _place(-3.0, -1.5, -1.0),
    ]
)
ATRIA_CM = np.array([(-3.5, -3.0, 1.5), (1.0, -3.5, -3.5)])

OUTWARD = np.array(
    [
        _place(0.2, 0.9, 0.0),  # the septum is excited from the left: its wave runs to the right ventricle
        _place(0.2, 0.9, 0.2),
        _place(0.4, 0.3, 0.9),
        _place(1.0, 0.0, 0.0),
        _place(0.3, -1.0, -0.1),
        _place(-0.1, -0.7, 0.8),
        _place(0.4, -0.1, -1.0),
        _place(-0.8, -0.6, -0.3),
    ]
)
OUTWARD /= np.linalg.norm(OUTWARD, axis=1, keepdims=True)
"""From the inside of each wall to its outside: the way its activation runs."""

# Times after Durrer et al., Circulation 41 (1970) 899: septum first, then the free walls from apex to base, the base last.
# Moments in mV cm^2. All were adjusted, each kept near its anatomical direction and time, until the standard heart gave the
# mean normal beat of PTB-XL's folds 1-8 (0.02 mV root mean square in each lead); QRS was then made 10-40% larger and 12%
# narrower, because a mean of many hearts is flatter and wider than any of them.
QRS_CENTRE_S = np.array((0.0166, 0.0436, 0.0283, 0.0384, 0.0408, 0.0493, 0.0370, 0.0580))
QRS_SIGMA_S = np.array((0.0073, 0.0114, 0.0079, 0.0087, 0.0113, 0.0086, 0.0095, 0.0099))
QRS_MOMENT = np.array(
    [
        (-12.0, 2.2, 18.5),  # septal
        (-21.6, 7.6, 0.4),  # rv
        (23.8, -14.2, 36.0),  # anterior
        (57.1, 8.9, 43.9),  # apical
        (77.7, 1.8, -45.7),  # lateral
        (7.9, -16.1, -16.7),  # high_lateral
        (12.7, 66.4, 4.6),  # inferior
        (-29.2, -4.8, -61.8),  # basal
    ]
)
T_MOMENT = np.array(
    [
        (-5.6, 1.0, 10.0),  # septal
        (1.1, -0.8, 5.1),  # rv
        (9.7, -17.6, 23.9),  # anterior
        (9.9, 7.2, 6.6),  # apical
        (21.0, 8.5, -13.7),  # lateral
        (5.8, -6.1, -2.2),  # high_lateral
        (-0.8, 24.7, -3.3),  # inferior
        (-1.1, 0.6, -2.1),  # basal
    ]
)
T_DELAY_S = np.array((0.014, -0.015, -0.010, 0.003, 0.000, 0.007, -0.001, 0.009))
ST_MOMENT = np.array(
    [
        (0.4, 0.0, 0.9),  # septal
        (1.3, -0.3, 1.7),  # rv
        (-0.3, -0.2, 1.6),  # anterior
        (-0.5, 0.3, -0.3),  # apical
        (0.0, 0.3, 0.1),  # lateral
        (0.3, 0.2, 0.3),  # high_lateral
        (0.3, 0.5, 0.2),  # inferior
        (0.5, 0.5, 0.1),  # basal
    ]
)
P_MOMENT = np.array([(4.0, 12.0, 3.5), (11.0, 5.0, -4.0)])
P_DELAY_S = np.array((-0.014, 0.016))


def rotations(degrees: np.ndarray) -> np.ndarray:
    """Return rotation matrices (b, 3, 3) for turns (b, 3) about x, y and z, in that order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(degrees)).T, np.sin(np.deg2rad(degrees)).T
    rows = (
        (cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz),
        (cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz),
        (-sy, sx * cy, cx * cy),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def turned(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return ``vectors`` (b, s, 3) or (s, 3) turned by ``rotation`` (b, 3, 3)."""
    # A written-out sum: unlike a matrix product it rounds the same in a batch of any size.
    v = np.broadcast_to(vectors, (len(rotation), *vectors.shape[-2:]))
    return np.stack([sum(rotation[:, None, i, j] * v[:, :, j] for j in range(3)) for i in range(3)], axis=-1)


def potentials(electrodes: np.ndarray, places: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return the potential (b, electrodes, sources) of each dipole at each electrode, in mV for moments in mV cm^2.

    Parameters
    ----------
    electrodes
        (b, 9, 3) in cm.
    places, moments
        (b, s, 3).
    """
    way = electrodes[:, :, None, :] - places[:, None, :, :]
    squared = way[..., 0] ** 2 + way[..., 1] ** 2 + way[..., 2] ** 2
    along = (
        way[..., 0] * moments[:, None, :, 0]
        + way[..., 1] * moments[:, None, :, 1]
        + way[..., 2] * moments[:, None, :, 2]
    )
    return along / (squared * np.sqrt(squared))


def leads_of(electrode_mV: np.ndarray) -> np.ndarray:
    """Return the eight independent leads I, II, V1-V6 (b, 8, ...) of potentials (b, 9, ...) in ELECTRODES order."""
    ra, la, ll = electrode_mV[:, 0:1], electrode_mV[:, 1:2], electrode_mV[:, 2:3]
    wilson = (ra + la + ll) / 3
    return np.concatenate([la - ra, ll - ra, electrode_mV[:, 3:] - wilson], axis=1)
