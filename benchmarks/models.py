"""How large every network of the family is, and how much it computes.

python benchmarks/models.py        writes results/models.json, and the table of README.md from it
python benchmarks/models.py --table        the table alone

Nothing is timed: the numbers are those of the networks at 21 labels, on a device without memory.
Multiply-adds are those of all convolutions for one picture of VOC's test crop, on the padding, too,
with three passes for the networks that look at three scales.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deeplab_repro.models import NETWORKS, create_model
from deeplab_repro.models.v3.catalogue import NETWORKS_V3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.released.manifest import read_manifest
from deeplab_repro.released.models import CaffeModel, TensorFlowModel

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results" / "models.json"
_BLOCK = re.compile(r"(?<=<!-- models -->\n).*(?=<!-- /models -->)", re.DOTALL)
#: The crop of VOC 2012 where a network's table states none.
CROP = 513
#: What the papers state of networks whose weights were not released, on VOC 2012 val.
PAPERS = {
    "deeplab_v3_resnet101": "79.77 (OS 8, scales)",
    "deeplab_v3_resnet101_cascade": "79.35 (OS 8, scales)",
}


def measured(name: str, side: int = CROP, **options: Any) -> dict[str, int]:
    """Parameters (learned values), and multiply-adds for one picture."""
    net = create_model(name, device="meta", **options).eval()
    total = 0

    def count(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += output.numel() // weight.shape[0] * weight.numel()

    for module in net.modules():
        # Convolutions of all kinds: ours, torch's and those of Caffe's layers.
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.dim() == 4:  # type: ignore[union-attr,operator]
            module.register_forward_hook(count)
    with torch.inference_mode():
        net(torch.empty(1, 3, side, side, device="meta"))
    return {"parameters": sum(p.numel() for p in net.parameters()), "multiply_adds": total}


def measure() -> dict[str, Any]:
    """All networks by their full names."""
    found: dict[str, Any] = {}
    for network in NETWORKS.values():
        side = network.test_size
        found[network.full_name] = {"side": side, **measured(network.full_name, side)}
    for name in NETWORKS_V3:
        found[name] = {"side": CROP, **measured(name)}
    return found


def table() -> str:
    """The table of README.md."""
    sizes = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "| network | parameters | multiply-adds | mean IoU, as published | how to reproduce it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, scores, command in [*_of_caffe(), *_of_tensorflow()]:
        size = sizes[name]
        lines.append(
            f"| `{name}` | {size['parameters'] / 1e6:.1f} M | {size['multiply_adds'] / 1e9:.1f} G"
            f" | {scores or '-'} | {command} |"
        )
    return "\n".join(lines)


def _of_caffe() -> Iterator[tuple[str, str, str]]:
    released = {
        model.network: model
        for model in read_manifest().models.values()
        if isinstance(model, CaffeModel)
    }
    for short, network in NETWORKS.items():
        model = released.get(short)
        words = re.sub(r"arXiv [\d.]+", "", network.paper)
        numbers = re.findall(r"\d\d\.\d+(?: with CRF)?", words)
        scores = ", ".join(numbers) + (" (test)" if "test" in words else "")
        command = f"`networks write {short} --train --solver`, `train`"
        if model is not None:
            command = f"`reproduce {model.name}`"
        yield network.full_name, scores, command


def _of_tensorflow() -> Iterator[tuple[str, str, str]]:
    models = [
        model
        for model in read_manifest().models.values()
        if isinstance(model, TensorFlowModel) and model.scores
    ]
    for name in NETWORKS_V3:
        own = [model for model in models if _is_of(model, name)]
        scores = [_scores(model) for model in own]
        if name in PAPERS:
            scores.append(f"VOC 2012: {PAPERS[name]}")
        commands = [f"`{_command(model)}`" for model in own]
        train = "`train --flagfile` (docs/training.md)"
        yield name, "; ".join(scores), ", ".join(commands) or train


def _is_of(model: TensorFlowModel, name: str) -> bool:
    """Whether a checkpoint is one of a network of the catalogue, whatever its labels and width."""
    if model.options is None:
        return False
    have = ModelOptions.from_case(model.options_for())
    same: dict[str, Any] = {
        field: getattr(have, field)
        for field in ("crop_size", "image_pooling_crop_size", "image_pooling_stride")
    }
    want = NETWORKS_V3[name].options(have.num_classes, depth_multiplier=have.depth_multiplier)
    return replace(want, **same) == have


def _scores(model: TensorFlowModel) -> str:
    data = {"voc2012": "VOC 2012", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}[model.data]
    width = (model.options or {}).get("depth_multiplier", 1.0)
    words = f"{data}{' test' if model.default.use == 'test' else ''}"
    words += f", width {width:g}" if width != 1.0 else ""
    numbers = ", ".join(
        f"{score.miou:.2f} (OS {score.output_stride}{', scales' if score.flip else ''})"
        for score in model.scores
    )
    return f"{words}: {numbers}"


def _command(model: TensorFlowModel) -> str:
    verb = "reproduce" if model.data == "voc2012" else "weights fetch"
    return f"{verb} {model.name}"


def filled(page: str) -> str:
    """The page with its table made anew."""
    return _BLOCK.sub(lambda _: "\n" + table() + "\n\n", page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="take the numbers that are there")
    if not parser.parse_args().table:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
