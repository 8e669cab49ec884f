"""What scoring a record costs, and how near that is to what the processor can do.

    python -m tests.benchmarks.bench_scoring [--device cpu|cuda] [--rounds R] [--json OUT]

Needs no Ray. Side by side in every round, with the bundle that ships, on one core or on a GPU:

- folded: the network as a run computes it (`MSAICNet.for_scoring`);
- as trained: the same network in plain PyTorch, in evaluation and inference mode;
- folded in bfloat16; on a GPU also as a CUDA graph;
- ONNX Runtime and OpenVINO on an export of the network as trained, where these are installed (no dependency of the project);
- a matrix product of 1024 x 1024 in float32: the rate that "share of the machine" means;
- the dilated convolutions alone, in the layout that the run gives them.

On a GPU also the roofline (Williams, Waterman, Patterson, CACM 2009; 52:65): a record cannot take less than its FLOP at the
rate of a matrix product, nor than the bytes that its operators read and write at that of a copy, nor than its samples at that
of a copy from pinned memory; and how long the GPU is busy while a run's own lanes score a stream of records.

No time counts without its logits: the largest difference from the network as trained stands beside each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from screening.model.bundle import PRETRAINED, load_bundle
from screening.model.classifier import Classifier, count_flop
from screening.model.folded import FoldedMSAIC
from screening.model.lanes import lanes_for, logits_through
from screening.run.fingerprint import CPU_BATCH, GPU_BATCH
from screening.run.stages import keep_freed_memory
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SAMPLES = 1000
PRODUCT = 1024
REPEATS = 5
"""Of each contender in a round; the fastest counts, because others use the machine too."""

Work = Callable[[], object]


def seconds(work: Work, device: str) -> float:
    """Return the shortest time of several that ``work`` takes: of the processor, or of the GPU."""
    best = float("inf")
    for _ in range(REPEATS):
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()  # type: ignore[no-untyped-call]
            work()
            end.record()  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            best = min(best, begin.elapsed_time(end) / 1000)  # type: ignore[no-untyped-call]
        else:
            begun = time.process_time()
            work()
            best = min(best, time.process_time() - begun)
    return best


def convolutions(folded: FoldedMSAIC, x: Tensor) -> tuple[Work, float]:
    """Return a function that runs every dilated convolution of the branches once, and the FLOP that takes."""
    t = -(-SAMPLES // folded.config.stem_stride)
    blocks = [block for branch in folded.branches for block in branch.children()]
    width = blocks[0].weight.shape[0]
    maps = torch.randn(len(x), width, 1, t, device=x.device, dtype=x.dtype).contiguous(
        memory_format=torch.channels_last
    )

    def run() -> None:
        for block in blocks:
            functional.conv2d(
                maps,
                block.weight,
                block.bias,
                padding=(0, block.padding),
                dilation=(1, block.dilation),
                groups=folded.leads,
            )

    each = 2.0 * width * block_inputs(blocks[0].weight) * t * len(x)
    return run, each * len(blocks)


def block_inputs(weight: Tensor) -> int:
    """Return how many numbers a convolution reads for each that it writes."""
    return int(weight[0].numel())


def exported(network: Classifier, x: Tensor, folder: Path) -> dict[str, Work]:
    """Return ONNX Runtime and OpenVINO on an export of the network, on one thread, as far as they are installed."""
    if not (find_spec("onnx") and (find_spec("onnxruntime") or find_spec("openvino"))):
        return {}
    path, shown = folder / "network.onnx", x.cpu().numpy()
    torch.onnx.export(network, (x.cpu(),), str(path), input_names=["x"], output_names=["logit"], dynamo=False)
    found: dict[str, Work] = {}
    if find_spec("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found["ONNX Runtime"] = lambda: session.run(None, {"x": shown})[0]
    if find_spec("openvino"):
        import openvino

        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        found["OpenVINO"] = lambda: compiled([shown])[0]
    return found


def graphed(network: Classifier, x: Tensor) -> Work:
    """Return a replay of a CUDA graph of one batch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logit = network(x)

    def replay() -> Tensor:
        graph.replay()  # type: ignore[no-untyped-call]
        return logit

    return replay


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write while it is entered; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count."""
        found = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        is_view = bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write
        if not is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


def traffic_of(network: Classifier, x: Tensor) -> int:
    """Return the bytes that a batch moves between operators, weights among them."""
    with Traffic() as traffic:
        network(x)
    return traffic.bytes


def roofline(
    network: Classifier, x: Tensor, flop: float, product: float, taken: float
) -> tuple[list[Row], dict[str, Any]]:
    """Compare a batch's time on a GPU with the least that its FLOP, its bytes and its samples would take.

    ``flop`` is that of the batch, ``product`` the rate of a matrix product, ``taken`` the seconds of the batch as a CUDA graph.
    """
    moved = traffic_of(network, x)
    large = torch.empty(2**28, dtype=torch.uint8, device=x.device)
    there = torch.empty_like(large)
    bandwidth = 2 * large.numel() / seconds(lambda: there.copy_(large), "cuda")
    pinned = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    upload = seconds(lambda: x.copy_(pinned, non_blocking=True), "cuda")
    least = {"FLOP": flop / product, "bytes": moved / bandwidth, "upload": upload}
    limit = max(least, key=lambda name: least[name])

    stream = [row.numpy() for row in x.cpu()] * 64
    through = logits_through(lanes_for(network, (len(x), *x.shape[1:]), "cuda"), len(x))  # type: ignore[arg-type]
    list(through(stream))
    begun = time.perf_counter()
    list(through(stream))
    streamed = time.perf_counter() - begun
    batch = len(x)
    each = ", ".join(f"{name} {1e6 * one / batch:.2f} us" for name, one in least.items())
    rows = [
        Row(
            "roofline / a batch as a CUDA graph, seconds a record",
            spread([least[limit] / taken]),
            f"{1e6 * taken / batch:.2f} us",
            f"{each}; {flop / batch / 1e6:.0f} MFLOP and {moved / batch / 1e6:.2f} MB a record, {bandwidth / 1e9:.0f} GB/s",
            f"{limit}, and kernels too small to fill the GPU",
            ">= 0.5",
        ),
        Row(
            "time that the GPU computes / time of a stream through a run's lanes",
            spread([taken * 64 / streamed]),
            f"{batch * 64 / streamed:.0f} records/s",
            f"{batch / taken:.0f} records/s",
            "stacking of signals by one core, and copies",
            ">= 0.9",
        ),
    ]
    return rows, {"least_seconds": least, "bytes_a_record": moved / batch, "streamed_s": streamed}


def measure(*, device: str = "cpu", batch: int | None = None, rounds: int = 5) -> Report:
    """Time all contenders in turns."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the run's workers do
    batch = batch or (GPU_BATCH if device == "cuda" else CPU_BATCH)
    bundle = load_bundle(PRETRAINED)
    network = bundle.network(device)
    folded = network.for_scoring()
    assert isinstance(folded, FoldedMSAIC)
    x = torch.from_numpy(np.resize(bundle.golden()["x"], (batch, 12, SAMPLES))).to(device)
    low, x_low = bundle.network(device).for_scoring().to(torch.bfloat16), x.to(torch.bfloat16)
    a = torch.randn(PRODUCT, PRODUCT, device=device)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        alone, flop_alone = convolutions(folded, x)
        works: dict[str, Work] = {
            "folded": lambda: folded(x),
            "as trained": lambda: network(x),
            "folded, bfloat16": lambda: low(x_low),
            **exported(network, x, Path(folder)),
        }
        if device == "cuda":
            works |= {"folded, CUDA graph": graphed(folded, x), "folded, bfloat16, CUDA graph": graphed(low, x_low)}
        expected = network(x).float().cpu().numpy()
        differences = {
            name: float(np.abs(np.asarray(torch.as_tensor(work()).float().cpu()).reshape(-1) - expected).max())
            for name, work in works.items()
        }
        limits: dict[str, Work] = {"product": lambda: a @ a, "convolutions alone": alone}
        found: dict[str, list[float]] = {name: [] for name in (*works, *limits)}
        for turn in range(rounds + 1):
            for name, work in (works | limits).items():
                taken = seconds(work, device)
                if turn:  # the first round makes ready
                    found[name].append(taken)
    flop = count_flop(bundle.network(), SAMPLES) * batch
    product = [2.0 * PRODUCT**3 / one for one in found["product"]]
    where = "GPU" if device == "cuda" else "core"
    rows = [
        Row(
            f"{name} / folded, seconds a record ({where}, batches of {batch})",
            spread(theirs / ours for theirs, ours in zip(found[name], found["folded"], strict=True)),
            f"{spread(1e3 * one / batch for one in found['folded'])} ms",
            f"{spread(1e3 * one / batch for one in found[name])} ms, logits {differences[name]:.1g} apart",
            "the convolutions, which are three quarters of it" if device == "cpu" else "launches and memory",
        )
        for name in works
        if name != "folded"
    ]
    share = [flop / one / of for one, of in zip(found["folded"], product, strict=True)]
    best = [flop_alone / one / of for one, of in zip(found["convolutions alone"], product, strict=True)]
    rate = f"{spread(one / 1e9 for one in product)} GFLOP/s"
    rows += [
        Row(
            "rate of the convolutions / rate of a matrix product",
            spread(best),
            f"{spread(flop_alone / one / 1e9 for one in found['convolutions alone'])} GFLOP/s",
            rate,
            "the multipliers of the core" if device == "cpu" else "few channels",
            ">= 0.8",
        ),
        Row(
            "rate of the whole network / rate of a matrix product",
            spread(share),
            f"{flop / batch / 1e6:.0f} MFLOP a record",
            rate,
            "what is done element by element, which counts no FLOP",
        ),
    ]
    figures = {"batch": batch, "flop_a_record": flop / batch, "seconds": found, "logits_apart": differences}
    if device == "cuda":
        with torch.inference_mode():
            of_roofline, more = roofline(folded, x, flop, max(product), min(found["folded, CUDA graph"]))
        rows += of_roofline
        figures |= {"roofline": more}
    return Report(f"scoring on {where}", tuple(rows), figures)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="default: that of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("Error: there is no GPU here")
    where = machine()
    report = measure(device=options.device, batch=options.batch, rounds=options.rounds)
    print(show(report.rows))
    print(json.dumps(report.figures["logits_apart"]), file=sys.stderr)
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
