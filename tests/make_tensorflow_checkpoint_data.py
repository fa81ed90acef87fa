"""Makes `tests/data/tensorflow/checkpoints/` from the files that TensorFlow itself wrote.

    python tests/make_tensorflow_checkpoint_data.py REFERENCE [tests/data/tensorflow/checkpoints]

REFERENCE holds the checkpoints, the frozen graph, what TensorFlow read back from the checkpoints
(`NAME.expected.npz`) and the generator of the frozen graph's weights (`../make_weights.py`). The
files are copied; of the expected values `expected.json` keeps

    {file: {variable: [type, shape, first 16 digits of the SHA-256 of the values]}}

in which `network.ckpt-2` has of more than 64 values the first and last 32, as its reference has.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path)
    default = Path(__file__).parent / "data" / "tensorflow" / "checkpoints"
    parser.add_argument("target", type=Path, nargs="?", default=default)
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.reference.iterdir()):
        if path.suffix == ".pb" or (".ckpt" in path.name and path.suffix != ".npz"):
            shutil.copyfile(path, options.target / path.name)
    about = json.loads((options.reference / "checkpoints.json").read_text())
    expected: dict[str, dict[str, Any]] = {}
    for name, facts in about.items():
        if name.endswith(".pb"):
            sys.path.insert(0, str(options.reference.parent))
            from make_weights import make_all

            arrays = make_all(facts["variables"], facts["salt"])
            shapes = dict(facts["variables"])
        else:
            arrays = dict(np.load(options.reference / f"{name}.expected.npz"))
            shapes = {key: entry[1] for key, entry in facts["tensors"].items()}
        expected[name] = {
            key: [array.dtype.name, shapes[key], digest(array.tobytes())]
            for key, array in arrays.items()
        }
        if "strings_b64" in facts:
            strings = [base64.b64decode(text) for text in facts["strings_b64"]]
            expected[name]["strings"] = ["object", [len(strings)], digest(b"\0".join(strings))]
    lines = [
        f'"{name}": {{\n' + ",\n".join(f' "{k}": {json.dumps(v)}' for k, v in kept.items()) + "\n}"
        for name, kept in expected.items()
    ]
    (options.target / "expected.json").write_text("{" + ",\n".join(lines) + "}\n")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    main()
