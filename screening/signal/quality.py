"""What is measured of a recording's quality, when it is refused and what else is doubtful.

Everything is judged on the central 10 s, the part that is scored, whatever the length of the recording; only
``duration_s`` and ``missing_fraction`` tell of the whole. The measures come from one Fourier transform a record. Each
record is computed by operations of its own shape only, so its values do not depend on the batch it travels in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import fft

from screening.contract import DERIVED_LEADS, LEADS, Reason

JUDGED_S = 10.0


def _measure(signal: np.ndarray, rate_hz: float) -> dict[str, np.ndarray]:
    n = fft.prev_fast_len(signal.shape[1], real=True)
    spectrum = fft.rfft(signal[:, :n] - signal[:, :n].mean(1, keepdims=True))
    step_hz = rate_hz / n
    def at(hz): return min(int(np.ceil(hz / step_hz)), spectrum.shape[1])
    def rms(lo, hi):
        part = spectrum[:, at(lo):at(hi)]
        return np.sqrt(2 * (part.real**2 + part.imag**2).sum(1)) / n
    out = {}
    out['baseline'] = rms(step_hz/2, .5)
    m = []
    for f in (50, 60):
        inn = rms(f-.5, f+.5)**2; nb = (rms(f-3, f-1)**2+rms(f+1, f+3)**2)/4
        m.append(np.maximum(inn-nb, 0))
    out['mains'] = np.sqrt(np.maximum(*m))
    T = n / rate_hz
    k = at(40.); m100 = fft.next_fast_len(max(2*k, round(100*T)), real=True)
    low = fft.irfft(spectrum[:, :k], m100) * (m100 / n)
    k2 = at(125.); hs = spectrum[:, :k2].copy(); hs[:, :k] = 0
    for f in (50, 60, 100, 120): hs[:, at(f-1):at(f+1)] = 0
    m250 = fft.next_fast_len(max(2*k2, round(250*T)), real=True)
    high = fft.irfft(hs, m250) * (m250/n)
    nb = max(1, int(T/0.1)); L = m250//nb
    seg = high[:, :nb*L].reshape(12, nb, L)
    out['noise'] = np.sqrt(np.median((seg**2).mean(2), 1))
    out['noise_all'] = np.sqrt((high**2).mean(1))
    b = max(1, int(T/0.2)); L = m100//b
    seg = low[:, :b*L].reshape(12, b, L); hi = seg.max(2); lo = seg.min(2)
    w = min(10, b)
    H = np.lib.stride_tricks.sliding_window_view(hi, w, axis=1).max(2); Lo = np.lib.stride_tricks.sliding_window_view(lo, w, axis=1).min(2)
    P = H-Lo
    out['ptp_med'] = np.median(P[:, ::w], 1); out['ptp_min'] = P.min(1); out['P']=P
    i, ii = low[0], low[1]
    out['ein'] = np.array([np.std(low[LEADS.index(k)] - a*i - c*ii) for k, (a, c) in DERIVED_LEADS.items()])
    out['limb'] = low[:6].std(1)
    raw=signal
    mx=raw.max(1,keepdims=True); mn=raw.min(1,keepdims=True)
    eq=(raw==mx)|(raw==mn); kk=max(3,int(round(.02*rate_hz)))
    run=eq
    r=np.lib.stride_tricks.sliding_window_view(eq,kk,axis=1).all(2)
    out['clip']=r.mean(1)
    blk=max(1,int(.2*rate_hz)); q=raw[:, :raw.shape[1]//blk*blk].reshape(12,-1,blk)
    out['rawflat']=((q.max(2)-q.min(2))==0).mean(1)
    def gram(lo, hi):
        p=spectrum[:, at(lo):at(hi)]; g=(p.real@p.real.T+p.imag@p.imag.T); d=np.sqrt(np.diag(g)); return g/np.maximum(np.outer(d,d),1e-12)
    out['cq']=gram(5,40); out['ct']=gram(.8,6)
    out['low']=low
    return out
