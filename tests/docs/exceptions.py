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


#: Command -> where it is run: those that make environments or take minutes.
ELSEWHERE: Final = {
    "make demo": Elsewhere(".ci/run", "make demo", "makes .venv"),
    "make test": Elsewhere(".ci/run", "make test", "runs this test"),
    "pip install --no-build-isolation .": Elsewhere(
        "tests/native/test_build.py", "def test_wheel", "changes the environment"
    ),
    "pip install .": Elsewhere(
        "tests/native/test_build.py", "def test_wheel", "changes the environment"
    ),
    "deeplab-repro reproduce deeplab_v2_resnet101 --voc VOCdevkit -o run": Elsewhere(
        "tests/docs/test_reproduce.py", "reproduce", "x"
    ),
    "deeplab-repro train --solver largefov/solver.prototxt --weights init.caffemodel --resume"
    " --log runs/largefov": Elsewhere(
        "docs/training.md", "deeplab-repro train --solver small/solver.prototxt", "takes days"
    ),
    "bash benchmarks/run_on_gpu.sh --stage smoke OUT": Elsewhere(
        "tests/benchmarks/test_gpu_stages.py", '"run_on_gpu.sh"), "--stage", stage', "needs a GPU"
    ),
}

#: Command -> options that make it small; the last of several counts.
SMALLER: Final = {
    "deeplab-repro data prepare-voc --voc VOC2012 --sbd benchmark_RELEASE": "--allow-partial",
    "deeplab-repro networks write largefov --train --solver -o largefov --set DATA_ROOT=VOC2012": (
        "--width 16 --input-size 97"
    ),
    "deeplab-repro surgery vgg16-397923af.pth --network largefov -o init.caffemodel": "--width 16",
    "deeplab-repro surgery VGG_ILSVRC_16_layers.caffemodel --network largefov"
    " -o vgg16_20M.caffemodel": "--width 16",
    "deeplab-repro surgery vgg16-397923af.pth --network aspp-l --num-labels 60"
    " -o init.caffemodel": "--width 16",
    "deeplab-repro surgery resnet101-63fe2227.pth --network resnet101-msc-aspp"
    " -o init.safetensors": "--width 16",
}

#: Command -> its exit code, where it is not 0.
ENDS_WITH: Final = {
    "deeplab-repro weights verify model.caffemodel | head -7": 1,  # it is none that was released
}

#: Commands whose output is another one on another machine.
VARIES: Final = ("deeplab-repro doctor | grep -A 5 '^Backends'",)
