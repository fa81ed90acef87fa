#!/bin/sh
# Everything that needs a GPU, in one go: build the CUDA library, run the GPU tests and all
# benchmarks, and leave logs and JSON in a folder.
#
#     sh benchmarks/run_on_gpu.sh OUT [PYTHON]
#
# Needs a machine with an NVIDIA GPU, nvcc, a C++ compiler and a Python (default python3) with a CUDA
# torch and pytest; nothing is downloaded and nothing installed. CuPy is used where it is installed.
# Exit code 0: all passed. 1: something failed, see OUT/summary.txt. 2: this machine cannot do it.
set -u

[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
python=${2:-python3}
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
# A fall back to the reference must not pass as a test of the kernels.
export DEEPLAB_REPRO_STRICT=1
summary=$out/summary.txt
: >"$summary"
failed=0

note() { echo "$*" | tee -a "$summary"; }

# step NAME COMMAND...: run it, log to OUT/NAME.log, note how it ended.
step() {
  name=$1
  shift
  started=$(date +%s)
  "$@" >"$out/$name.log" 2>&1
  code=$?
  note "$([ $code = 0 ] && echo ok || echo "FAILED ($code)") $name, $(($(date +%s) - started)) s"
  if [ $code != 0 ]; then
    failed=1
    tail -n 15 "$out/$name.log"
  fi
  return $code
}

has_module() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>"$out/torch.log" ||
  { note "cannot run: $python has no torch that sees a GPU (see torch.log)"; exit 2; }
has_module pytest || { note "cannot run: pytest is not installed"; exit 2; }
missing=
for module in numpy scipy h5py cv2 google.protobuf safetensors click rich; do
  has_module "$module" 2>/dev/null || missing="$missing $module"
done
has_module cupy || note "cupy is not installed: its tests are skipped"
# The kernels need torch alone; whole networks need what reads their files.
tests=tests
benchmarks="channel_affine atrous_vs_cudnn crf_vs_peers forward"
if [ -n "$missing" ]; then
  note "not installed:$missing; only the ops are tested and timed"
  tests="tests/ops tests/native"
  benchmarks=channel_affine
fi

# For this GPU alone: minutes matter on a rented machine. TORCH_CUDA_ARCH_LIST overrules.
: "${TORCH_CUDA_ARCH_LIST:=$("$python" -c \
  'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}"
export TORCH_CUDA_ARCH_LIST

step build "$python" -c '
from deeplab_repro.native import build
plan = _build.plan("cuda")
print(*plan.reasons, sep="\n")
print(*_build.build(what=plan), sep="\n")'
step doctor "$python" -c '
import json, sys
from deeplab_repro.native.doctor import examine
report = examine()
print(json.dumps(report.to_dict(), indent=2))
backends = {f["name"]: f["status"] for f in report.to_dict()["sections"]["Backends"]}
sys.exit(backends["cuda"] != "ok")'
# shellcheck disable=SC2086 # words on purpose
step pytest-cuda "$python" -m pytest $tests -m cuda -p no:cacheprovider --junitxml "$out/pytest-cuda.xml"
for name in $benchmarks; do
  step "benchmark-$name" "$python" "benchmarks/$name.py" --json "$out/$name.json"
done
# Races and accesses out of bounds, where the tool is there (it comes with CUDA's toolkit).
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest tests/native -m cuda -p no:cacheprovider -q -x
  done
else
  note "compute-sanitizer is not installed: memory and races are not checked"
fi
exit $failed
