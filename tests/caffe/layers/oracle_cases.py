"""Named cases for test_oracles.py, some per layer type, over what Caffe lets one ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Make = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A layer as the prototxt states it, and what goes in.

    text: for fields that the oracle does not read (engine, fillers); params: shapes of its blobs.
    """

    type: str
    bottoms: list[Make]
    p: dict[str, Any] = field(default_factory=dict)
    params: list[tuple[int, ...]] = field(default_factory=list)
    loss: dict[str, Any] = field(default_factory=dict)
    tops: int = 1
    dialect: str = "bvlc"
    phase: str = "TEST"
    passes: int = 1


def N(*shape: int) -> Make:
    """Normal values."""
    return lambda rng: rng.normal(size=shape)


def positive(*shape: int) -> Make:
    """From 0.2 to 2."""
    return lambda rng: rng.uniform(0.2, 2, size=shape)


def away(*shape: int) -> Make:
    """Normal values at least 0.1 away from 0."""
    return lambda rng: (lambda x: x + 0.1 * np.sign(x))(rng.normal(size=shape))


def whole(*shape: int, below: int, also: int | None = None, all_of: int | None = None) -> Make:
    """Whole numbers in [0, below); a third of them ``also``, or all of them ``all_of``."""

    def make(rng: np.random.Generator) -> np.ndarray:
        values = rng.integers(0, below, size=shape).astype(float)
        if also is not None:
            values[rng.random(size=shape) < 0.3] = also
        return values if all_of is None else np.full(shape, float(all_of))

    return make


def some(*values: float, shape: tuple[int, ...] | None = None) -> Make:
    """Just these."""
    return lambda rng: np.array(values, dtype=float).reshape(shape or (len(values),))


def shares(*shape: int) -> Make:
    """Probabilities over axis 1."""

    def make(rng: np.random.Generator) -> np.ndarray:
        x = rng.uniform(0.05, 1, size=shape)
        return x / x.sum(1, keepdims=True)

    return make


X = N(2, 6, 5, 7)
CASES: dict[str, Case] = {}


def add(type_: str, **cases: Case | tuple[Any, ...]) -> None:
    for name, case in cases.items():
        CASES[f"{type_}-{name}"] = case if isinstance(case, Case) else Case(type_, *case)


# ------------------------------------------------------------------ one value at a time

for _type in ("AbsVal", "BNLL", "Sigmoid", "TanH", "ReLU", "Dropout", "ELU"):
    add(
        _type,
        plain=([X],),
        one_axis=([N(9)],),
        five_axes=([N(2, 2, 3, 2, 3)],),
        wide=([lambda rng: rng.normal(size=(3, 4)) * 8],),
    )
add("BNLL", beyond_50=([some(-120.0, -60.0, -1.0, 0.0, 1.0, 49.0, 51.0, 80.0)],))
add("AbsVal", zeros=([some(-1.0, 0.0, 2.0)],))
add(
    "ELU",
    alpha=([X], {"alpha": 0.3}),
    zero=([some(-1.0, 0.0, 2.0)], {"alpha": 2.0}),
    alpha_0=([X], {"alpha": 0.0}),
)
add(
    "ReLU",
    leaky=([X], {"negative_slope": 0.25}),
    zero=([some(-1.0, 0.0, 2.0)],),
    leaky_zero=([some(-1.0, 0.0, 2.0)], {"negative_slope": 0.5}),
    negative=([X], {"negative_slope": -0.5}),
    v1=Case("ReLU", [N(2, 3, 4, 5)], {"negative_slope": 0.1}, dialect="dl1"),
)
add("Dropout", ratio=([X], {"dropout_ratio": 0.9}))
add(
    "Clip",
    plain=([X], {"min": -0.5, "max": 0.75}),
    one_axis=([N(9)], {"min": 0, "max": 1}),
    edges=([some(-1.0, -0.5, 0.0, 0.5, 1.0)], {"min": -0.5, "max": 0.5}),
)
add(
    "Swish",
    plain=([X],),
    beta=([X], {"beta": 2.5}),
    beta_0=([N(3, 4)], {"beta": 0.0}),
    minus=([N(9)], {"beta": -1.0}),
)
add(
    "Threshold",
    plain=([X],),
    at=([X], {"threshold": 0.4}),
    minus=([N(7)], {"threshold": -1.0}),
    equal=([some(0.25, 0.5, 0.75)], {"threshold": 0.5}),
)
add(
    "Exp",
    plain=([X],),
    base_2=([X], {"base": 2.0}),
    all=([X], {"base": 3, "scale": 0.5, "shift": -1.25}),
    e_shift=([X], {"shift": 0.75, "scale": -0.3}),
    small=([N(3)], {"base": 0.5}),
    dl2_shift=Case("Exp", [X], {"shift": 3.0}, dialect="dl2"),
    dl2_scale=Case("Exp", [X], {"scale": 0.5}, dialect="dl2"),
    v1=Case("Exp", [N(2, 3, 1, 1)], {"base": 2.0, "shift": 1.0}, dialect="dl1"),
)
add(
    "Log",
    plain=([positive(2, 6, 5, 7)],),
    base_10=([positive(4, 3)], {"base": 10.0}),
    all=([positive(4, 3)], {"base": 2, "scale": 3.0, "shift": 0.5}),
    minus=([positive(4, 3)], {"scale": -1.0, "shift": 4.0}),
)
add(
    "Power",
    plain=([X],),
    square=([X], {"power": 2, "scale": 0.5, "shift": 0.25}),
    cube=([away(3, 5)], {"power": 3, "scale": -0.7}),
    root=([positive(3, 5)], {"power": 0.5}),
    minus=([positive(3, 5)], {"power": -1.5, "scale": 2, "shift": 1}),
    power_0=([X], {"power": 0, "scale": 3, "shift": 1}),
    scale_0=([X], {"power": 3, "scale": 0, "shift": 2}),
    scale_0_power_1=([X], {"scale": 0, "shift": 2}),
    affine=([N(7)], {"scale": -2, "shift": 3}),
    zero_root=([some(0.0, 1.0)], {"power": 2}),
    v1=Case("Power", [positive(2, 3, 2, 2)], {"power": 1.5, "shift": 1}, dialect="dl1"),
)
add(
    "PReLU",
    plain=([X], {}, [(6,)]),
    shared=([X], {"channel_shared": True}, [()]),
    two_axes=([N(4, 3)], {}, [(3,)]),
    five_axes=([N(2, 3, 2, 2, 2)], {}, [(3,)]),
    zero=([some(-1.0, 0.0, 0.0, 2.0, shape=(2, 2))], {}, [(2,)]),
)

# ------------------------------------------------------------------ several bottoms

add(
    "Eltwise",
    plain=([X, X],),
    three=([X, X, X],),
    coeff=([X, X, X], {"coeff": [1, -0.5, 2]}),
    prod=([X, X], {"operation": "PROD"}),
    prod_3=([away(3, 4)] * 3, {"operation": "PROD"}),
    unstable=([away(3, 4)] * 3, {"operation": "PROD", "stable_prod_grad": False}),
    max=([X, X, X], {"operation": "MAX"}),
    max_ties=([whole(5, 8, below=3)] * 3, {"operation": "MAX"}),
    max_coeff=([X, X], {"operation": "MAX", "coeff": [2, 3]}),
    zero_coeff=([N(5), N(5)], {"coeff": [0, 1]}),
    scalars=([N(), N()],),
    v1=Case("Eltwise", [N(2, 3, 4, 5)] * 2, {"operation": "MAX"}, dialect="dl1"),
)
add(
    "SpatialProduct",
    plain=([X, N(2, 1, 5, 7)],),
    one=([N(1, 1, 3, 3), N(1, 1, 3, 3)],),
    batch=([N(3, 4, 2, 1), N(3, 1, 2, 1)],),
)
add(
    "Scale",
    plain=([X], {}, [(6,)]),
    bias=([X], {"bias_term": True}, [(6,), (6,)]),
    axis_0=([X], {"axis": 0, "num_axes": 2, "bias_term": True}, [(2, 6), (2, 6)]),
    all_axes=([N(2, 3, 4)], {"axis": 0, "num_axes": -1}, [(2, 3, 4)]),
    minus_axis=([X], {"axis": -2, "num_axes": -1, "bias_term": True}, [(5, 7), (5, 7)]),
    one_value=([X], {"num_axes": 0, "bias_term": True}, [(), ()]),
    last=([N(4, 3)], {"axis": -1}, [(3,)]),
    one_axis=([N(5)], {"axis": 0}, [(5,)]),
    two_bottoms=([X, N(6)],),
    two_bottoms_bias=([X, N(6, 5)], {"bias_term": True}, [(6, 5)]),
    two_scalar=([X, N()], {"bias_term": True}, [()]),
    two_full=([N(2, 3), N(2, 3)], {"axis": 0}),
    two_minus=([X, N(7)], {"axis": -1}),
    five_axes=([N(2, 3, 2, 2, 2)], {"axis": 1, "num_axes": 3}, [(3, 2, 2)]),
)
add(
    "Bias",
    plain=([X], {}, [(6,)]),
    axis_0=([X], {"axis": 0, "num_axes": 2}, [(2, 6)]),
    all=([N(2, 3)], {"axis": 0, "num_axes": -1}, [(2, 3)]),
    one=([X], {"num_axes": 0}, [()]),
    minus=([X], {"axis": -1}, [(7,)]),
    two=([X, N(6, 5)],),
    two_scalar=([X, N()],),
    two_last=([X, N(5, 7)], {"axis": 2}),
)

# ------------------------------------------------------------------ copies

add(
    "Concat",
    plain=([N(2, 3, 4), N(2, 5, 4)],),
    axis_0=([N(1, 3), N(2, 3)], {"axis": 0}),
    minus=([N(2, 3, 4), N(2, 3, 1), N(2, 3, 2)], {"axis": -1}),
    one=([X],),
    old=([N(2, 3, 4), N(2, 5, 4)], {"concat_dim": 1}),
    one_axis=([N(2), N(3)], {"axis": 0}),
    v1=Case("Concat", [N(1, 2, 3, 4), N(2, 2, 3, 4)], {"concat_dim": 0}, dialect="dl1"),
)
add(
    "Slice",
    even=Case("Slice", [X], tops=3),
    points=Case("Slice", [X], {"slice_point": [1, 4]}, tops=3),
    axis_2=Case("Slice", [X], {"axis": 2, "slice_point": [2]}, tops=2),
    minus=Case("Slice", [N(2, 3, 4)], {"axis": -1}, tops=2),
    one=Case("Slice", [X]),
    old=Case("Slice", [X], {"slice_dim": 0}, tops=2),
    axis_0=Case("Slice", [N(4)], {"axis": 0}, tops=4),
    v1=Case("Slice", [N(2, 4, 1, 2)], {"slice_dim": 1, "slice_point": [1]}, tops=2, dialect="dl1"),
)
add(
    "Split",
    two=Case("Split", [X], tops=2),
    one=Case("Split", [X]),
    four=Case("Split", [N(3)], tops=4),
)
add(
    "Flatten",
    plain=([X],),
    axes=([X], {"axis": 1, "end_axis": 2}),
    axis_0=([X], {"axis": 0}),
    minus=([X], {"axis": -3, "end_axis": -2}),
    nothing=([X], {"axis": 2, "end_axis": 2}),
    five=([N(2, 3, 2, 2, 2)], {"axis": 2}),
    one_axis=([N(5)], {"axis": 0}),
    v1=Case("Flatten", [N(2, 3, 4, 5)], dialect="dl1"),
)


def _dims(*dims: int, **more: int) -> dict[str, Any]:
    return {"shape": {"dim": list(dims)}, **more}


add(
    "Reshape",
    infer=([N(2, 6, 5, 6)], _dims(0, -1, 3)),
    copy=([X], _dims(0, 0, 35)),
    middle=([X], _dims(2, -1, axis=1, num_axes=1)),
    insert=([X], _dims(1, axis=1, num_axes=0)),
    end=([X], _dims(1, 1, axis=-1)),
    minus=([X], _dims(7, 5, axis=-3)),
    flat=([N(2, 3)], _dims(-1)),
    drop=([N(1, 3, 4)], {"axis": 0, "num_axes": 1, "shape": {"dim": []}}),
)
add(
    "Tile",
    plain=([X], {"tiles": 2}),
    axis_0=([N(2, 3)], {"axis": 0, "tiles": 3}),
    minus=([N(2, 3, 4)], {"axis": -1, "tiles": 2}),
    once=([X], {"tiles": 1}),
)
add(
    "Crop",
    plain=([X, N(2, 6, 3, 4)],),
    offset=([X, N(2, 6, 3, 4)], {"offset": [1]}),
    offsets=([X, N(2, 6, 3, 4)], {"offset": [2, 3]}),
    axis_1=([X, N(9, 4, 3, 4)], {"axis": 1, "offset": [2, 0, 1]}),
    minus=([X, N(1, 1, 1, 4)], {"axis": -1, "offset": [3]}),
    axis_0=([N(4, 5), N(2, 3)], {"axis": 0, "offset": [1, 2]}),
)
add(
    "BatchReindex",
    plain=([N(4, 3, 2), some(2, 0, 0, 3, 2)],),
    one=([N(3), some(1)],),
    all=([N(3, 2), some(2, 1, 0)],),
)
add(
    "Filter",
    plain=([N(5, 3, 2), some(1, 0, 0, 1, 1)],),
    two=Case("Filter", [N(4, 3), N(4, 2, 2), some(0, 1, -1, 0.5)], tops=2),
    axes=([N(3, 2), some(0, 1, 1, shape=(3, 1, 1, 1))],),
    all=([N(2, 2), some(1, 1)],),
    none=([N(3, 2), some(0, 0, 0)],),
)
add("Silence", one=Case("Silence", [X], tops=0), two=Case("Silence", [X, N(3)], tops=0))
add(
    "Padding",
    **{
        name: Case("Padding", [N(2, 3, 5, 6)], p, dialect="dl1")
        for name, p in {
            "both": {"pad_beg": 1, "pad_end": 2},
            "crop": {"pad_beg": -1, "pad_end": -2},
            "begin": {"pad_beg": 2},
            "end": {"pad_end": -3},
            "none": {},
        }.items()
    },
)
add(
    "DummyData",
    shape=Case("DummyData", [], {"shape": [{"dim": [2, 3]}]}),
    old=Case(
        "DummyData",
        [],
        {"num": [2], "channels": [3], "height": [1], "width": [2], "data_filler": [{"value": 1.5}]},
    ),
    many=Case(
        "DummyData",
        [],
        {"shape": [{"dim": [2]}, {"dim": [1, 1]}], "data_filler": [{"value": 1}, {"value": -2}]},
        tops=2,
    ),
    one_for_two=Case(
        "DummyData", [], {"shape": [{"dim": [2]}], "data_filler": [{"value": 3}]}, tops=2
    ),
)
add(
    "Parameter",
    plain=Case("Parameter", [], _dims(2, 3), [(2, 3)]),
    four=Case("Parameter", [], _dims(1, 2, 1, 4), [(1, 2, 1, 4)]),
)

# ------------------------------------------------------------------ along an axis

add(
    "Reduction",
    plain=([X],),
    axis=([X], {"axis": 2}),
    minus=([X], {"axis": -1, "coeff": -0.5}),
    mean=([X], {"operation": "MEAN", "axis": 1, "coeff": 3}),
    asum=([X], {"operation": "ASUM"}),
    asum_axis=([X], {"operation": "ASUM", "axis": 1, "coeff": 2}),
    sumsq=([X], {"operation": "SUMSQ", "axis": 3}),
    sumsq_all=([N(4)], {"operation": "SUMSQ", "coeff": 0.1}),
    mean_all=([N(2, 3, 4)], {"operation": "MEAN"}),
)
add(
    "Softmax",
    plain=([X],),
    axis_0=([N(4, 3)], {"axis": 0}),
    minus=([X], {"axis": -1}),
    one_axis=([N(5)], {"axis": 0}),
    large=([lambda rng: rng.normal(size=(2, 4, 3)) * 4],),
    axis_2=([X], {"axis": 2}),
    v1=Case("Softmax", [N(2, 3, 4, 5)], dialect="dl1"),
)
add(
    "ArgMax",
    plain=([X],),
    values=([X], {"out_max_val": True}),
    top=([X], {"top_k": 4}),
    top_values=([X], {"top_k": 3, "out_max_val": True}),
    axis=([X], {"axis": 1}),
    axis_values=([X], {"axis": 2, "top_k": 2, "out_max_val": True}),
    minus=([X], {"axis": -1, "top_k": 2}),
    two_axes=([N(3, 4)], {"top_k": 2, "out_max_val": True}),
    five=([N(2, 3, 2, 2, 2)],),
    ties=([whole(3, 6, 4, below=3)], {"axis": 1, "top_k": 3}),
    one_axis=([N(4)],),
    v1=Case("ArgMax", [X], {"top_k": 2, "out_max_val": True}, dialect="dl1"),
    v1_plain=Case("ArgMax", [whole(2, 4, 3, 3, below=2)], dialect="dl1"),
)
