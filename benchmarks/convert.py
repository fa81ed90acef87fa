"""How long `deeplab-repro convert` takes on the largest released model, and how much memory.

python benchmarks/convert.py [--width 1] [--runs N] [--json FILE]

Makes what Caffe would have saved for the three-scale ResNet-101: 528 MB, every layer with its
parameters and blobs, those of the three copies included, serialized by the protobuf library. Then
times conversions of it in processes of their own, and holds the weights in the outputs against the
ones that were written, bit for bit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from _timing import arguments, machine, parse, write_json
from rich.console import Console
from rich.table import Table

from deeplab_repro.models import write_network
from prototxt_import import Net, infer_net, parse_net, read_weights
from prototxt_import.schema import message_class

MB = 1e6
# Runs a command and tells its seconds and the peak of its memory. The peak of "all children" is
# that of one command only in a process that has run no other.
_WRAPPER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"code": done.returncode, "seconds": seconds, "peak_mb": peak / 1e6}))
"""
_CONVERT = "import sys; from deeplab_repro.cli import main; sys.exit(main())"
_READ = "import sys; from prototxt_import import read_weights; read_weights(sys.argv[1])"


def layers_with_weights(net: Net) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Layer by layer, the same random numbers each time; copies of a shared parameter are equal."""
    first_owner: dict[str, tuple[int, int]] = {}
    for number, item in enumerate(infer_net(net).layers):
        blobs = []
        for i, shape in enumerate(item.shapes.params):
            name = item.layer.blobs[i].share_name
            seed = first_owner.setdefault(name, (number, i)) if name else (number, i)
            values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
            blobs.append(values)
        yield item.layer.name, blobs


def make_caffemodel(path: Path, net: Net) -> None:
    """Serialize layer after layer: concatenated messages are one message to protobuf."""
    container, blob_class = (message_class("dl2", n) for n in ("NetParameter", "BlobProto"))
    messages = {message.name: message for message in net.raw.layers}  # type: ignore[attr-defined]
    with path.open("wb") as file:
        file.write(net.raw.header.SerializeToString())
        for name, blobs in layers_with_weights(net):
            whole = container()
            layer = whole.layer.add()  # type: ignore[attr-defined]
            layer.CopyFrom(messages[name])
            layer.phase = 1  # TEST
            for values in blobs:
                blob = blob_class()
                blob.shape.dim.extend(values.shape)  # type: ignore[attr-defined]
                blob.data.extend(values.ravel())  # type: ignore[attr-defined]
                layer.blobs.append(blob)
            file.write(whole.SerializeToString())


def run(*command: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _WRAPPER, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    result = json.loads(done.stdout)
    if result.pop("code"):
        raise SystemExit(f"failed: {' '.join(command)}")
    return result


def same_bits(net: Net, path: Path) -> int:
    """Compare every blob that must be in `path`; the number of values compared."""
    compared = 0
    if path.name.endswith(".h5"):
        with h5py.File(path) as file:
            for name, blobs in layers_with_weights(net):
                for i, values in enumerate(blobs):
                    compared += equal(values, file["data"][name][str(i)][()], f"{path}: {name} {i}")
        return compared
    written = read_weights(path)
    shared_once = path.suffix == ".safetensors"
    for name, blobs in layers_with_weights(net):
        if name not in written and shared_once and name.endswith(("_res05", "_res075")):
            continue
        for i, values in enumerate(blobs):
            compared += equal(values, written[name][i], f"{path}: {name} {i}")
    return compared


def equal(ours: np.ndarray, theirs: np.ndarray, where: str) -> int:
    if ours.shape != theirs.shape or ours.tobytes() != theirs.tobytes():
        raise SystemExit(f"{where}: not the weights that were written")
    return ours.size


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=1, help="divides the channels: a quick try")
    parser.set_defaults(runs=3)
    options = parse(parser)
    net = parse_net(write_network("resnet101-msc-aspp", width=options.width))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "resnet101.caffemodel")
        start = time.perf_counter()
        make_caffemodel(model, net)
        size = model.stat().st_size / MB
        Console().print(f"{size:.0f} MB made in {time.perf_counter() - start:.0f} s")
        results = [
            dict(task="read_weights", file_mb=size, **timed(options.runs, _READ, str(model)))
        ]
        for ending in (".safetensors", ".caffemodel.h5", ".caffemodel"):
            out = Path(folder, "out" + ending)
            measured = timed(options.runs, _CONVERT, "convert", str(model), "-o", str(out))
            values = same_bits(net, out)
            written = out.stat().st_size / MB
            results.append(
                dict(task="convert to " + ending, file_mb=size, out_mb=written, **measured)
            )
            results[-1]["values_equal_bit_for_bit"] = values
            out.unlink()
    show(results)
    print(write_json(options.json, "convert", results))


def timed(runs: int, code: str, *command: str) -> dict[str, Any]:
    """Median seconds, and the largest peak, of a Python command line."""
    done = [run(sys.executable, "-c", code, *command) for _ in range(runs)]
    seconds = sorted(r["seconds"] for r in done)
    return {
        "seconds": seconds[len(seconds) // 2],
        "all_seconds": seconds,
        "peak_mb": max(r["peak_mb"] for r in done),
    }


def show(results: list[dict[str, Any]]) -> None:
    table = Table(
        title=f"Three-scale ResNet-101, {results[0]['file_mb']:.0f} MB; {machine()['cpu']}"
    )
    table.add_column("task", no_wrap=True)
    for heading in ("seconds", "MB/s", "peak MB", "peak / file", "output MB"):
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            r["task"],
            f"{r['seconds']:.2f}",
            f"{r['file_mb'] / r['seconds']:.0f}",
            f"{r['peak_mb']:.0f}",
            f"{r['peak_mb'] / r['file_mb']:.2f}",
            f"{r['out_mb']:.0f}" if "out_mb" in r else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
