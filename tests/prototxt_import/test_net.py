"""The typed graph: phases, stages, levels, inputs, in-place layers, V1 upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest

from prototxt_import import CaffeImportError, infer_net, parse_net, read_net

DATA = Path(__file__).parents[1] / "data" / "caffe"
INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 5 dim: 7 } '


def relu(name, rules="", bottom="data", top=None):
    return (
        f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top or name}" {rules} }} '
    )


def names(text, **state):
    return [layer.name for layer in parse_net(INPUT + text, **state).layers]


@pytest.mark.parametrize(
    ("rules", "state", "kept"),
    [
        ("include { phase: TEST }", {"phase": "TEST"}, True),
        ("include { phase: TEST }", {"phase": "TRAIN"}, False),
        ("exclude { phase: TEST }", {"phase": "TEST"}, False),
        ("exclude { phase: TEST }", {"phase": "TRAIN"}, True),
        # Any include rule suffices; all conditions of a rule must hold.
        ("include { phase: TRAIN } include { stage: 'deploy' }", {"stages": ["deploy"]}, True),
        ("include { phase: TEST stage: 'deploy' }", {"phase": "TEST"}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["a"]}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["a", "b", "c"]}, True),
        ("include { not_stage: 'a' }", {"stages": ["a"]}, False),
        ("include { not_stage: 'a' }", {"stages": ["b"]}, True),
        ("include { min_level: 2 }", {"level": 1}, False),
        ("include { min_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 3}, False),
        ("exclude { min_level: 1 max_level: 3 }", {"level": 2}, False),
    ],
)
def test_rules(rules, state, kept):
    assert names(relu("r", rules), **state) == (["r"] if kept else [])


def test_state_in_the_file_counts():
    rule = "include { phase: TRAIN min_level: 3 stage: 'x' }"
    assert names("state { level: 3 stage: 'x' } " + relu("r", rule), phase="TRAIN") == ["r"]


def test_the_phase_asked_for_overwrites_the_files_except_in_the_v1_fork():
    current = "state { phase: TRAIN } " + relu("r", "include { phase: TRAIN }")
    assert names(current, phase="TEST") == []
    v1 = (
        'state { phase: TRAIN } input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 '
        'layers { name: "r" type: RELU bottom: "x" top: "r" include { phase: TRAIN } }'
    )
    assert [layer.name for layer in parse_net(v1, "TEST").layers] == ["r"]


def test_a_loss_weight_that_caffe_moved_to_its_split_comes_back():
    net = parse_net(
        INPUT
        + 'layer { name: "m" type: "Reduction" bottom: "data" top: "m" } '
        + 'layer { name: "m_m_0_split" type: "Split" bottom: "m" top: "m_m_0_split_0"'
        + ' top: "m_m_0_split_1" loss_weight: 2 loss_weight: 0 } '
        + relu("a", bottom="m_m_0_split_0")
        + relu("b", bottom="m_m_0_split_1")
    )
    assert net["m"].loss_weights == [2.0]
    assert net["a"].bottoms == net["b"].bottoms == ["m"]


def test_include_and_exclude_together_are_refused():
    with pytest.raises(CaffeImportError, match="layer 'r': has include and exclude rules"):
        names(relu("r", "include { phase: TEST } exclude { phase: TRAIN }"))


def test_a_layer_name_may_repeat_by_phase():
    text = "".join(
        f'layer {{ name: "data" type: "DummyData" top: "x" include {{ phase: {phase} }}'
        f" dummy_data_param {{ shape {{ dim: {n} }} }} }} "
        for phase, n in (("TRAIN", 2), ("TEST", 3))
    )
    for phase, n in (("TRAIN", 2), ("TEST", 3)):
        net = parse_net(text, phase)
        assert infer_net(net).blobs["x"] == (n,)


@pytest.mark.parametrize(
    "declared",
    [
        "input: 'data' input_dim: 1 input_dim: 3 input_dim: 5 input_dim: 7",
        "input: 'data' input_shape { dim: 1 dim: 3 dim: 5 dim: 7 }",
        "layer { name: 'i' type: 'Input' top: 'data' "
        "input_param { shape { dim: 1 dim: 3 dim: 5 dim: 7 } } }",
    ],
)
def test_three_ways_to_declare_an_input(declared):
    net = parse_net(declared)
    assert net.inputs["data"].shape == (1, 3, 5, 7)
    assert net.outputs == ["data"]


@pytest.mark.parametrize(
    "declared",
    [
        "input: 'a' input: 'b' input_dim: 1 input_dim: 3 input_dim: 5 input_dim: 7",
        "input: 'a' input_dim: 1 input_dim: 3",
        "input: 'a' input: 'a'",
        "input: 'a' input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 input_shape { dim: 1 }",
    ],
)
def test_inputs_that_do_not_add_up(declared):
    with pytest.raises(CaffeImportError):
        parse_net(declared)


def test_data_layers_become_inputs():
    net = parse_net(
        'layer { name: "d" type: "ImageSegData" top: "data" top: "label" top: "data_dim"'
        ' transform_param { crop_size: 65 } image_data_param { source: "l" batch_size: 2'
        " label_type: PIXEL } }" + relu("r")
    )
    assert {name: (i.shape, i.required) for name, i in net.inputs.items()} == {
        "data": ((2, 3, 65, 65), True),
        "label": ((2, 1, 65, 65), False),
        "data_dim": ((2, 1, 1, 2), False),
    }
    assert net.outputs == ["r"]
    assert [layer.name for layer in net.data_layers] == ["d"]


def test_what_only_a_file_writer_reads_is_an_output_and_what_silence_reads_is_not():
    net = parse_net(
        INPUT
        + relu("a")
        + relu("b")
        + 'layer { name: "m" type: "MatWrite" bottom: "a" mat_write_param { prefix: "x" } }'
        + 'layer { name: "s" type: "Silence" bottom: "b" }'
    )
    assert net.outputs == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (relu("r", bottom="nowhere"), "layer 'r': unknown bottom blob 'nowhere'"),
        (relu("a", bottom="b") + relu("b"), "unknown bottom blob 'b'"),
        (relu("a", top="x") + relu("b", top="x"), "'x' is produced by several layers"),
        ('layer { name: "a" bottom: "data" top: "a" }', "has no type"),
    ],
)
def test_graphs_that_do_not_hold_together(text, message):
    with pytest.raises(CaffeImportError, match=message):
        parse_net(INPUT + text)


def test_a_loss_without_a_top_gets_one():
    net = parse_net(
        'input: "s" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 4 '
        'input: "l" input_dim: 2 input_dim: 1 input_dim: 4 input_dim: 4 '
        'layers { name: "loss" type: SOFTMAX_LOSS bottom: "s" bottom: "l" }'
    )
    # As Caffe names it, and leaves it out of the outputs.
    assert net["loss"].tops == ["(automatic)"]
    assert net.outputs == []


def test_v1_layers_come_in_the_current_form():
    net = parse_net(
        """
        input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
        layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" strict_dim: false
                 blobs_lr: 10 blobs_lr: 20 weight_decay: 1 weight_decay: 0 param: "w" param: "b"
                 convolution_param { num_output: 2 kernel_size: 3 pad: 2 hole: 2 } }
        layers { name: "r" type: RELU bottom: "c" top: "c" include { phase: TEST } }
        layers { name: "x" type: SIGMOID_CROSS_ENTROPY_LOSS bottom: "c" bottom: "c" top: "x"
                 loss_weight: 0.5 exclude { phase: TRAIN } }
        """
    )
    convolution = net["c"].spec
    assert [(p.name, p.lr_mult, p.decay_mult) for p in convolution.param] == [
        ("w", 10, 1),
        ("b", 20, 0),
    ]
    assert list(convolution.convolution_param.pad) == [2]
    assert convolution.strict_dim is False
    assert [layer.type for layer in net.layers] == [
        "Convolution",
        "ReLU",
        "SigmoidCrossEntropyLoss",
    ]
    assert list(net["x"].spec.loss_weight) == [0.5]


@pytest.mark.parametrize(
    ("v1", "current"),
    [
        ("ABSVAL", "AbsVal"), ("ARGMAX", "ArgMax"), ("BNLL", "BNLL"), ("DENSE_CRF", "DenseCRF"),
        ("HDF5_DATA", "HDF5Data"), ("IM2COL", "Im2col"), ("IMAGE_SEG_DATA", "ImageSegData"),
        ("INNER_PRODUCT", "InnerProduct"), ("LRN", "LRN"), ("MVN", "MVN"),
        ("MAT_WRITE", "MatWrite"), ("SEG_ACCURACY", "SegAccuracy"),
        ("SOFTMAX_LOSS", "SoftmaxWithLoss"), ("TANH", "TanH"),
        ("MULTINOMIAL_LOGISTIC_LOSS", "MultinomialLogisticLoss"),
    ],
)  # fmt: skip
def test_v1_type_names(v1, current):
    from prototxt_import.upgrade import current_type_name

    assert current_type_name(v1) == current


@pytest.mark.slow
def test_the_splits_that_caffe_saved_are_undone():
    saved = read_net(DATA / "resnet101_msc_w16" / "weights.caffemodel")
    written = read_net(DATA / "resnet101_msc_w16" / "deploy.prototxt")
    assert len(saved.layers) < len(saved.raw.layers)
    for ours, theirs in zip(saved.layers, written.layers, strict=True):
        assert (ours.name, ours.type, ours.bottoms, ours.tops) == (
            theirs.name,
            theirs.type,
            theirs.bottoms,
            theirs.tops,
        )


def test_a_split_that_somebody_wrote_stays():
    text = 'layer { name: "mine" type: "Split" bottom: "data" top: "a" top: "b" }'
    assert names(text) == ["mine"]


def test_a_saved_training_net_loads_in_any_phase():
    """Caffe filters before it saves: the rules in the file have done their work."""
    path = next((DATA / "train_sgd_poly").glob("*.caffemodel"))
    assert "loss" in [layer.name for layer in read_net(path, "TEST").layers]


def test_unknown_sizes_still_give_parameter_shapes():
    net = read_net(DATA / "largefov_v2_w8" / "weights.caffemodel")
    shapes = {item.layer.name: item.shapes.params for item in infer_net(net).layers}
    assert shapes["fc6"][0] == (128, 64, 3, 3)
