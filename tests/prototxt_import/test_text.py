"""Prototxt as people write it: comments, escapes, both bracket forms, placeholders."""

from __future__ import annotations

import pytest

from prototxt_import import CaffeImportError, parse_net

INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 5 dim: 7 }\n'


def test_comments_escapes_and_both_bracket_forms():
    net = parse_net(
        INPUT
        + r"""
        # a comment with ${NOTHING} in it and an unbalanced "
        layer < name: 'a\"b\x41\101' type: "ReLU" bottom: "data" top: "data" >  # end
        layer: { name: "c", type: "Pooling"; bottom: "data" top: "c"
                 pooling_param: < pool: AVE kernel_size: 0x3 > }
        layer { name: "d" type: "Eltwise" bottom: ["c", "c"] top: "d"
                eltwise_param { coeff: [1, -2.5e-1] } }
        """
    )
    assert [layer.name for layer in net.layers] == ['a"bAA', "c", "d"]
    assert net["c"].spec.pooling_param.kernel_size == 3
    assert list(net["d"].spec.eltwise_param.coeff) == [1, -0.25]


def test_include_with_a_colon_as_v1_files_have_it():
    text = INPUT + (
        'layer { name: "r" type: "ReLU" bottom: "data" top: "data" include: { phase: TRAIN } }'
    )
    assert [layer.name for layer in parse_net(text, "TRAIN").layers] == ["r"]
    assert parse_net(text, "TEST").layers == []


def test_placeholders_in_strings_and_numbers():
    text = INPUT + (
        'layer { name: "fc8_${EXP}" type: "Convolution" bottom: "data" top: "${NET_ID}/${EXP}"\n'
        "  convolution_param { num_output: ${NUM_LABELS} kernel_size: 1 } }"
    )
    values = {"EXP": 'vo"c', "NUM_LABELS": "21", "NET_ID": "deep"}
    net = parse_net(text, placeholders=values)
    assert net.layers[0].name == 'fc8_vo"c'
    assert net.layers[0].tops == ['deep/vo"c']
    assert net.layers[0].spec.convolution_param.num_output == 21


def test_an_unfilled_placeholder_is_named_with_its_line():
    text = INPUT + '\nlayer { name: "a" type: "${KIND}" }'
    with pytest.raises(CaffeImportError, match=r"line 3: .*\$\{KIND\}.*--set KIND=VALUE"):
        parse_net(text, placeholders={"OTHER": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layer {\n name: "a"\n typo: "ReLU" }', 'line 3, column 2: .*no field named "typo"'),
        ('layer { name: "a"', "line 1"),
        ("layer { name: 5 }", "line 1"),
        ('layer { name: "a" name: "b" }', "name"),
        ('layers { name: "a" type: NO_SUCH }', "NO_SUCH"),
    ],
)
def test_errors_name_line_and_column(text, message):
    with pytest.raises(CaffeImportError, match=message) as caught:
        parse_net(text, file="some.prototxt")
    assert str(caught.value).startswith("some.prototxt: ")
    assert "\n" not in str(caught.value)
    assert "caffe_" not in str(caught.value)


def test_the_dialect_that_gets_farthest_explains_the_error():
    text = INPUT + (
        'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"\n'
        " convolution_param { num_output: 1 kernel_size: 3 hole: 2 hoel: 3 } }"
    )
    with pytest.raises(CaffeImportError, match="hoel"):
        parse_net(text.replace("input_shape { dim: 1 dim: 3 dim: 5 dim: 7 }", ""))


def test_deep_nesting_is_refused_not_a_crash():
    with pytest.raises(CaffeImportError):
        parse_net("layer { include { " * 5000)


def test_v0_is_refused_by_name():
    with pytest.raises(CaffeImportError, match="V0"):
        parse_net('layers { layer { name: "c" type: "conv" } bottom: "data" top: "c" }')


def test_v1_and_current_layers_do_not_mix():
    with pytest.raises(CaffeImportError, match="both 'layers' and 'layer'"):
        parse_net(
            INPUT + 'layers { name: "a" type: RELU bottom: "data" top: "a" }'
            'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }'
        )
