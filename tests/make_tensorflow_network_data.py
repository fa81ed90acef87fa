"""Makes `tests/data/tensorflow/networks/` from reference runs of the original TensorFlow program.

    python tests/make_tensorflow_network_data.py REFERENCE [tests/data/tensorflow/networks]

REFERENCE holds CASE.json and CASE.npz for each network, and variables.json. Kept are inputs and
labels whole, and of every other array the first values of the reference's own sample, which are a
sample by the same rule: `numpy.random.default_rng(0).integers(0, size, k)` of the array in NHWC.
Nothing is kept of the weights: `tests/testing/tensorflow_weights.py` makes them from their names.
The form::

    cases.json   {CASE: {case: its options, variables: sha256 of its variables' names and shapes,
                  arrays: {KEY: [shape, standard deviation, place in "values", how many]}}}
    CASE.npz     input, labels, and "values", all kept samples one after the other
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

#: Values of each array; a network has about a hundred arrays.
KEPT = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    default = Path(__file__).parent / "data" / "tensorflow" / "networks"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    variables = json.loads((args.reference / "variables.json").read_text())
    cases = {}
    for source in sorted(args.reference.glob("*.json")):
        name = source.stem
        if name not in variables["cases"] or name.startswith("train_"):
            continue
        spec = variables["sets"][variables["cases"][name]["set"]]
        cases[name] = packed(json.loads(source.read_text()), source, args.out / f"{name}.npz")
        cases[name]["variables"] = digest(dict(spec))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (args.out / "cases.json").write_text(f"{{\n{lines}\n}}\n")
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {len(cases)} networks, {total / 1e6:.2f} MB", file=sys.stderr)


def packed(info: dict[str, Any], source: Path, target: Path) -> dict[str, Any]:
    """Write the arrays of a case; its entry in cases.json."""
    arrays: dict[str, list[Any]] = {}
    values: list[np.ndarray] = []
    place = 0
    with np.load(source.with_suffix(".npz")) as file:
        for key, array in info["arrays"].items():
            if key in ("input", "labels"):
                continue
            sample = file[key].reshape(-1)
            if array["stored"] == "full":
                size = len(sample)
                sample = sample[np.random.default_rng(0).integers(0, size, min(size, KEPT))]
            sample = sample[:KEPT]
            arrays[key] = [array["shape"], float(f"{array['std']:.6g}"), place, len(sample)]
            values.append(sample.astype(np.float32))
            place += len(sample)
        np.savez_compressed(
            target,
            input=file["input"],
            labels=file["labels"].astype(np.uint8),
            values=np.concatenate(values),
        )
    return {"case": info["case"], "arrays": arrays}


def digest(shapes: dict[str, Any]) -> str:
    """Of names and shapes of variables."""
    lines = [f"{name} {list(shapes[name])}" for name in sorted(shapes)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


if __name__ == "__main__":
    main()
