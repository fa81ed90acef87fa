"""The commands of the pages that the test does not run word by word, each with the reason."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ELSEWHERE", "ENDS_WITH", "SMALLER", "VARIES", "Elsewhere"]


class Elsewhere(NamedTuple):
    """Where a command is run in place of here.

    Attributes:
        file: of the checkout.
        words: the part of it that runs the command.
        why: it is not run here.
    """

    file: str
    words: str
    why: str


_REPRODUCE: Final = "deeplab-repro reproduce deeplab_v2_resnet101 --voc VOCdevkit -o run"
_FETCH: Final = "deeplab-repro weights fetch deeplab_v2_resnet101"
_WHEEL: Final = Elsewhere("tests/native/test_build.py", "def test_wheel", "changes an environment")

_CHECKPOINTS: Final = "tests/reproduction/test_reproduced_checkpoints.py"

#: (page, command) -> where the command is run.
ELSEWHERE: Final = {
    ("README.md", "make demo"): Elsewhere(".ci/run", "make demo", "makes an environment"),
    ("README.md", "pip install --no-build-isolation ."): _WHEEL,
    ("README.md", "pip install ."): _WHEEL,
    ("README.md", "bash benchmarks/run_on_gpu.sh OUT"): Elsewhere(
        "tests/benchmarks/test_gpu_stages.py", '"run_on_gpu.sh"), str(tmp_path', "needs a GPU"
    ),
    ("README.md", _FETCH): Elsewhere("docs/reproduce.md", _FETCH, "the same command"),
    ("README.md", _REPRODUCE): Elsewhere("docs/reproduce.md", _REPRODUCE, "the same command"),
    ("docs/reproduce.md", "deeplab-repro weights fetch xception65_coco_voc_trainaug"): Elsewhere(
        "tests/released/test_released_checkpoints.py",
        "def test_fetch_and_add",
        "is a large download",
    ),
    (
        "docs/reproduce.md",
        "deeplab-repro reproduce xception65_coco_voc_trainaug --voc VOCdevkit --output-stride 16"
        " -o run3",
    ): Elsewhere(_CHECKPOINTS, "def test_a_run_goes_on_where_it_was", "takes hours"),
    (
        "docs/tensorflow.md",
        "deeplab-repro export model.ckpt-2 --options options.json --input-shape image=1x3x65x97"
        " -o model.onnx",
    ): Elsewhere("tests/cli/test_checkpoint_commands.py", "def test_export", "takes a minute"),
    ("docs/command-line.md", _REPRODUCE): Elsewhere(
        "docs/reproduce.md", _REPRODUCE, "the same command"
    ),
    (
        "docs/command-line.md",
        "deeplab-repro train --solver largefov/solver.prototxt --weights init.caffemodel --resume"
        " --log runs/largefov",
    ): Elsewhere(
        "docs/training.md", "deeplab-repro train --solver small/solver.prototxt", "takes a day"
    ),
}

#: Command -> what is run in its place: the same, with options that make it small.
SMALLER: Final = {
    # Takes minutes, and writes into the checkout; its commands are those of the script.
    "make train-demo": "make --directory $CHECKOUT --dry-run train-demo",
    # VOC's and SBD's own counts are those of thousands of pictures.
    **{
        line: f"{line} --allow-partial"
        for line in (
            "deeplab-repro data prepare-voc --voc VOC2012 --sbd benchmark_RELEASE",
            "deeplab-repro data prepare-voc --voc VOCdevkit --sbd benchmark_RELEASE",
        )
    },
    # 20 settings on 10 pictures take half a minute.
    (
        _SEARCH := "deeplab-repro crf-search --voc unseen --split trainval --subset 10"
        " --scores before/scores --pos-xy-std 1 --bi-w 7 --bi-xy-std 9,17,25,33,49"
        " --bi-rgb-std 3,6,9,12 --rounds 1 -o search"
    ): f"{_SEARCH} --subset 2",
    # The networks to start from, and what is made of them, are narrow here.
    **{
        line: f"{line} --width 16"
        for line in (
            "deeplab-repro networks write largefov --train --solver -o largefov"
            " --set DATA_ROOT=VOC2012",
            "deeplab-repro surgery vgg16-397923af.pth --network largefov -o init.caffemodel",
            "deeplab-repro surgery VGG_ILSVRC_16_layers.caffemodel --network largefov"
            " -o vgg16_20M.caffemodel",
            "deeplab-repro surgery vgg16-397923af.pth --network aspp-l --num-labels 60"
            " -o init.caffemodel",
            "deeplab-repro surgery resnet101-63fe2227.pth --network resnet101-msc-aspp"
            " -o init.safetensors",
        )
    },
}

#: Command -> its exit code, where it is not 0.
ENDS_WITH: Final = {
    "deeplab-repro weights verify model.caffemodel | head -7": 1,  # it is none that was released
    # A narrow network of random weights reproduces nothing.
    _REPRODUCE: 1,
    "torchrun --nproc-per-node 2 -m deeplab_repro reproduce deeplab_v2_resnet101 --voc VOCdevkit"
    " -o run2": 1,
}

#: Commands whose output is another one on another machine.
VARIES: Final = ("deeplab-repro doctor | grep -A 5 '^Backends'",)
