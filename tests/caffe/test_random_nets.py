"""Networks of chance, every blob and every gradient against the numpy oracles.

The oracles know single layers.  What is put together here is what a net adds: values that in-place
layers overwrite, memory that Flatten, Reshape and Split share, diffs that come together where
several layers read a blob.  All of it is said again in numpy: a blob is an array, a shared one a
view, and an in-place layer writes into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import tests.caffe.layers.oracles_losses
import tests.caffe.layers.oracles_windows  # noqa: F401
from deeplab_repro import load_caffe
from deeplab_repro.parity.agreement import agreement
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net
from prototxt_import.layers import KINDS
from tests.caffe.layers.oracle_cases import Case
from tests.caffe.layers.oracles import ORACLES, Array, Backward, Call
from tests.caffe.layers.test_oracles import input_text, layer_text

#: Layers over one blob of four axes: type -> how its parameters are drawn.
_WINDOWS = ("Convolution", "Deconvolution", "Pooling", "Interp", "Padding", "Im2col")
_PLAIN = ("AbsVal", "BNLL", "Dropout", "ELU", "Sigmoid", "TanH", "ReLU", "PReLU", "Swish", "Power",
          "Exp", "LRN", "MVN", "BatchNorm", "Scale", "Bias", "Softmax", "Tile")  # fmt: skip
_JOINING = ("Eltwise", "Concat", "Crop")
_SHARING = ("Flatten", "Reshape", "Split", "Slice")
_IN_PLACE = ("ReLU", "Sigmoid", "TanH", "Power", "ELU", "Scale", "BatchNorm", "Dropout", "Bias")
#: Of the v1 fork, whose format knows no more.
_OF_2014 = frozenset({
    "AbsVal", "BNLL", "Concat", "Convolution", "Dropout", "Eltwise", "Exp", "Flatten", "Im2col",
    "InnerProduct", "Interp", "LRN", "MVN", "Padding", "Pooling", "Power", "ReLU", "Sigmoid",
    "Slice", "Softmax", "Split", "TanH",
})  # fmt: skip


@dataclass
class RandomNet:
    """A network, and what the oracles say it computes.

    Attributes:
        dialect: whose layers it is made of.
        shares: whether layers may work in place on memory that other blobs share.
        inputs: what goes in.
        blobs: every blob as it stands after the last layer so far.
        unread: blobs that no layer has read yet.
        shared: blobs whose memory is another's too.
        params: layer -> blobs.
        tape: layer, bottoms, tops, backward pass.
    """

    rng: np.random.Generator
    dialect: str
    shares: bool
    lines: list[str] = field(default_factory=list)
    inputs: dict[str, Array] = field(default_factory=dict)
    blobs: dict[str, Array] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    params: dict[str, list[Array]] = field(default_factory=dict)
    tape: list[tuple[str, list[str], list[str], Backward | None]] = field(default_factory=list)

    def input(self, name: str, shape: tuple[int, ...]) -> None:
        self.lines.append(input_text(name, shape, legacy=self.dialect == "dl1"))
        self.inputs[name] = self.rng.normal(size=shape).astype(np.float32)
        self.blobs[name] = self.inputs[name].astype(np.float64)

    def add(self, type_: str, bottoms: list[str], p: dict[str, Any], shapes: list[tuple[int, ...]],
            tops: int = 1, in_place: bool = False) -> list[str]:  # fmt: skip
        """Run the oracle of a layer and write the layer down."""
        name = f"l{len(self.tape)}"
        names = bottoms[:1] if in_place else [f"{name}_t{i}" for i in range(tops)]
        case = Case(type_, [], p, tops=tops, dialect=self.dialect)
        self.lines.append(layer_text(case, name, bottoms, names))
        values = [self.rng.uniform(0.2, 0.7, size=shape) for shape in shapes]
        if type_ in ("Convolution", "Deconvolution", "InnerProduct"):
            values = [v - 0.45 for v in values]
        values = [v.astype(np.float32).astype(np.float64) for v in values]
        if values:
            self.params[name] = values
        copies = [self.blobs[bottom].copy() for bottom in bottoms]
        results, backward = ORACLES[type_](
            Call(type_, copies, values, p, tops=tops, dialect=self.dialect)
        )
        self.tape.append((name, bottoms, names, backward))
        for top, result in zip(names, results, strict=True):
            if in_place:
                self.blobs[top][...] = result.reshape(self.blobs[top].shape)
            elif type_ in ("Flatten", "Reshape", "Split") or (type_ == "Slice" and tops == 1):
                self.blobs[top] = self.blobs[bottoms[0]].reshape(result.shape)
                self.shared |= {top, bottoms[0]}
            else:
                self.blobs[top] = np.array(result)
        self.unread -= set(bottoms)
        self.unread |= set(names)
        return names

    def diffs(self, top_diffs: dict[str, Array]) -> tuple[dict[str, Array], dict[str, list[Any]]]:
        """Diffs of the inputs and the parameters, through the tape backwards."""
        diff = dict(top_diffs)
        found: dict[str, list[Any]] = {}
        for name, bottoms, tops, backward in reversed(self.tape):
            assert backward is not None
            into = [diff.pop(top, np.zeros(self.blobs[top].shape)) for top in tops]
            bottom_diffs, found[name] = backward(into)
            for bottom, part in zip(bottoms, bottom_diffs, strict=True):
                if part is not None:
                    diff[bottom] = diff.get(bottom, 0) + np.asarray(part).reshape(
                        self.blobs[bottom].shape
                    )
        return diff, found


def choose(rng: np.random.Generator, names: Any) -> str:
    return str(rng.choice(sorted(names)))


def grow(net: RandomNet) -> None:
    """One layer more, of any kind, over blobs that are there."""
    rng = net.rng
    maps = [name for name, value in net.blobs.items() if value.ndim == 4]
    bottom = choose(rng, maps[-3:] if rng.random() < 0.7 else maps)
    # With shared memory in question, more layers that share it and more that overwrite it.
    draw = rng.random() if not net.shares else 0.3 + 0.7 * rng.random()
    if draw < 0.3:
        window(net, bottom, choose(rng, _known(net, _WINDOWS)))
    elif draw < 0.55:
        plain(net, bottom, choose(rng, _known(net, _PLAIN)))
    elif draw < 0.7:
        join(net, bottom, choose(rng, _known(net, _JOINING)))
    elif draw < 0.85:
        # Caffe refuses an in-place layer over a blob that another layer reads too.
        candidates = [name for name in maps if name in net.unread]
        candidates = [name for name in candidates if net.shares or name not in net.shared]
        if candidates:
            plain(net, choose(rng, candidates), choose(rng, _known(net, _IN_PLACE)), in_place=True)
    else:
        share(net, bottom, choose(rng, _known(net, _SHARING)))


def _known(net: RandomNet, types: tuple[str, ...]) -> list[str]:
    if net.dialect == "dl1":
        return [t for t in types if t in _OF_2014]
    # Padding is a layer of no program of the current format.
    return [t for t in types if net.dialect in KINDS[t].kind.programs]


def window(net: RandomNet, bottom: str, type_: str) -> None:
    rng = net.rng
    channels, height, width = net.blobs[bottom].shape[1:]
    if max(height, width) > 14 or channels > 24:
        return
    if type_ == "Interp":
        form = [{"zoom_factor": 2}, {"shrink_factor": 2}, {"height": 5, "width": 7}]
        p = form[int(rng.integers(3))]
        net.add(
            type_, [bottom], {**p, "pad_beg": -int(rng.integers(0, 2)) * (height > 3 < width)}, []
        )
    elif type_ == "Padding":
        net.add(type_, [bottom], {"pad_beg": 1, "pad_end": int(rng.integers(0, 3))}, [])
    elif type_ == "Pooling":
        kernel = int(rng.integers(1, 4))
        p = {
            "pool": choose(rng, ["MAX", "AVE"]),
            "kernel_size": kernel,
            "stride": int(rng.integers(1, kernel + 1)),
            "pad": int(rng.integers(0, kernel)),
        }
        if min(height, width) + 2 * p["pad"] >= kernel:
            net.add(type_, [bottom], p, [])
    else:
        kernel, rate = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        pad = rate * (kernel - 1) // 2
        old = net.dialect == "dl1"
        p = {"kernel_size": kernel if old else [kernel], "pad": pad if old else [pad],
             "hole" if old else "dilation": rate if old else [rate]}  # fmt: skip
        if min(height, width) + 2 * pad < rate * (kernel - 1) + 1:
            return
        shapes: list[tuple[int, ...]] = []
        if type_ != "Im2col":
            outputs = int(rng.integers(1, 5))
            p |= {"num_output": outputs, "bias_term": bool(rng.integers(2))}
            pair = (channels, outputs) if type_ == "Deconvolution" else (outputs, channels)
            bias = (1, 1, 1, outputs) if old else (outputs,)
            shapes = [(*pair, kernel, kernel), bias][: 1 + p["bias_term"]]
        net.add(type_, [bottom], p, shapes)


def plain(net: RandomNet, bottom: str, type_: str, in_place: bool = False) -> None:
    rng, channels = net.rng, net.blobs[bottom].shape[1]
    p: dict[str, Any] = {}
    shapes: list[tuple[int, ...]] = []
    if type_ == "Power":
        p = {"scale": 0.5, "shift": float(rng.integers(-1, 2))}
    elif type_ == "Exp":
        p = {"base": 2.0, "scale": 0.25}
    elif type_ == "ReLU":
        p = {"negative_slope": 0.25} if rng.random() < 0.3 else {}
    elif type_ == "LRN":
        p = {"local_size": 3}
    elif type_ == "Tile":
        p = {"axis": 1, "tiles": 2} if channels < 8 else {"axis": 1, "tiles": 1}
    elif type_ == "BatchNorm":
        shapes = [(channels,), (channels,), (1,)]
    elif type_ in ("PReLU", "Bias"):
        shapes = [(channels,)]
    elif type_ == "Scale":
        p = {"bias_term": bool(rng.integers(2))}
        shapes = [(channels,)] * (1 + p["bias_term"])
    net.add(type_, [bottom], p, shapes, in_place=in_place)


def join(net: RandomNet, bottom: str, type_: str) -> None:
    rng, shape = net.rng, net.blobs[bottom].shape
    alike = [n for n, v in net.blobs.items() if v.shape == shape and n != bottom]
    if type_ == "Crop":
        smaller = [n for n, v in net.blobs.items() if v.ndim == 4 and v.shape[2] <= shape[2]
                   and v.shape[3] <= shape[3] and n != bottom]  # fmt: skip
        if smaller:
            net.add(type_, [bottom, choose(rng, smaller)], {"axis": 2}, [])
    elif alike:
        others = [bottom, choose(rng, alike)]
        p: dict[str, Any] = {}
        if type_ == "Eltwise":
            p = {"operation": choose(rng, ["SUM", "MAX", "PROD"])}
            if p["operation"] == "SUM" and rng.random() < 0.5:
                p["coeff"] = [1.0, -0.5]
        elif shape[1] > 8:
            return
        net.add(type_, others, p, [])


def share(net: RandomNet, bottom: str, type_: str) -> None:
    channels, height = net.blobs[bottom].shape[1:3]
    if type_ == "Reshape":
        net.add(type_, [bottom], {"shape": {"dim": [0, channels * height, -1, 1]}}, [])
    elif (type_ == "Slice" and channels % 2 == 0) or type_ == "Split":
        net.add(type_, [bottom], {}, [], tops=2)
    elif type_ == "Flatten":
        net.add(type_, [bottom], {}, [])


def make(seed: int, dialect: str, shares: bool) -> RandomNet:
    net = RandomNet(np.random.default_rng([seed, len(dialect), ord(dialect[-1])]), dialect, shares)
    net.input("x", (2, 3, int(net.rng.integers(4, 8)), int(net.rng.integers(4, 8))))
    net.input("y", net.blobs["x"].shape)
    for _ in range(int(net.rng.integers(4, 12))):
        grow(net)
    return net


def check(seed: int, dialect: str, shares: bool) -> None:
    net = make(seed, dialect, shares)
    text = "\n".join(["force_backward: true", *net.lines])
    ours = load_caffe(parse_net(text, dialect=dialect))
    for name, values in net.params.items():
        for blob, value in zip(ours.params[name], values, strict=True):
            with torch.no_grad():
                blob.copy_(torch.from_numpy(value))
    inputs = {n: torch.from_numpy(x.copy()).requires_grad_() for n, x in net.inputs.items()}
    blobs = ours.blobs(**inputs)
    for name, reference in net.blobs.items():
        result = agreement(blobs[name].detach().numpy(), reference)
        assert result.within(AGREEMENT["caffe"]), f"blob {name}: {result}\n{text}"
    outputs = ours(**inputs)
    for name, value in outputs.items():
        assert torch.equal(value, blobs[name]), name
    with torch.inference_mode():
        fused = ours.fuse()(**{n: x.detach() for n, x in inputs.items()})
    for name, value in fused.items():
        result = agreement(value.numpy(), net.blobs[name])
        assert result.within(AGREEMENT["fused"]), f"fused {name}: {result}\n{text}"
    through = [name for name in outputs if outputs[name].requires_grad and name not in inputs]
    if shares or not through:
        return
    diffs = {n: net.rng.normal(size=outputs[n].shape).astype(np.float32) for n in through}
    torch.autograd.backward(
        [outputs[n] for n in through], [torch.from_numpy(diffs[n]) for n in through]
    )
    bottoms, params = net.diffs({n: d.astype(np.float64) for n, d in diffs.items()})
    for name, x in inputs.items():
        grad = np.zeros(x.shape) if x.grad is None else x.grad.numpy()
        compare(grad, bottoms.get(name, np.zeros(x.shape)), f"input {name}", text)
    for name, references in params.items():
        for i, reference in enumerate(references):
            if reference is None or name not in net.params:
                continue
            grad = ours.params[name][i].grad
            got = np.zeros(reference.shape) if grad is None else grad.numpy()
            compare(got, np.asarray(reference).reshape(got.shape), f"{name} {i}", text)


def compare(grad: Array, reference: Array, what: str, text: str) -> None:
    """A gradient; where it cancels (of a bias before MVN), nothing but rounding is left."""
    if np.abs(reference).max(initial=0) < 1e-12:
        assert np.abs(grad).max(initial=0) < 1e-4, f"{what}\n{text}"
        return
    result = agreement(grad, reference)
    assert result.within(AGREEMENT["caffe/gradient"]), f"{what}: {result}\n{text}"


@pytest.mark.filterwarnings("ignore::deeplab_repro.caffe.quirks.QuirkWarning")
@pytest.mark.parametrize("shares", [False, True], ids=["own-memory", "shared-memory"])
@pytest.mark.parametrize("dialect", ["bvlc", "dl2", "dl1"])
@pytest.mark.sampled(2)
def test_random_nets(dialect: str, shares: bool) -> None:
    for seed in range(12):
        check(seed, dialect, shares)


@pytest.mark.slow
def test_every_type_turns_up() -> None:
    types = {t for group in (_WINDOWS, _PLAIN, _JOINING, _SHARING) for t in group}
    dialects = ("bvlc", "dl2", "dl1")
    nets = [
        make(seed, d, shares) for seed in range(20) for d in dialects for shares in (False, True)
    ]
    text = "\n".join(line for net in nets for line in net.lines)
    names = {t: (f'"{t}"', f"type: {KINDS[t].kind.v1} ") for t in types}
    assert not {t for t, forms in names.items() if not any(form in text for form in forms)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::deeplab_repro.caffe.quirks.QuirkWarning")
@pytest.mark.parametrize("shares", [False, True], ids=["own-memory", "shared-memory"])
@pytest.mark.parametrize("dialect", ["bvlc", "dl2", "dl1"])
def test_many_random_nets(dialect: str, shares: bool) -> None:
    for seed in range(100, 180):
        check(seed, dialect, shares)
