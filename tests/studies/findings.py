"""How often each sign of infarction is found where readers state one, and where they state a normal ECG.

    python -m tests.studies.findings CATALOG [--records N]

A labelled catalog of PTB-XL is needed. No network is asked: what counts is whether the measured amplitudes meet the criteria of
`screening.attribution.findings`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np

from screening.attribution.beats import delineate
from screening.attribution.findings import find
from screening.attribution.measurements import measure
from screening.signal.preprocess import Preprocessing
from screening.train.data import load_training_set

ANTERIOR, INFERIOR = {"AMI", "ASMI", "ALMI"}, {"IMI", "ILMI", "IPMI", "IPLMI"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalog")
    parser.add_argument("--records", type=int, default=130, help="of each group, at most [130]")
    options = parser.parse_args()
    settings = Preprocessing()
    data = load_training_set(options.catalog, settings)
    codes = [set(statements) for statements in data.statements]
    groups: dict[str, Callable[[int], bool]] = {
        "NORM": lambda at: data.label[at] == "NORM",
        "inferior": lambda at: bool(codes[at] & INFERIOR) and not codes[at] & ANTERIOR,
        "anterior": lambda at: bool(codes[at] & ANTERIOR) and not codes[at] & INFERIOR,
    }
    shares: dict[str, dict[tuple[str, str], float]] = {}
    for name, belongs in groups.items():
        places = np.random.default_rng(0).permutation([at for at in range(len(data)) if belongs(at)])[: options.records]
        counted: Counter[tuple[str, str]] = Counter()
        for at in places.tolist():
            beats = delineate(data.signals_mV[at], settings.rate_hz)
            measured = measure(data.signals_mV[at], settings.rate_hz, beats)
            if measured is not None:
                age = None if np.isnan(data.age[at]) else float(data.age[at])
                counted.update({(one.sign, one.territory) for one in find(measured, sex=data.sex[at], age=age)})
        shares[f"{name} ({len(places)})"] = {sign: count / len(places) for sign, count in counted.items()}
    print(f"{'sign':<20}{'territory':<10}" + "".join(f"{name:>16}" for name in shares))
    for sign, territory in sorted({key for of in shares.values() for key in of}):
        print(
            f"{sign:<20}{territory:<10}" + "".join(f"{of.get((sign, territory), 0):>16.2f}" for of in shares.values())
        )


if __name__ == "__main__":
    main()
