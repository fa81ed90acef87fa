"""Makes `tests/data/tensorflow/{preprocess,training}/` from what the original program computed.

    python tests/make_tensorflow_training_data.py REFERENCE [tests/data/tensorflow]

REFERENCE holds `preprocess.json` and `.npz`, and the same two of each `train_*` case. Pictures and
labels are kept whole; of any other array of more values than LIMITS says we keep so many, the first
ones of those that REFERENCE itself drew:

    array.reshape(-1)[numpy.random.default_rng(0).integers(0, array.size, count)]    (NHWC, C order)

    preprocess/cases.json       REFERENCE's, without statistics
    preprocess/arrays.npz       NAME/image, label_in, processed, label, original; scale/FACTOR/...
    training/cases.json         case -> {"case", "arrays": key -> {shape, stored, std, l2}, "step"}
    training/CASE.npz           the arrays, and of all variables in alphabetical order
                                gradient_l2_norms (trainable ones) and moving_after_mean_std
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: How many values are kept at most, by what an array is; of what is not named the last number.
LIMITS: Final = {"logits": 256, "processed": 1024, "original": 512, "image": 512, "": 64}
TRAINING: Final = (
    "train_mnv2_dm035",
    "train_mnv2_dm035_labelweights_down",
    "train_mnv2_dm035_topk",
    "train_mnv2_dm035_two_steps",
    "train_r18b_frozen_bn",
    "train_r18b_mining_ramp_dropout",
)
#: Kept whole.
WHOLE: Final = ("input", "labels", "label", "label_in", "dropout_keep_mask")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    default = Path(__file__).parent / "data" / "tensorflow"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    args = parser.parse_args()
    make_preprocess(args.reference, args.out / "preprocess")
    make_training(args.reference, args.out / "training")
    for folder in ("preprocess", "training"):
        size = sum(path.stat().st_size for path in (args.out / folder).iterdir())
        print(f"{args.out / folder}: {size / 1e3:.0f} kB", file=sys.stderr)


def make_preprocess(reference: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    cases = json.loads((reference / "preprocess.json").read_text())
    kept = [{k: v for k, v in case.items() if k not in ("stats", "rows")} for case in cases]
    write_json(target / "cases.json", kept)
    arrays = {}
    with np.load(reference / "preprocess.npz") as full:
        for key in full.files:
            kind = key.rpartition("/")[2]
            if kind == "network_input":  # what a network makes of it is tested with the networks
                continue
            whole = full[key].ndim == 3 and kind != "processed"
            sampled = full[key].shape == (4096,)
            arrays[key] = full[key] if whole else kept_values(full[key], kind, sampled)
    np.savez_compressed(target / "arrays.npz", **arrays)


def make_training(reference: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    cases = {}
    for name in TRAINING:
        info = json.loads((reference / f"{name}.json").read_text())
        arrays, described = {}, {}
        with np.load(reference / f"{name}.npz") as full:
            for key in full.files:
                if key in WHOLE:
                    arrays[key] = full[key]
                    continue
                about = info["arrays"][key]
                sampled = about["stored"] != "full"
                values = kept_values(full[key], key.split("/")[0], sampled)
                size = int(np.prod(about["shape"]))
                arrays[key] = values
                described[key] = {
                    "shape": about["shape"],
                    "stored": "full" if values.size == size else values.size,
                    **{k: about[k] for k in ("std", "l2", "rounding_noise") if k in about},
                }
        norms = info["gradient_l2_norms"]
        norms.pop("input")
        arrays["gradient_l2_norms"] = in_order(norms)
        arrays["moving_after_mean_std"] = in_order(info["moving_after_mean_std"])
        np.savez_compressed(target / f"{name}.npz", **arrays)
        cases[name] = {"case": info["case"], "arrays": described}
        if "step" in info:
            cases[name]["step"] = info["step"]
        if "dropout_keep_mask" in info["arrays"]:
            cases[name]["dropout_shape"] = info["arrays"]["dropout_keep_mask"]["shape"]
    write_json(target / "cases.json", cases)


def kept_values(array: Array, kind: str, is_sampled: bool) -> Array:
    """The samples that the module's docstring describes; all values where there are few.

    Args:
        is_sampled: the array holds samples already.
    """
    array, limit = array.reshape(-1), LIMITS.get(kind, LIMITS[""])
    if is_sampled or array.size <= limit:
        return array[:limit]
    return array[np.random.default_rng(0).integers(0, array.size, limit)]


def in_order(values: dict[str, Any]) -> Array:
    return np.array([values[name] for name in sorted(values)], np.float32)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
