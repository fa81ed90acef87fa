"""Cases of layers with statistics, losses and accuracies; see oracle_cases.py."""

from __future__ import annotations

from typing import Any

from tests.caffe.layers.oracle_cases import Case, N, X, add, positive, shares, some, whole

_BN = [(6,), (6,), (1,)]
add(
    "BatchNorm",
    test=([X], {}, _BN),
    eps=([X], {"eps": 0.1}, _BN),
    global_train=Case("BatchNorm", [X], {"use_global_stats": True}, _BN, phase="TRAIN"),
    batch_test=([X], {"use_global_stats": False}, _BN),
    train=Case("BatchNorm", [X], {}, _BN, phase="TRAIN"),
    twice=Case("BatchNorm", [X], {"moving_average_fraction": 0.7}, _BN, phase="TRAIN", passes=2),
    two_axes=Case("BatchNorm", [N(8, 6)], {}, _BN, phase="TRAIN"),
    one_axis=Case("BatchNorm", [N(8)], {}, [(1,)] * 3, phase="TRAIN"),
    five=Case("BatchNorm", [N(2, 3, 2, 2, 2)], {}, [(3,), (3,), (1,)], phase="TRAIN"),
    one_value=Case("BatchNorm", [N(1, 3)], {}, [(3,), (3,), (1,)], phase="TRAIN"),
    one_axis_test=([N(8)], {}, [(1,)] * 3),
    dl2=Case("BatchNorm", [X], {"eps": 0.01}, _BN, dialect="dl2", phase="TRAIN", passes=3),
    dl2_batch_test=Case("BatchNorm", [X], {"use_global_stats": False}, _BN, dialect="dl2"),
    dl2_test=Case("BatchNorm", [X], {}, _BN, dialect="dl2"),
    dl2_updates=Case(
        "BatchNorm",
        [X],
        {"use_global_stats": True, "update_global_stats": True, "moving_average_fraction": 0.7},
        _BN,
        dialect="dl2",
        phase="TRAIN",
        passes=3,
    ),
)
add(
    "MVN",
    plain=([X],),
    across=([X], {"across_channels": True}),
    mean=([X], {"normalize_variance": False}),
    mean_across=([X], {"normalize_variance": False, "across_channels": True}),
    eps=([X], {"eps": 0.5}),
    two_axes=([N(4, 6)], {"across_channels": True}),
    three_axes=([N(2, 3, 5)],),
    v1=Case("MVN", [X], dialect="dl1"),
    v1_mean=Case("MVN", [X], {"normalize_variance": False}, dialect="dl1"),
)
add(
    "LRN",
    plain=([X],),
    alexnet=([X], {"local_size": 5, "alpha": 1e-4, "beta": 0.75}),
    k=([X], {"local_size": 3, "alpha": 2, "beta": 0.5, "k": 2}),
    one=([X], {"local_size": 1}),
    wide=([N(1, 3, 2, 2)], {"local_size": 9}),
    within=([X], {"norm_region": "WITHIN_CHANNEL", "local_size": 3}),
    within_k=(
        [X],
        {"norm_region": "WITHIN_CHANNEL", "local_size": 3, "k": 5, "alpha": 0.3, "beta": 1.5},
    ),
    within_wide=([N(1, 2, 3, 4)], {"norm_region": "WITHIN_CHANNEL", "local_size": 5}),
    v1=Case("LRN", [X], {"local_size": 3, "k": 3}, dialect="dl1"),
    v1_within=Case("LRN", [X], {"norm_region": "WITHIN_CHANNEL", "local_size": 3}, dialect="dl1"),
)

# ------------------------------------------------------------------ losses

_S, _L, _LI = N(2, 5, 3, 4), whole(2, 1, 3, 4, below=5), whole(2, 1, 3, 4, below=5, also=255)
_NONE = whole(2, 1, 3, 4, below=5, all_of=255)
_MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {"normalization": "FULL"},
    "valid": {"normalization": "VALID"},
    "batch": {"normalization": "BATCH_SIZE"},
    "none": {"normalization": "NONE"},
    "normalize": {"normalize": True},
    "no_normalize": {"normalize": False},
    "both": {"normalize": False, "normalization": "FULL"},
}
for _name, _loss in _MODES.items():
    add(
        "SoftmaxWithLoss",
        **{
            _name: ([_S, _L], {}, [], _loss),
            f"{_name}_ignore": ([_S, _LI], {}, [], {"ignore_label": 255, **_loss}),
            f"{_name}_dl2": Case(
                "SoftmaxWithLoss", [_S, _LI], {}, [], {"ignore_label": 255, **_loss}, dialect="dl2"
            ),
        },
    )
    add(
        "SigmoidCrossEntropyLoss",
        **{
            _name: ([N(3, 4), whole(3, 4, below=2)], {}, [], _loss),
            f"{_name}_ignore": (
                [N(3, 4), whole(3, 4, below=2, also=2)],
                {},
                [],
                {"ignore_label": 2, **_loss},
            ),
            f"{_name}_dl2": Case(
                "SigmoidCrossEntropyLoss", [N(3, 4), positive(3, 4)], {}, [], _loss, dialect="dl2"
            ),
        },
    )
    if "normalize" in _loss:
        continue
    add(
        "InfogainLoss",
        **{
            _name: ([_S, _LI, positive(1, 1, 5, 5)], {}, [], {"ignore_label": 255, **_loss}),
        },
    )
add(
    "SoftmaxWithLoss",
    nobody=([_S, _NONE], {}, [], {"ignore_label": 255}),
    axis_last=([N(2, 3, 4), whole(2, 3, below=4)], {"axis": -1}),
    probabilities=Case("SoftmaxWithLoss", [_S, _L], tops=2, loss={}),
    flat=([N(6, 4), whole(6, below=4)],),
    unlikely=([lambda rng: rng.normal(size=(4, 3)) * 60, whole(4, below=3)],),
    zero_ignored=([_S, _L], {}, [], {"ignore_label": 0}),
    v1=Case("SoftmaxWithLoss", [_S, _L], dialect="dl1"),
    v1_ignore=Case("SoftmaxWithLoss", [_S, _LI], {"ignore_label": [255, 1]}, dialect="dl1"),
    v1_weights=Case(
        "SoftmaxWithLoss",
        [_S, _LI],
        {"ignore_label": [255], "weights": [0.5, 2.0, 0.0, 1.5, 1.0]},
        dialect="dl1",
    ),
)
add(
    "SigmoidCrossEntropyLoss",
    shares=([N(3, 4), shares(3, 4)],),
    nobody=(
        [N(3, 4), whole(3, 4, below=2, all_of=2)],
        {},
        [],
        {"ignore_label": 2, "normalize": True},
    ),
    large=([lambda rng: rng.normal(size=(3, 4)) * 40, whole(3, 4, below=2)],),
    shape=([N(2, 3, 4), whole(2, 12, below=2)],),
    v1=Case("SigmoidCrossEntropyLoss", [N(3, 2, 1, 2), whole(3, 2, 1, 2, below=2)], dialect="dl1"),
)
_H, _H1 = positive(1, 1, 4, 4), whole(3, 1, 1, 1, below=4)
add(
    "InfogainLoss",
    axis=([N(2, 3, 4), whole(2, 3, below=4), _H], {"axis": 2}),
    probabilities=Case("InfogainLoss", [N(3, 4), whole(3, below=4), _H], tops=2),
    nobody=([_S, _NONE, positive(1, 1, 5, 5)], {}, [], {"ignore_label": 255}),
    dl2=Case("InfogainLoss", [shares(3, 4, 1, 1), _H1, _H], dialect="dl2"),
    dl2_flat=Case("InfogainLoss", [shares(3, 2, 2, 1), _H1, _H], dialect="dl2"),
    v1=Case("InfogainLoss", [shares(3, 4, 1, 1), _H1, _H], dialect="dl1"),
)
add(
    "MultinomialLogisticLoss",
    plain=([shares(4, 5), whole(4, below=5)],),
    four=([shares(4, 5, 1, 1), whole(4, 1, 1, 1, below=5)],),
    spread=([shares(3, 2, 2, 1), whole(3, below=4)],),
    zero=([some(0.0, 1.0, 0.5, 0.5, shape=(2, 2)), some(0, 1)],),
    v1=Case(
        "MultinomialLogisticLoss", [shares(4, 5, 1, 1), whole(4, 1, 1, 1, below=5)], dialect="dl1"
    ),
)
add(
    "HingeLoss",
    l1=([N(4, 5), whole(4, below=5)],),
    l2=([N(4, 5), whole(4, below=5)], {"norm": "L2"}),
    four=([N(3, 2, 2, 1), whole(3, 1, 1, 1, below=4)], {"norm": "L1"}),
    v1=Case(
        "HingeLoss", [N(4, 5, 1, 1), whole(4, 1, 1, 1, below=5)], {"norm": "L2"}, dialect="dl1"
    ),
)
add(
    "EuclideanLoss",
    plain=([X, X],),
    flat=([N(4, 3), N(4, 3)],),
    shapes=([N(2, 3, 4), N(2, 12)],),
    one=([N(3), N(3)],),
    dl2=Case("EuclideanLoss", [X, X], dialect="dl2"),
    v1=Case("EuclideanLoss", [X, X], {"type": "L2"}, dialect="dl1"),
    v1_root=Case("EuclideanLoss", [X, X], {"type": "L2sqrt"}, dialect="dl1"),
    v1_small=Case(
        "EuclideanLoss",
        [some(1e-7, 2e-7, shape=(1, 2, 1, 1)), some(0, 0, shape=(1, 2, 1, 1))],
        {"type": "L2sqrt"},
        dialect="dl1",
    ),
)
_P = [N(6, 3), N(6, 3), some(1, 0, 1, 0, 0, 0)]
add(
    "ContrastiveLoss",
    plain=(_P,),
    margin=(_P, {"margin": 5}),
    legacy=(_P, {"margin": 5, "legacy_version": True}),
    close=([some(0, 0, 0, 0, shape=(2, 2)), some(0, 0, 0.1, 0, shape=(2, 2)), some(0, 0)],),
    four=([N(3, 2, 1, 1), N(3, 2, 1, 1), some(0, 1, 0, shape=(3, 1, 1, 1))], {"margin": 3}),
    dl2=Case("ContrastiveLoss", _P, {"margin": 4}, dialect="dl2"),
    v1=Case(
        "ContrastiveLoss",
        [N(3, 4, 1, 1), N(3, 4, 1, 1), some(0, 1, 0, shape=(3, 1, 1, 1))],
        {"margin": 9},
        dialect="dl1",
    ),
)
_ties = whole(2, 5, 3, 4, below=3)
for _dialect in ("bvlc", "dl2"):
    add(
        "Accuracy",
        **{
            f"{name}_{_dialect}": Case("Accuracy", bottoms, p, tops=tops, dialect=_dialect)
            for name, bottoms, p, tops in (
                ("plain", [_S, _L], {}, 1),
                ("top", [_S, _L], {"top_k": 3}, 1),
                ("ignore", [_S, _LI], {"ignore_label": 255}, 1),
                ("classes", [_S, _LI], {"ignore_label": 255, "top_k": 2}, 2),
                ("ties", [_ties, _L], {"top_k": 2}, 1),
                ("axis", [N(2, 3, 4), whole(2, 3, below=4)], {"axis": -1}, 2),
                ("all", [_S, _L], {"top_k": 5}, 1),
                ("flat", [N(7, 3), whole(7, below=3)], {}, 1),
            )
        },
    )
add(
    "Accuracy",
    nobody=([_S, _NONE], {"ignore_label": 255}),
    v1=Case("Accuracy", [N(5, 2, 2, 1), whole(5, 1, 1, 1, below=4)], {"top_k": 2}, dialect="dl1"),
    outside=Case("Accuracy", [_S, _LI], dialect="dl2"),
    outside_and_ignored=Case("Accuracy", [_S, _LI], {"ignore_label": 0}, dialect="dl2"),
    v1_outside=Case(
        "Accuracy", [N(5, 4, 1, 1), whole(5, 1, 1, 1, below=4, also=255)], dialect="dl1"
    ),
)
add(
    "SegAccuracy",
    **{
        name: Case("SegAccuracy", bottoms, p, dialect=dialect)
        for name, bottoms, p, dialect in (
            ("plain", [_S, _L], {}, "dl2"),
            ("ignore", [_S, _LI], {"ignore_label": [255]}, "dl2"),
            ("two", [_S, _LI], {"ignore_label": [255, 0]}, "dl2"),
            ("ties", [_ties, _L], {}, "dl2"),
            ("nobody", [_S, _NONE], {"ignore_label": [255]}, "dl2"),
            ("rare", [_S, whole(2, 1, 3, 4, below=2)], {}, "dl2"),
            ("v1", [_S, _LI], {"ignore_label": [255]}, "dl1"),
        )
    },
)
