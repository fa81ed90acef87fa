"""Every layer type, forward and backward, against oracles that know nothing of our code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tests.caffe.layers.oracle_cases_losses
import tests.caffe.layers.oracle_cases_windows
import tests.caffe.layers.oracles_losses
import tests.caffe.layers.oracles_windows  # noqa: F401
from deeplab_repro import load_caffe
from deeplab_repro.caffe.layers import LAYERS
from deeplab_repro.parity.agreement import agreement
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net
from prototxt_import.layers import KINDS
from tests.caffe.layers.oracle_cases import CASES, Case, N
from tests.caffe.layers.oracles import ORACLES, Call

#: Layer types that have no arithmetic of their own to check.
NO_ORACLE = {"DenseCRF", "HDF5Data", "HDF5Output", "ImageData", "ImageSegData", "Input", "MatRead",
              "MatWrite", "MemoryData"}  # fmt: skip


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(name, item) for item in value)
    if isinstance(value, dict):
        return f"{name} {{ {' '.join(_text(k, v) for k, v in value.items())} }}"
    if isinstance(value, bool):
        return f"{name}: {str(value).lower()}"
    return f"{name}: {value}"


def input_text(name: str, shape: Sequence[int], *, legacy: bool) -> str:
    """The declaration of an input."""
    dims = [_text("input_dim" if legacy else "dim", n) for n in shape]
    declared = " ".join(dims) if legacy else f"input_shape {{ {' '.join(dims)} }}"
    return f'input: "{name}" {declared}'


def layer_text(case: Case, name: str, bottoms: Sequence[str], tops: Sequence[str]) -> str:
    """A layer in the format of its dialect."""
    kind, legacy = KINDS[case.type].kind, case.dialect == "dl1"
    p = {k: v for k, v in case.p.items() if k != "weights"}
    message = "softmaxloss_param" if legacy and case.type == "SoftmaxWithLoss" else kind.message
    body = [_text(message, p)] if p else []
    if "weights" in case.p:
        body = [f'softmaxloss_param {{ {_text("ignore_label", p["ignore_label"])}'
                ' weight_source: "weights.txt" }']  # fmt: skip
    if case.loss:
        body.append(_text("loss_param", case.loss))
    body += [f'bottom: "{bottom}"' for bottom in bottoms]
    body += [f'top: "{top}"' for top in tops]
    head = f"layers {{ type: {kind.v1}" if legacy else f'layer {{ type: "{case.type}"'
    return f'{head} name: "{name}" {" ".join(body)} }}'


def prototxt(case: Case, shapes: list[tuple[int, ...]]) -> str:
    """A network of this one layer."""
    bottoms = [f"b{i}" for i in range(len(shapes))]
    legacy = case.dialect == "dl1"
    inputs = [input_text(*item, legacy=legacy) for item in zip(bottoms, shapes, strict=True)]
    layer = layer_text(case, "op", bottoms, [f"t{i}" for i in range(case.tops)])
    return "\n".join(["force_backward: true", *inputs, layer])


def check(case: Case, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    arrays = [make(rng).astype(np.float32) for make in case.bottoms]
    if "weights" in case.p:
        (tmp_path / "weights.txt").write_text(" ".join(map(str, case.p["weights"])))
    text = prototxt(case, [x.shape for x in arrays])
    net = load_caffe(parse_net(text, phase=case.phase, dialect=case.dialect))
    ours = net.params.get("op", [])
    assert [tuple(blob.shape) for blob in ours] == case.params
    params = [rng.uniform(0.3, 1.5, size=shape).astype(np.float32) for shape in case.params]
    for blob, value in zip(ours, params, strict=True):
        with torch.no_grad():
            blob.copy_(torch.from_numpy(value))

    names = [f"t{i}" for i in range(case.tops)]
    call = Call(
        case.type, [x.astype(np.float64) for x in arrays],
        [value.astype(np.float64) for value in params], case.p, case.loss, case.tops, case.dialect,
        case.phase,
    )  # fmt: skip
    for _ in range(case.passes):
        inputs = {f"b{i}": torch.from_numpy(x).requires_grad_() for i, x in enumerate(arrays)}
        tops, backward = ORACLES[case.type](call)
        outputs = net(**inputs)
        for name, reference in zip(names, tops, strict=True):
            result = agreement(outputs[name].detach().numpy(), reference)
            assert result.within(AGREEMENT["caffe"]), f"{name}: {result}\n{text}"
    if case.type == "BatchNorm":
        for i, (blob, value) in enumerate(zip(ours, call.params, strict=True)):
            assert agreement(blob.numpy(), value).within(AGREEMENT["caffe"]), f"blob {i}"
    if backward is None:
        assert not any(outputs[name].requires_grad and case.p.get("pool") != "STOCHASTIC"
                       for name in names)  # fmt: skip
        return
    through = [name for name in names if outputs[name].requires_grad]
    diffs = [rng.normal(size=outputs[name].shape).astype(np.float32) for name in names]
    torch.autograd.backward(
        [outputs[name] for name in through],
        [torch.from_numpy(diffs[names.index(name)]) for name in through],
    )
    bottom_diffs, param_diffs = backward([diff.astype(np.float64) for diff in diffs])
    for what, grads, references in (
        ("bottom", [x.grad for x in inputs.values()], bottom_diffs),
        ("blob", [blob.grad for blob in ours], param_diffs),
    ):
        assert len(grads) == len(references)
        for i, (grad, reference) in enumerate(zip(grads, references, strict=True)):
            if reference is None:
                assert grad is None or not grad.any(), f"{what} {i} has a gradient"
                continue
            assert grad is not None, f"{what} {i} has no gradient\n{text}"
            result = agreement(grad.numpy(), reference)
            assert result.within(AGREEMENT["caffe/gradient"]), f"{what} {i}: {result}\n{text}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sampled(120)
def test_case(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(CASES[name], 0, tmp_path)


def test_every_type_has_cases() -> None:
    assert set(LAYERS) - NO_ORACLE == set(ORACLES)
    count = Counter(case.type for case in CASES.values())
    assert {kind for kind in ORACLES if count[kind] < 2} == set()


def _window(rng: np.random.Generator) -> dict[str, Any]:
    def pair(low: int, high: int) -> list[int]:
        return [int(n) for n in rng.integers(low, high, size=2)]

    return {"kernel_size": pair(1, 4), "stride": pair(1, 4), "pad": pair(0, 4)}


def _random_case(kind: str, rng: np.random.Generator) -> Case:
    """A window of chance over a map of chance."""
    size = [int(n) for n in rng.integers(4, 9, size=2)]
    window = _window(rng)
    if kind == "Pooling":
        p: dict[str, Any] = {"pool": str(rng.choice(["MAX", "AVE"]))}
        for i, side in enumerate("hw"):
            kernel = window["kernel_size"][i]
            # No stride above the kernel: a window of nothing has no mean.
            p |= {f"kernel_{side}": kernel, f"stride_{side}": min(kernel, window["stride"][i]),
                  f"pad_{side}": min(window["pad"][i], kernel - 1)}  # fmt: skip
        return Case(kind, [N(2, 2, *size)], p)
    if kind == "Interp":
        pads = {"pad_beg": -int(rng.integers(0, 2)), "pad_end": -int(rng.integers(0, 3))}
        p = {"shrink_factor": int(rng.integers(1, 5)), "zoom_factor": int(rng.integers(1, 5))}
        for name in [name for name in p if rng.random() < 0.4]:
            del p[name]
        if not p:
            p = {"height": int(rng.integers(1, 15)), "width": int(rng.integers(1, 15))}
        return Case(kind, [N(2, 2, *size)], {**p, **pads}, dialect="dl2")
    group = int(rng.choice([1, 2]))
    p = {**window, "dilation": [int(n) for n in rng.integers(1, 3, size=2)]}
    if kind == "Im2col":
        return Case(kind, [N(2, 2, 9, 9)], p)
    p |= {"num_output": 2 * group, "group": group, "bias_term": bool(rng.integers(2))}
    if kind == "Deconvolution":
        p["pad"] = [0, 0]
        weight = (4, 2, *window["kernel_size"])
    else:
        weight = (2 * group, 4 // group, *window["kernel_size"])
    return Case(kind, [N(2, 4, 8, 9)], p, [weight, (2 * group,)][: 1 + p["bias_term"]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution", "Im2col", "Interp", "Pooling"])
def test_random_windows(kind: str, tmp_path: Path) -> None:
    for seed in range(60):
        rng = np.random.default_rng([seed, len(kind)])
        check(_random_case(kind, rng), seed, tmp_path)
