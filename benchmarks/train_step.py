"""How long a training step of DeepLab-LargeFOV takes, and how much memory, against plain torch.

python benchmarks/train_step.py [--width N] [--batch 2] [--size 321] [--threads N] [--runs N]

The released train and solver prototxt in our `Solver`, against the same network written with
`nn.Conv2d` and trained by `torch.optim.SGD` with the same rates and decays: forward, backward and
update. Dropout is left out of both, so that the losses can be held against each other first, over
three steps. Then in turns in one process, with all instructions of the processor and once more
with those up to AVX2, ours and torch's alike; the memory of each in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _timing import arguments, compare, parse, process_peak, write_json
from torch import Tensor, nn
from torch.backends.cpu import get_cpu_capability

from deeplab_repro.models import write_network
from deeplab_repro.native.backends import instruction_set
from deeplab_repro.train import Solver

MB = 1e6
CLASSES = 21
LR, MOMENTUM, DECAY = 0.0001, 0.9, 0.0005
#: Caps our kernels, torch's own and those of oneDNN.
AVX2 = {
    "DEEPLAB_REPRO_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
VGG = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512))


class Fixed:
    """A feed that gives one batch again and again."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def next(self) -> dict[str, Tensor]:
        """The batch."""
        return self.batch

    def seek(self, batches: int) -> None:
        """Every batch is the same."""

    def close(self) -> None:
        """There is nothing to give back."""


def make_batch(batch: int, size: int) -> dict[str, Tensor]:
    """A batch as ImageSegData gives it, with void pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (batch, 1, size, size), generator=generator).float()
    labels[:, :, :20] = 255
    return {
        "data": torch.randn(batch, 3, size, size, generator=generator),
        "label": labels,
        "data_dim": torch.full((batch, 1, 1, 2), float(size)),
    }


def ours(folder: Path, batch: dict[str, Tensor], width: int) -> Solver:
    """The released solver on the released train net."""
    items, _, size, _ = batch["data"].shape
    text = write_network("largefov", "TRAIN", batch=items, width=width, input_size=size)
    net = folder / "train.prototxt"
    net.write_text(text.replace("dropout_ratio: 0.5", "dropout_ratio: 0"))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "{net}"\nbase_lr: {LR}\nmomentum: {MOMENTUM}\nweight_decay: {DECAY}\n'
        'lr_policy: "fixed"\nmax_iter: 100000\nsnapshot: 0\nsnapshot_after_train: false\n'
        "solver_mode: CPU\nrandom_seed: 1\n"
    )
    made = Solver(solver, feeds=lambda *_, **__: Fixed(batch))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, blobs in made.net.params.items():
            weight = blobs[0]
            # Small scores: Caffe's loss ends at -log of the smallest float, torch's does not.
            deviation = 1e-2 if name == "fc8_voc12" else (2 / weight[0].numel()) ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
            blobs[1].zero_()
    return made


class Plain(nn.Sequential):
    """LargeFOV as one would write it in torch; at sides of 8k + 1 Caffe's sizes are torch's."""

    def __init__(self, width: int) -> None:
        layers: dict[str, nn.Module] = {}
        channels = 3
        for stage, count, out in VGG:
            rate = 2 if stage == 5 else 1
            for i in range(1, count + 1):
                layers[f"conv{stage}_{i}"] = nn.Conv2d(
                    channels, out // width, 3, padding=rate, dilation=rate
                )
                layers[f"relu{stage}_{i}"] = nn.ReLU(inplace=True)
                channels = out // width
            layers[f"pool{stage}"] = nn.MaxPool2d(3, 2 if stage < 4 else 1, 1)
        layers["pool5a"] = nn.AvgPool2d(3, 1, 1)
        layers["fc6"] = nn.Conv2d(channels, 1024 // width, 3, padding=12, dilation=12)
        layers["relu6"] = nn.ReLU(inplace=True)
        layers["fc7"] = nn.Conv2d(1024 // width, 1024 // width, 1)
        layers["relu7"] = nn.ReLU(inplace=True)
        layers["fc8_voc12"] = nn.Conv2d(1024 // width, CLASSES, 1)
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def plain(solver: Solver, batch: dict[str, Tensor], width: int) -> Callable[[], Tensor]:
    """The peer's step, from the same weights."""
    net = Plain(width)
    groups = []
    with torch.no_grad():
        for name, module in net.named_children():
            if isinstance(module, nn.Conv2d):
                weight, bias = solver.net.params[name]
                module.weight.copy_(weight)
                module.bias.copy_(bias.reshape(-1))
                tenfold = 10 if name == "fc8_voc12" else 1
                groups += [
                    {"params": [module.weight], "lr": LR * tenfold, "weight_decay": DECAY},
                    {"params": [module.bias], "lr": 2 * LR * tenfold, "weight_decay": 0},
                ]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    labels = batch["label"][:, 0, ::8, ::8].long()

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batch["data"]), labels, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def peak(which: str, options: Namespace) -> float:
    """Megabytes at the highest point of this process, which takes two steps."""
    batch = make_batch(options.batch, options.size)
    with tempfile.TemporaryDirectory() as name:
        solver = ours(Path(name), batch, options.width)
        if which == "ours":
            solver.step(2)
        else:
            peer = plain(solver, batch, options.width)
            del solver
            peer()
            peer()
    return process_peak() / MB


def race(options: Namespace) -> dict[str, Any]:
    """Both agree over three steps; then how long a step of each takes, in turns."""
    batch = make_batch(options.batch, options.size)
    with tempfile.TemporaryDirectory() as name:
        solver = ours(Path(name), batch, options.width)
        peer = plain(solver, batch, options.width)
        for number in range(3):
            solver.step(1)
            theirs = float(peer())
            off = abs(solver.loss - theirs) / theirs
            if off > 1e-4:
                raise SystemExit(f"step {number}: our loss is {solver.loss}, torch's {theirs}")
        timings = compare({"ours": lambda: solver.step(1), "torch": peer}, runs=options.runs)
    return {
        "instructions": {"ours": instruction_set(), "torch": get_cpu_capability()},
        "seconds": {which: vars(timing) for which, timing in timings.items()},
        "torch_over_ours": timings["torch"].median / timings["ours"].median,
        "rel_of_third_loss": off,
    }


def child(task: str, options: Namespace, environment: dict[str, str]) -> Any:
    """What a process of its own, with these variables, finds."""
    command = [sys.executable, __file__, "--child", task]
    for name in ("width", "batch", "size", "threads", "runs"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment}
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=1, help="divides the channels: a quick try")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=321)
    parser.add_argument("--child", choices=("ours", "torch", "race"), help=SUPPRESS)
    parser.set_defaults(runs=5)
    options = parse(parser)
    if options.child:
        found = race(options) if options.child == "race" else peak(options.child, options)
        print(json.dumps(found))
        return
    peaks = {which: child(which, options, {}) for which in ("ours", "torch")}
    print(f"peak: ours {peaks['ours']:.0f} MB, torch {peaks['torch']:.0f} MB")
    results = []
    for environment in ({}, AVX2):
        result = child("race", options, environment)
        medians = {which: timing["median"] for which, timing in result["seconds"].items()}
        print(
            f"a step of batch {options.batch} at {options.size}, {result['instructions']['torch']}:"
            f" ours {medians['ours']:.2f} s, torch {medians['torch']:.2f} s"
            f" ({result['torch_over_ours']:.2f} times as long)"
        )
        case = {"case": f"largefov@{options.size}", "batch": options.batch, "peak_mb": peaks}
        results.append({**case, **result})
    print(write_json(options.json, "train_step", results))


if __name__ == "__main__":
    main()
