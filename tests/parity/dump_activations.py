#!/usr/bin/env python
"""Save what Caffe computes for every blob of a network, for `deeplab-repro compare`.

Run this where pycaffe works; it needs caffe, numpy and h5py, and Python 2.7 or 3:

    python dump_activations.py deploy.prototxt net.caffemodel --input picture.jpg -o activations.h5
    deeplab-repro compare net.caffemodel --prototxt deploy.prototxt --activations activations.h5

The file holds /blobs/NAME in float32 for every blob, inputs included, as it stands after the whole
forward pass (a blob that a layer overwrites in place holds the last value); blobs that Caffe's
automatic Split layers made are left out. A "/" in a blob's name makes nested groups.

--input is a picture, an .npy (the values of the network's first input), or an .h5 with
/blobs/INPUT for every input. A picture goes in as BGR minus the mean, at its own size. Leave
--input out for a network that reads its data itself.
"""

# ruff: noqa: UP010, UP032
from __future__ import division, print_function

import argparse
import re
import sys

import h5py
import numpy as np


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prototxt")
    parser.add_argument("weights")
    parser.add_argument("--input", help="a picture, an .npy, or an .h5 with /blobs/INPUT")
    parser.add_argument("-o", "--output", default="activations.h5")
    parser.add_argument(
        "--mean",
        default="104.008,116.669,122.675",
        help="B,G,R to subtract from a picture, or none (default: %(default)s)",
    )
    parser.add_argument("--train", action="store_true", help="run the TRAIN phase")
    parser.add_argument("--gpu", type=int, metavar="N", help="run on GPU N (default: the CPU)")
    args = parser.parse_args(argv)

    import caffe  # here, so that --help works without it

    net = load(caffe, args.prototxt, args.weights, args.train, args.gpu)
    inputs = read_inputs(caffe, args.input, list(net.inputs), args.mean) if args.input else {}
    written = dump(net, inputs, args.output)
    print("{}: {} blobs".format(args.output, written))
    return 0


def load(caffe, prototxt, weights, train, gpu):
    """The network; pycaffe of the DeepLab v1 fork knows no phase at construction."""
    if hasattr(caffe, "TEST"):
        set_device(caffe, gpu)
        return caffe.Net(prototxt, weights, caffe.TRAIN if train else caffe.TEST)
    net = caffe.Net(prototxt, weights)
    if train:
        net.set_phase_train()
    else:
        net.set_phase_test()
    set_device(net, gpu)
    return net


def set_device(where, gpu):
    if gpu is None:
        where.set_mode_cpu()
    else:
        where.set_mode_gpu()
        where.set_device(gpu)


def read_inputs(caffe, path, names, mean):
    """Input blobs by name, NCHW."""
    if path.endswith(".h5"):
        with h5py.File(path, "r") as f:
            missing = [name for name in names if "blobs/" + name not in f]
            if missing:
                sys.exit("{}: holds no /blobs/{}".format(path, missing[0]))
            return {name: f["blobs/" + name][()] for name in names}
    if len(names) != 1:
        sys.exit(
            "the network has inputs {}: give them in an .h5".format(", ".join(names) or "none")
        )
    if path.endswith(".npy"):
        return {names[0]: np.load(path)}
    # caffe.io gives RGB from 0 to 1, height x width x channel; back to the 8-bit values it read.
    picture = np.rint(caffe.io.load_image(path) * 255)[:, :, ::-1]
    if mean != "none":
        picture = picture - np.array([float(value) for value in mean.split(",")])
    return {names[0]: picture.transpose(2, 0, 1)[np.newaxis]}


def dump(net, inputs, path):
    """Run `net` and write its blobs; how many were written."""
    for name, values in inputs.items():
        values = np.asarray(values, dtype=np.float32)
        if tuple(net.blobs[name].data.shape) != values.shape:
            net.blobs[name].reshape(*values.shape)
        net.blobs[name].data[...] = values
    if hasattr(net, "reshape"):  # older layers do not follow a new input size by themselves
        net.reshape()
    net.forward()
    names = [name for name in net.blobs if not is_split(name, net.blobs)]
    with h5py.File(path, "w") as f:
        for name in names:
            # Blobs of later Caffe may have any number of axes; older pycaffe always shows four.
            f.create_dataset(
                "blobs/" + name,
                data=np.array(net.blobs[name].data, np.float32),
                compression="gzip" if net.blobs[name].data.size else None,
            )
    return len(names)


def is_split(name, blobs):
    """Whether Caffe made this copy itself: BLOB_LAYER_INDEX_split_COPY (util/insert_splits.cpp)."""
    if not re.search(r"_\d+_split_\d+$", name):
        return False
    return any(name.startswith(blob + "_") for blob in blobs if blob != name)


if __name__ == "__main__":
    sys.exit(main())
