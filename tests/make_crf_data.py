"""Makes `tests/data/crf/` from the inputs and outputs of the original dense CRF programs.

    python tests/make_crf_data.py REFERENCE [tests/data/crf]

REFERENCE holds the .npz files of DeepLab's densecrf programs (`dl_*`), of pydensecrf (`pyd_*`) and
of brute-force sums (`exact_*`). Kept are the whole inputs, packed, and of the outputs what tells
two implementations apart: labels whole, everything else at some pixels drawn with the name as seed.
The form of a file:

    image            WebP without loss, as bytes; height x width x 3, BGR once decoded
    unary            steps from column to column, times unary_scale, as LZMA of int8 or int16;
                     classes x height x width, given by unary_shape
    pixels           flat indexes of the pixels that arrays with `_at` in their name belong to
    margin           one bit a pixel: best marginal more than 1e-3 above the second
    the others       as in REFERENCE, `Q` that of the last iteration
"""

from __future__ import annotations

import argparse
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

Arrays = dict[str, np.ndarray]
PIXELS = 300
#: Copied whole wherever they occur.
WHOLE = (
    *("params", "param_names", "iterations", "M", "M_g", "M_b", "compat_matrix", "compat_diag"),
    *("sxy_gaussian", "sxy_bilateral", "srgb", "w", "w_gaussian", "w_bilateral", "kl"),
    *("w_NO", "w_BEFORE", "w_AFTER", "w_SYMMETRIC", "labels", "labels_prog_v1"),
    *("sdims_gaussian", "sdims_bilateral", "schan", "volume", "annotation", "output_rgb", "prob"),
    *("features", "L", "f", "source_image"),
)
NORMS, COMPATS = ("NO", "BEFORE", "AFTER", "SYMMETRIC"), ("potts", "diag", "matrix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    default = Path(__file__).parent / "data" / "crf"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for source in sorted(args.reference.glob("*.npz")):
        with np.load(source) as file:
            kept = dict(packed(source.stem, {name: file[name] for name in file}))
        np.savez_compressed(args.out / source.name, **kept)
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {total / 1e6:.2f} MB", file=sys.stderr)


def packed(name: str, case: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays to keep of one case."""
    for key in WHOLE:
        if key in case:
            yield key, case[key]
    for key, value in case.items():
        if key.startswith("util_") or (
            key.startswith("kl_") and not {"CONST", "FULL"} & {*key.split("_")}
        ):
            yield key, value
    if name.startswith("exact"):
        yield "filter_in", case["filter_in"]
    if "labels_prog_v4" in case:  # the program's are the driver's
        assert np.array_equal(case["labels_prog_v4"], case["labels"])
    if "image" in case:
        yield "image", packed_image(case["image"])
    if "unary" in case:
        yield from packed_unary(case["unary"])
    if "labels" in case and "margin" in case:
        yield "margin", np.packbits(case["margin"] > 1e-3)
    size = pixel_count(case)
    if size is None:
        if "Q" in case:  # points of any kind, few of them
            yield "Q_final", case["Q"][-1]
        return
    random = np.random.RandomState(zlib.crc32(name.encode()))
    pixels = np.sort(random.choice(size, min(PIXELS, size), replace=False)).astype(np.int32)
    if "Q_sub" in case:  # only every eighth row and column are known
        height, width = case["image"].shape[:2]
        rows, columns = np.arange(0, height, 8), np.arange(0, width, 8)
        grid = (rows[:, None] * width + columns).ravel()
        pixels = np.sort(random.choice(grid, min(PIXELS, len(grid)), replace=False))
        pixels = pixels.astype(np.int32)
        sub = case["Q_sub"][-1] if case["Q_sub"].ndim == 4 else case["Q_sub"]
        whole = np.zeros((height, width, sub.shape[-1]), np.float32)
        whole[::8, ::8] = sub
        case["Q_final"] = whole
    yield "pixels", pixels
    yield from ((key, at(value, pixels, size)) for key, value in sampled(case))


def sampled(case: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """(name with `_at`, array over all pixels)."""
    if "Q" in case:
        case["Q_final"] = case["Q"][-1]
    for key in ("Q_final", "norm_raw_g", "norm_raw_b", "Q_program", "f64_Q_lattice"):
        if key in case:
            yield f"{key}_at", case[key]
    for kernel in ("g", "b", "b1"):
        if f"features_{kernel}" in case:
            yield f"features_{kernel}_at", case[f"features_{kernel}"].T
    if "Q_b1_only_SYMMETRIC" in case:
        yield "Q_b1_only_at", case["Q_b1_only_SYMMETRIC"]
    for kernel in "gb":
        for key in ("f64_exact_raw", "f64_exact_ones", "f64_lattice_raw", "f64_lattice_ones"):
            if f"{key}_{kernel}" in case:
                yield f"{key}_{kernel}_at", case[f"{key}_{kernel}"]
    for norm in NORMS:
        for compat in COMPATS:
            key = f"Q_{norm}_DIAG_{compat}"
            if key in case:
                for other in ("CONST", "FULL"):  # what could be learned changes no marginal
                    assert np.array_equal(case[f"Q_{norm}_{other}_{compat}"], case[key])
                yield f"Q_{norm}_{compat}_at", case[key]
        if f"Q_{norm}" in case:
            yield f"Q_{norm}_at", case[f"Q_{norm}"][-1]


def at(values: np.ndarray, pixels: np.ndarray, size: int) -> np.ndarray:
    """Values over all pixels, whose axes come first, at some."""
    return values.reshape(size, -1)[pixels].astype(np.float32)


def pixel_count(case: Arrays) -> int | None:
    for key, axes in (("unary", -1), ("prob", -1)):
        if key in case:
            return int(np.prod(case[key].shape[:axes]))
    return None


def packed_image(image: np.ndarray) -> np.ndarray:
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101]
    content = cv2.imencode(".webp", image[:, :, ::-1], lossless)[1].ravel()
    assert np.array_equal(cv2.imdecode(content, cv2.IMREAD_COLOR)[:, :, ::-1], image)
    return content


def packed_unary(unary: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Energies (..., C), multiples of 1/8 or 1/64, as small whole numbers that LZMA packs well."""
    scale = next(s for s in (8, 64) if np.array_equal(np.round(unary * s), unary * s))
    numbers = np.moveaxis(np.round(unary * scale).astype(np.int32), -1, 0)
    steps = np.diff(numbers, axis=-1, prepend=0)
    kind = np.int8 if np.abs(steps).max() < 128 else np.int16
    content = lzma.compress(np.ascontiguousarray(steps, kind).tobytes(), preset=9)
    yield "unary", np.frombuffer(content, np.uint8)
    yield "unary_scale", np.float32(scale)
    yield "unary_shape", np.array(numbers.shape)
    yield "unary_kind", np.array(np.dtype(kind).str)


if __name__ == "__main__":
    main()
