"""``screening`` with its decoders in processes of their own, as where scorers have GPUs, and slow enough to be killed at work.

On CPUs alone Ray Data puts decoding into the scorers' processes, because both ask for the same; here they do not.
"""

from __future__ import annotations

import time

import pyarrow as pa

import screening.run.engine as engine
from screening.cli import program
from screening.run.worker import Source, decode_block


def slowly(source: Source, shard: int) -> list[pa.Table]:
    """Decode a shard as `decode_block` does, half a second later."""
    time.sleep(0.5)
    return decode_block(source, shard)


if __name__ == "__main__":
    engine.DECODER_CPUS = 0.4
    engine.decode_block = slowly  # type: ignore[attr-defined]
    program()
