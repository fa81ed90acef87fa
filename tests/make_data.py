"""Makes `tests/data/caffe/` from a folder of networks that Caffe itself ran.

    python tests/make_data.py REFERENCE [tests/data/caffe]

REFERENCE holds a folder per network with `deploy.prototxt`, `weights.caffemodel` and
`activations.h5` (`/blobs/NAME`, every blob as it stood after Caffe's forward pass), and folders of
solver runs. Whole activations are too large for a repository, so of every blob we keep what tells
two implementations apart: `activations_sampled.h5` holds

    /blobs/NAME          a group per blob; attributes shape, l2 (2-norm), largest (max |value|)
    /blobs/NAME/index    512 flat indexes, sorted, drawn with a seed made of the name
    /blobs/NAME/value    the values there
    /blobs/NAME/full     the whole blob instead, for inputs, what a CRF gives, and small blobs
    /blobs/NAME/labels   of the scores that end a network, (N, C, H, W): the channel of the largest
                         at every pixel, as uint8 (N, H, W); index and value then hold all channels
                         of 512 pixels

`train_sgd_poly/batches_sampled.h5` holds the blobs of its data layer in the same form, as `/iter0`
and `/iter1`: the last of the two passes of an iteration.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np

SAMPLES = 512

NETWORKS = (
    "deeplab_plain_v1_w16",
    "dense_crf_layer",
    "largefov_v1_w8",
    "largefov_v2_w8",
    "msc_largefov_v1_w8",
    "resnet101_msc_w16",
    "vgg16_aspp_l_w8",
)
# Kept whole in every network that has them: its inputs, and what a CRF makes of them.
WHOLE = {"data", "data_dim", "score", "crf"}
# Scores of the size of the picture.
SCORES = {"fc8_crop", "fc1_interp", "fc8_interp", "fc_fusion"}
RUNS = (
    "adagrad",
    "adam_step",
    "rmsprop",
    "sgd_exp",
    "sgd_fixed",
    "sgd_poly_hdf5_snapshots",
    "sgd_poly_iter_size",
    "sgd_sigmoid",
    "sgd_step",
)
FOLDERS = ("images", "labels")  # of train_sgd_poly
SOLVER_FILES = {
    "train_sgd_poly": (
        "solver.prototxt",
        "train.prototxt",
        "init.caffemodel",
        "snap_iter_10.caffemodel",
        "snap_iter_10.solverstate",
    ),
    **{
        f"solvers/{name}": (
            "solver.prototxt",
            "snap_iter_6.caffemodel",
            "snap_iter_6.solverstate",
            "snap_iter_12.solverstate",
        )
        for name in RUNS
    },
    "solvers/sgd_poly_hdf5_snapshots": (
        "solver.prototxt",
        "snap_iter_6.caffemodel.h5",
        "snap_iter_6.solverstate.h5",
    ),
    "solvers/adagrad": (
        "solver.prototxt",
        "train.prototxt",  # the same in all of them, as is the file of the weights to start from
        "init.caffemodel",
        "snap_iter_6.caffemodel",
        "snap_iter_6.solverstate",
        "snap_iter_12.solverstate",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    default = Path(__file__).parent / "data" / "caffe"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    args = parser.parse_args()
    for name in NETWORKS:
        make_network(args.reference / name, args.out / name)
    for name, files in SOLVER_FILES.items():
        for file in files:
            copy(args.reference / name / file, args.out / name / file)
    make_runs(args.reference / "solvers", args.out / "solvers" / "runs.h5")
    make_training(args.reference / "train_sgd_poly", args.out / "train_sgd_poly" / "training.h5")
    make_batches(args.reference / "train_sgd_poly", args.out / "train_sgd_poly")
    total = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {total / 1e6:.1f} MB", file=sys.stderr)


def make_network(source: Path, target: Path) -> None:
    copy(source / "deploy.prototxt", target / "deploy.prototxt")
    if (source / "weights.caffemodel").exists():
        copy(source / "weights.caffemodel", target / "weights.caffemodel")
    with (
        h5py.File(source / "activations.h5") as full,
        h5py.File(target / "activations_sampled.h5", "w", libver="latest") as small,
    ):
        small.attrs["caffe"] = full.attrs["caffe"]
        blobs = full["blobs"]
        last = last_scores(set(blobs))
        for name in sorted(blobs):
            group, values = small.create_group(f"blobs/{name}"), blobs[name][()]
            if name in last:
                write_scores(group, name, values)
            else:
                write_blob(group, name, values, name in WHOLE)


def make_runs(source: Path, target: Path) -> None:
    """`/NAME`: what each solver run read (`data`, `label`), its `loss` and `final/LAYER/i`."""
    with h5py.File(target, "w", libver="latest") as out:
        for name in RUNS:
            for file in ("data.h5", "training.h5"):
                with h5py.File(source / name / file) as run:
                    copy_values(run, out.require_group(name))


def copy_values(source: h5py.Group, target: h5py.Group) -> None:
    def one(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            packed = {"compression": "gzip"} if item.size > 100 else {}
            target.create_dataset(name, data=item[()], **packed)

    source.visititems(one)


def make_training(source: Path, target: Path) -> None:
    """The run of `train_sgd_poly`; updates and final weights sampled, see `write_blob`.

    /loss, /accuracy          of every iteration
    /update/LAYER/i           what iteration 0 subtracted from the weights
    /final/LAYER/i            the weights after the last one
    """
    with (
        h5py.File(source / "training.h5") as full,
        h5py.File(target, "w", libver="latest") as small,
    ):
        for name in ("loss", "accuracy"):
            small[name] = full[name][()]
        for kind, where in (("update", "iter0/update"), ("final", "final")):
            for layer, blobs in full[where].items():
                for i in blobs:
                    group = small.create_group(f"{kind}/{layer}/{i}")
                    write_blob(group, f"{layer}/{i}", blobs[i][()], False, samples=128)


def make_batches(source: Path, target: Path) -> None:
    """What the data layer gave in training: pictures, their list, and two batches."""
    for file in ("train.txt", *(f"{folder}/{i}.png" for folder in FOLDERS for i in range(6))):
        copy(source / file, target / file)
    with (
        h5py.File(source / "training.h5") as full,
        h5py.File(target / "batches_sampled.h5", "w", libver="latest") as small,
    ):
        for iteration in ("iter0", "iter1"):
            for name in ("data", "label", "data_dim"):
                group = small.create_group(f"{iteration}/{name}")
                write_blob(group, name, full[f"{iteration}/{name}"][()], name == "label")


def last_scores(names: set[str]) -> set[str]:
    """The blobs of `SCORES` that end this net."""
    last = names & SCORES
    for ending, before in (("fc8_crop", "fc8_interp"), ("fc_fusion", "fc8_interp")):
        if ending in names:
            last.discard(before)
    if "fc1_interp" in names:
        last.discard("fc_fusion")
    return last


def write_blob(
    group: h5py.Group, name: str, values: np.ndarray, whole: bool, samples: int = SAMPLES
) -> None:
    write_norms(group, values)
    if whole or values.size <= samples:
        write_packed(group, full=values.astype(np.float32))
        return
    write_samples(group, values, draw(name, values.size, samples))


def write_scores(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Labels of all pixels, and all channels of some."""
    write_norms(group, values)
    count, channels, height, width = values.shape
    picture, pixel = np.divmod(draw(name, count * height * width, SAMPLES), height * width)
    index = (picture[:, None] * channels + np.arange(channels)) * height * width + pixel[:, None]
    write_samples(group, values, np.sort(index, axis=None))
    write_packed(group, labels=values.argmax(1).astype(np.uint8))


def draw(name: str, size: int, samples: int) -> np.ndarray:
    """Sorted flat indexes, with the name as seed, so that a second run draws the same."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return np.sort(random.choice(size, samples, replace=False))


def write_norms(group: h5py.Group, values: np.ndarray) -> None:
    wide = values.astype(np.float32).astype(np.float64).ravel()
    group.attrs["shape"] = values.shape
    group.attrs["l2"] = np.sqrt(np.dot(wide, wide))
    group.attrs["largest"] = np.abs(wide).max()


def write_samples(group: h5py.Group, values: np.ndarray, index: np.ndarray) -> None:
    value = values.ravel()[index].astype(np.float32)
    write_packed(group, index=index.astype(np.uint32), value=value)


def write_packed(group: h5py.Group, **arrays: np.ndarray) -> None:
    packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    for name, values in arrays.items():
        group.create_dataset(name, data=values, **packed)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)  # contents only: the source may be read-only


if __name__ == "__main__":
    main()
