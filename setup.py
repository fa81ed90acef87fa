"""Builds the native libraries into the package; everything else is in pyproject.toml.

DEEPLAB_REPRO_BUILD=auto|cpu|cuda|none chooses (default auto: what is possible). The compile
commands are in deeplab_repro/native/build.py, which `deeplab-repro build` uses too.
"""

import importlib.util
import os
import sys
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

HERE = Path(__file__).resolve().parent


def load_build_module():
    """By path: importing the package would need torch."""
    path = HERE / "deeplab_repro" / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("deeplab_repro_build", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


native = load_build_module()
try:
    PLAN = native.plan()
except native.BuildError as error:
    sys.exit(f"deeplab-repro: {error}")
for line in PLAN.reasons:
    print(f"deeplab-repro: {line}", file=sys.stderr)


class BuildNative(Command):
    """Compiles into the build folder, or into the checkout for an editable install."""

    description = "compile the native libraries"
    editable_mode = False

    def initialize_options(self):
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self):
        target = self._target()
        try:
            paths = native.build(target, PLAN)
        except native.BuildError as error:
            hint = (
                "DEEPLAB_REPRO_BUILD=cpu leaves CUDA out, DEEPLAB_REPRO_BUILD=none both libraries"
            )
            sys.exit(f"deeplab-repro: {error}\ndeeplab-repro: {hint}")
        # Without DEEPLAB_REPRO_BUILD=cuda, say, an older CUDA library must not stay behind.
        for name in {*native.LIBRARIES.values()} - {path.name for path in paths}:
            (target / name).unlink(missing_ok=True)
        for path in paths:
            print(f"deeplab-repro: built {os.path.relpath(path, HERE)}", file=sys.stderr)

    def _target(self):
        root = HERE if self.editable_mode else Path(self.build_lib)
        return root / "deeplab_repro" / "lib"

    def get_source_files(self):
        return [path.relative_to(HERE).as_posix() for path in native.source_files(HERE / "csrc")]

    def get_outputs(self):
        names = [native.LIBRARIES[k] for k in ("cpu", "cuda") if getattr(PLAN, k)]
        return [str(self._target() / n) for n in (*names, native.RECORD)] if names else []

    def get_output_mapping(self):
        return {}


class StableAbiWheel(bdist_wheel):
    """One wheel per platform serves every Python: no library uses Python's C API."""

    def get_tag(self):
        _, _, platform_tag = super().get_tag()
        return "py3", "none", platform_tag


class NativeDistribution(Distribution):
    def has_ext_modules(self):
        return PLAN.cpu


# csrc/ travels inside the package, for `deeplab-repro build` and for CuPy's run-time compiler.
CSRC_PACKAGES = [
    ".".join(("deeplab_repro._csrc", *folder.relative_to(HERE / "csrc").parts))
    for folder in (HERE / "csrc", *sorted(p for p in (HERE / "csrc").rglob("*") if p.is_dir()))
]

build.sub_commands.append(("build_native", None))

setup(
    packages=[
        *find_packages(include=["deeplab_repro*", "prototxt_import*", "tensorflow_import*"]),
        *CSRC_PACKAGES,
        "deeplab_repro._weights",  # the manifest of the released models
    ],
    package_dir={"deeplab_repro._csrc": "csrc", "deeplab_repro._weights": "weights"},
    package_data={
        "": ["py.typed", "*.proto", "*.binpb"],
        "deeplab_repro.demo": ["page/*"],
        "deeplab_repro.evaluation": ["page/*"],
        "deeplab_repro.pages": ["shared/*"],
        "deeplab_repro.parity": ["page/*"],
        "deeplab_repro.reproduction": ["page/*"],
        "deeplab_repro.tuning": ["page/*"],
        "deeplab_repro._weights": ["manifest.json"],
        **{package: ["*"] for package in CSRC_PACKAGES},
    },
    cmdclass={"build_native": BuildNative, "bdist_wheel": StableAbiWheel},
    distclass=NativeDistribution,
)
