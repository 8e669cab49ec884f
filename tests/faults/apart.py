"""``screening`` with its decoders in processes of their own, as where scorers have GPUs.

On CPUs alone Ray Data puts decoding into the scorers' processes, because both ask for the same; here they do not.
"""

from __future__ import annotations

import screening.run.pipeline as pipeline
from screening.cli import main

if __name__ == "__main__":
    pipeline.DECODER_CPUS = 0.4
    main()
