"""Small sound files of every kind, for the mutator to spoil."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io

from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.pictures.scores import write_scores
from prototxt_import import SolverState, infer_net, write_solverstate, write_weights
from prototxt_import.matching import shared_parameters
from prototxt_import.model import parse_net
from tests.fuzz.bundles import tensorflow_seeds

CURRENT = """
name: "tiny"
input: "data" input_shape { dim: 1 dim: 3 dim: 9 dim: 11 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { name: "w" lr_mult: 1 } param { name: "b" lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 2 dilation: 2 group: 1
    weight_filler { type: "gaussian" std: 0.1 } bias_filler { type: "constant" value: 0.5 } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "conv2" type: "Convolution" bottom: "data" top: "conv2"
  param { name: "w" } param { name: "b" }
  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 3 stride: 2 pad: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "pool1" bottom: "pool1" top: "sum"
  eltwise_param { operation: SUM coeff: 0.5 coeff: 0.5 } }
layer { name: "both" type: "Concat" bottom: "sum" bottom: "pool1" top: "both" }
layer { name: "up" type: "Deconvolution" bottom: "both" top: "up"
  convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "tile" type: "Tile" bottom: "up" top: "tile" tile_param { axis: 1 tiles: 2 } }
layer { name: "flat" type: "Reshape" bottom: "both" top: "flat"
  reshape_param { shape { dim: 0 dim: -1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc"
  inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" include { phase: TEST } }
"""

V1 = """
name: "tiny_v1"
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 4 kernel_size: 3 pad: 2 hole: 2 } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layers { name: "drop" type: DROPOUT bottom: "pool1" top: "pool1"
  dropout_param { dropout_ratio: 0.5 } }
layers { name: "up" type: INTERP bottom: "pool1" top: "up" interp_param { zoom_factor: 2 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "pool1" top: "fc" strict_dim: false
  inner_product_param { num_output: 3 } }
layers { name: "label" type: DUMMY_DATA top: "label" include { phase: TRAIN }
  dummy_data_param { num: 1 channels: 1 height: 1 width: 1 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "fc" bottom: "label" include { phase: TRAIN } }
"""

FORK = """
name: "tiny_v2"
layer { name: "data" type: "ImageSegData" top: "data" top: "label" top: "data_dim"
  transform_param { crop_size: 9 mean_value: 104 }
  image_data_param { source: "list" batch_size: 1 label_type: PIXEL } }
layer { name: "fc1" type: "Convolution" bottom: "data" top: "fc1"
  convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "shrink" type: "Interp" bottom: "label" top: "small"
  interp_param { shrink_factor: 2 } }
layer { name: "interp" type: "Interp" bottom: "fc1" top: "interp"
  interp_param { height: 9 width: 9 } }
layer { name: "accuracy" type: "SegAccuracy" bottom: "interp" bottom: "label" top: "accuracy"
  seg_accuracy_param { ignore_label: 255 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "interp" bottom: "label"
  loss_param { ignore_label: 255 } softmax_param { axis: 1 } }
layer { name: "spp" type: "SPP" bottom: "fc1" top: "spp" spp_param { pyramid_height: 2 } }
layer { name: "lrn" type: "LRN" bottom: "fc1" top: "lrn" lrn_param { local_size: 3 } }
"""

TEXTS = {"current": CURRENT, "v1": V1, "fork": FORK}
#: Reader -> ending of the files that it gets.
ENDINGS = {
    "prototxt": ".prototxt",
    "caffemodel": ".caffemodel",
    "caffemodel_v1": ".caffemodel",
    "caffemodel_h5": ".caffemodel.h5",
    "safetensors": ".safetensors",
    "solverstate": ".solverstate",
    "solverstate_h5": ".solverstate.h5",
    "activations_h5": ".h5",
    "mean": ".binaryproto",
    "npy": ".npy",
    "scores_mat": ".mat",
    "scores_bin": ".bin",
    "scores_npz": ".npz",
    "scores_h5": ".h5",
    "label_png": ".png",
    "label_mat": ".mat",
    "label_bin": ".bin",
    "tf_checkpoint": ".bundle",
    "tf_graph": ".pb",
    "tf_state": ".state",
    "tf_safetensors": ".safetensors",
    "tf_npz": ".npz",
}


def make_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Kind of file -> the bytes of sound ones; ``folder`` is for writing them."""
    random = np.random.default_rng(0)
    seeds: dict[str, list[bytes]] = {kind: [] for kind in ENDINGS}
    for name, text in TEXTS.items():
        net = parse_net(text)
        shapes = infer_net(net)
        shared = shared_parameters(shapes)
        weights = {
            item.layer.name: [random.normal(size=s).astype(np.float32) for s in item.shapes.params]
            for item in shapes.layers
            if item.shapes.params and None not in item.shapes.params[0]
        }
        for (layer, i), (owner, j) in shared.items():
            weights[layer][i] = weights[owner][j]

        def written(ending: str, weights=weights, net=net) -> bytes:
            path = folder / f"seed{ending}"
            write_weights(path, weights, net)
            return path.read_bytes()

        seeds["prototxt"].append(text.encode())
        seeds["caffemodel_v1" if name == "v1" else "caffemodel"].append(written(".caffemodel"))
        seeds["caffemodel_h5"].append(written(".caffemodel.h5"))
        seeds["safetensors"].append(written(".safetensors"))
    history = [np.ones((2, 3), np.float32), np.zeros(4, np.float32)]
    for kind in ("solverstate", "solverstate_h5"):
        path = folder / f"seed{ENDINGS[kind]}"
        write_solverstate(path, SolverState(7, "snap_iter_7.caffemodel", 1, history))
        seeds[kind].append(path.read_bytes())
    path = folder / "seed.h5"
    with h5py.File(path, "w") as file:
        file["blobs/data"] = random.normal(size=(1, 3, 9, 11)).astype(np.float32)
        file["blobs/conv1"] = np.zeros((1, 4, 9, 11), np.float32)
        file["blobs/a/b"] = np.arange(4, dtype=np.float32)
        sampled = file.create_group("blobs/fc")
        sampled["index"], sampled["value"] = np.arange(2), np.ones(2, np.float32)
        sampled.attrs.update(shape=(1, 5), l2=2.0, largest=1.0)
    seeds["activations_h5"].append(path.read_bytes())
    mean = np.full((1, 3, 4, 5), 100, np.float32)
    write_weights(folder / "mean.caffemodel", {"m": [mean]})
    whole = (folder / "mean.caffemodel").read_bytes()
    # The blob is the last field of the layer: tag, length in two bytes, BlobProto.
    seeds["mean"].append(whole[whole.index(b"\x3a") + 3 :])
    path = folder / "seed.npy"
    for array in (random.normal(size=(3, 9, 11)).astype(np.float32), np.zeros((1, 3, 9, 11))):
        np.save(path, array)
        seeds["npy"].append(path.read_bytes())
    scores = random.normal(size=(3, 4, 5)).astype(np.float32)
    for kind in ("scores_mat", "scores_bin", "scores_npz", "scores_h5"):
        path = folder / f"seed{ENDINGS[kind]}"
        write_scores(path, scores)
        seeds[kind].append(path.read_bytes())
    path = folder / "seed.mat"
    scipy.io.savemat(path, {"text": "a", "data": scores.T, "more": scores}, do_compression=True)
    seeds["scores_mat"].append(path.read_bytes())
    labels = random.integers(0, 21, (9, 11)).astype(np.uint8)
    write_label_png(folder / "seed.png", labels)
    seeds["label_png"].append((folder / "seed.png").read_bytes())
    sbd = {"GTcls": {"Segmentation": labels, "Boundaries": labels > 3}}
    for content in (sbd, {"data": labels.T.reshape(11, 9, 1, 1).astype(np.float32)}):
        scipy.io.savemat(folder / "seed.mat", content, do_compression=content is sbd)
        seeds["label_mat"].append((folder / "seed.mat").read_bytes())
    header = np.array([9, 11, 1], "<i4").tobytes()
    seeds["label_bin"].append(header + labels.T.astype("<i2").tobytes())
    tensorflow_seeds(folder, seeds)
    return seeds
