"""Mistakes in what is done to values: normalisation, dropout, rectifying, sums, precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.normalization import BatchNorm
from deeplab_repro.parity.traps.core import Look, Variant, detector, trap
from prototxt_import.layers import Dropout, Sigmoid, Softmax

#: What frameworks add to the variance by default, and what ports were seen to use.
_EPSILONS: Final = (1e-3, 1e-4, 1e-5, 2e-5, 1.001e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0)

FACTOR = trap(
    "batchnorm_factor",
    "BatchNorm's third blob ignored",
    "Divide the stored mean and variance by the third blob (by nothing where it is 0: then they "
    "count as 0).",
)
EPS = trap("batchnorm_eps", "another eps in BatchNorm", "Caffe's default is 1e-5, as a layer says.")
BATCH_STATISTICS = trap(
    "batchnorm_training",
    "BatchNorm with the batch's own statistics",
    "The stored statistics are used in the TEST phase, and where use_global_stats says so: "
    "net.eval().",
)
DROPOUT = trap(
    "dropout_active",
    "dropout active at test",
    "Run in the TEST phase: net.eval().",
)
DROPOUT_SCALE = trap(
    "dropout_scale",
    "dropout scaled at test",
    "Caffe scales in training; at test Dropout does nothing.",
)
NO_RELU = trap(
    "relu_missing",
    "ReLU missing",
    "Apply the in-place ReLU of the prototxt after this layer.",
)
EARLY = trap(
    "saved_before_in_place",
    "blob saved before an in-place layer had overwritten it",
    "The network itself is right. Caffe's blob holds the last value written: save it after ReLU.",
)
ORDER = trap(
    "in_place_order",
    "blob read before, not after, an in-place layer (or the other way round)",
    "A layer reads what was written last before it runs: keep the prototxt's order.",
)
SKIPPED = trap("layer_skipped", "layer left out", "Apply the layer.")
SOFTMAX = trap(
    "softmax_applied",
    "softmax (or sigmoid) applied to the scores",
    "Compare the scores themselves; SoftmaxWithLoss and the CRF apply softmax on their own.",
)
ELTWISE = trap(
    "eltwise_operation",
    "another operation or other coefficients in Eltwise",
    "Eltwise sums unless the file says otherwise; the three scales of ResNet-101 are fused by MAX.",
)
TF32 = trap(
    "tf32",
    "products rounded to TF32",
    "torch.backends.cudnn.allow_tf32 = False, torch.backends.cuda.matmul.allow_tf32 = False; or "
    "compare with a wider tolerance.",
)
HALF = trap(
    "half_precision",
    "computed or saved in 16 bits",
    "Compute and save float32.",
)


@detector("BatchNorm")
def batchnorm(look: Look) -> Iterator[Variant]:
    """Its factor, its eps, its phase."""
    module, x = look.module, look.bottoms[0]
    if not isinstance(module, BatchNorm):
        return
    total, squares, factor = module.blobs
    yield Variant(
        (FACTOR,),
        f"blobs 0 and 1 used as they are; blob 2 is {float(factor.flatten()[0]):.6g}",
        look.run(blobs=[total, squares, torch.ones_like(factor)]),
    )
    axes = [axis for axis in range(x.dim()) if axis != 1]
    if x.numel() > x.shape[1]:
        variance, mean = torch.var_mean(x.double(), axes, correction=0)
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        y = (x - mean.reshape(shape)) * (variance.reshape(shape) + module.layer.eps).rsqrt()
        yield Variant((BATCH_STATISTICS,), "mean and variance of this batch", y.float())
    # Two eps may lie within the tolerance of one another: the nearest comes first.
    other = copy.copy(module)
    tried = []
    for eps in _EPSILONS:
        if eps != module.layer.eps:
            other.layer = replace(module.layer, eps=eps)
            y = other(x)
            distance = look.chain.agreement(look.chain.run(look.k + 1, y)).rel
            tried.append((distance if distance == distance else float("inf"), eps, y))
    tried.sort(key=lambda trial: trial[0])
    for _, eps, y in tried[:1]:
        yield Variant((EPS,), f"eps {eps:g} instead of {module.layer.eps:g}", y)


@detector("Dropout")
def dropout(look: Look) -> Iterator[Variant]:
    """Zeros here and there, the rest scaled up by the same factor; or all scaled down."""
    x, recorded = look.bottoms[0], look.recorded
    assert isinstance(look.layer, Dropout)
    ratio = look.layer.dropout_ratio
    if recorded is not None and recorded.shape == x.shape and 0 < ratio < 1:
        kept = recorded != 0
        live = x != 0
        share = 1 - float(kept[live].double().mean()) if live.any() else 0.0
        # Five deviations of a binomial share, and whole channels or pictures may drop at once.
        if 0 < share < 1 and abs(share - ratio) < 0.25:
            detail = f"{share:.1%} of the values are 0, the others {1 / (1 - ratio):g} times ours"
            yield Variant((DROPOUT,), detail, x * kept / (1 - ratio))
            yield Variant((DROPOUT,), f"{share:.1%} of the values are 0, not scaled up", x * kept)
    yield Variant((DROPOUT_SCALE,), f"values times {1 - ratio:g}", x * (1 - ratio))


@detector("ReLU")
def relu_missing(look: Look) -> Iterator[Variant]:
    """The value before; what the next layers read tells whether only the recording is early."""
    chain = look.chain
    readers = [
        top
        for step in chain.evidence.schedule.readers_of(chain.blob)
        for top in chain.evidence.steps[step][0].tops
        if top != chain.blob and top in chain.evidence.reports
    ]
    reports = [chain.evidence.reports[top] for top in readers]
    told = [report for report in reports if report.agreement is not None]
    early = look.k > 0 and told and all(report.equal for report in told)
    if early:
        yield Variant((EARLY,), f"without '{look.layer.name}', which later layers saw", look.y)
    else:
        yield Variant((NO_RELU,), f"without '{look.layer.name}'", look.bottoms[0])


@detector("Scale", "BatchNorm", "LRN", "Power", "Bias")
def layer_skipped(look: Look) -> Iterator[Variant]:
    """What the layer would have written if it passed its bottom on unchanged."""
    if len(look.bottoms) == 1:
        yield Variant((SKIPPED,), f"without '{look.layer.name}'", look.bottoms[0])


@detector()
def in_place_order(look: Look) -> Iterator[Variant]:
    """Each other value that a bottom holds in the course of a forward pass."""
    evidence = look.chain.evidence
    if look.k > 0:
        return
    step = next(i for i, (_, module) in enumerate(evidence.steps) if module is look.module)
    for number, bottom in enumerate(look.layer.bottoms):
        writers = evidence.schedule.writers.get(bottom, [])
        seen = evidence.schedule.read_before(step, bottom)
        for length in range(1, len(writers) + 1):
            if length == seen or bottom == look.chain.blob:
                continue
            chain = evidence.chain(bottom, length)
            if chain is None:
                continue
            bottoms = list(look.bottoms)
            bottoms[number] = chain.run()
            after = evidence.steps[writers[length - 1]][0].name
            detail = f"'{bottom}' read after layer '{after}'"
            yield Variant((ORDER,), detail, look.run(bottoms))


@detector()
def softmax_applied(look: Look) -> Iterator[Variant]:
    """After all that the prototxt states."""
    if look.k + 1 < len(look.chain.links) or isinstance(look.layer, Softmax | Sigmoid):
        return
    y = look.run()
    if y.dim() > 1:
        yield Variant((SOFTMAX,), "softmax over the channels", y.softmax(1))
        yield Variant((SOFTMAX,), "log-softmax over the channels", y.log_softmax(1))
        yield Variant((SOFTMAX,), "sigmoid", y.sigmoid())


@detector("Eltwise")
def eltwise_operation(look: Look) -> Iterator[Variant]:
    """The other two operations, the mean, and the coefficients left out."""
    stacked = torch.stack(look.bottoms)
    for what, y in {
        "sum": stacked.sum(0),
        "maximum": stacked.amax(0),
        "mean": stacked.mean(0),
        "product": stacked.prod(0),
        "only the first bottom": stacked[0],
    }.items():
        yield Variant((ELTWISE,), f"{what} of the {len(stacked)} bottoms", y)


@detector("Convolution", "InnerProduct")
def tf32(look: Look) -> Iterator[Variant]:
    """Factors with 10 bits of mantissa, products summed in float32, as tensor cores do."""
    blobs = look.module.blobs
    rounded = [_to_tf32(blobs[0].detach()), *blobs[1:]]
    y = look.run([_to_tf32(x) for x in look.bottoms], rounded)
    yield Variant((TF32,), "picture and weights rounded to 10 bits of mantissa", y)


def _to_tf32(x: Tensor) -> Tensor:
    """The nearest value with 10 bits of mantissa."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@detector()
def half_precision(look: Look) -> Iterator[Variant]:
    """Recorded numbers that 16 bits can hold, every one."""
    recorded = look.recorded
    if recorded is None or look.k + 1 < len(look.chain.links) or not recorded.any():
        return
    near = look.chain.agreement(look.chain.run()).rel
    for name, dtype, limit in (
        ("float16", torch.float16, 1e-2),
        ("bfloat16", torch.bfloat16, 5e-2),
    ):
        # Eight and three bits short of float32's mantissa: chance does not do that.
        if near < limit and torch.equal(recorded.to(dtype).float(), recorded):
            detail = f"every recorded value is a {name} number; rel {near:.1e} from ours"
            yield Variant((HALF,), detail, None, "likely")
