"""Makes tests/data/lattice/ from recordings of the dense CRF programs.

python tests/make_lattice_data.py RECORDINGS: a folder with the .npz files that the densecrf
programs and their drivers wrote. Of large arrays every n-th point is kept, in the order of the
picture; `exact_*` are sums over all pairs of pixels and a lattice in float64.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "data" / "lattice"
# Case: keep every n-th point.
CASES = {"dl_b_63x47_c2": 4, "dl_d_40x30_c4_relax": 2, "dl_e_40x30_c4_matrix": 2}
EXACT = ("exact_a_32x24_c4", "exact_b_32x24_c4_wide")


def densecrf_case(data, step: int) -> dict[str, np.ndarray]:
    """What the program made of a picture: lattices, norms, filtered values, marginals."""
    scaled = data["unary"] * 64
    out = {
        "image": data["image"],
        "step": np.array(step),
        "unary64": scaled.astype(np.int16),
        "q": every(data["Q"][-1], step),
        "filter_in": data["filter_in"][..., :2],
    }
    assert (out["unary64"] == scaled).all()
    for name in ("params", "iterations", "M", "compat_matrix"):
        if name in data:
            out[name] = data[name]
    for kernel in "gb":
        out[f"norm_raw_{kernel}"] = data[f"norm_raw_{kernel}"].reshape(-1)[::step]
        out[f"filter_raw_{kernel}"] = every(data[f"filter_raw_{kernel}"][..., :2], step)
        if f"bar_{kernel}" in data:
            out[f"bar_{kernel}"] = data[f"bar_{kernel}"][::step]
            out[f"off_{kernel}"] = data[f"off_{kernel}"][::step]
            out[f"nb_{kernel}"] = data[f"nb_{kernel}"][:, ::step]
    return out


def exact_case(data) -> dict[str, np.ndarray]:
    """Brute-force sums (float32 will do for their bounds) and the float64 lattice's."""
    out = {name: data[name] for name in ("image", "params")}
    out["filter_in"] = data["filter_in"]
    for kernel in "gb":
        for what in ("raw", "ones"):
            values = data[f"f64_exact_{what}_{kernel}"].reshape(24 * 32, -1)
            out[f"exact_{what}_{kernel}"] = values.astype(np.float32)
        out[f"lattice_raw_{kernel}"] = every(data[f"f64_lattice_raw_{kernel}"], 4)
    return out


def every(values: np.ndarray, step: int) -> np.ndarray:
    """Every step-th point of (H, W, C) values, (points, C)."""
    return values.reshape(-1, values.shape[-1])[::step]


def main(recordings: str) -> None:
    OUT.mkdir(exist_ok=True)
    for name, step in CASES.items():
        with np.load(Path(recordings) / f"{name}.npz") as data:
            np.savez_compressed(OUT / f"{name}.npz", **densecrf_case(data, step))
    for name in EXACT:
        with np.load(Path(recordings) / f"{name}.npz") as data:
            np.savez_compressed(OUT / f"{name}.npz", **exact_case(data))


if __name__ == "__main__":
    main(sys.argv[1])
