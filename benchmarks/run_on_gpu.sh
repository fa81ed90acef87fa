#!/usr/bin/env bash
# What needs a GPU: builds the CUDA library, runs the GPU tests, times the kernels beside cuDNN.
#
#     bash benchmarks/run_on_gpu.sh [--stage STAGE] [--device cpu] OUT [PYTHON]
#
# STAGE is one of
#   smoke     build, some thirty tests, one case of each benchmark: a minute and a half
#   conv      the atrous convolution beside cuDNN's, in four precisions and two memory formats
#   crf       the dense CRF: building its lattices, its iterations, the whole call
#   tests     pytest -m cuda
#   nets      whole networks, fused and as Caffe computes them
#   sanitize  compute-sanitizer: accesses out of bounds, races, barriers
#   all       one after another (the default), each for as long as it takes
# A single stage ends within nine minutes (LIMIT=seconds changes that) and writes OUT/STAGE.json,
# which is whole after each of its cases, and OUT/log.txt, which the stages share. It needs an NVIDIA
# GPU, nvcc or CuPy, a C++ compiler and a Python (default python3) with a CUDA torch and numpy; tests
# needs pytest too, nets what the package needs. Nothing is downloaded and nothing installed.
# --device cpu tries a stage without a GPU, on tiny inputs.
# Exit code 0: all went well. 1: something failed; OUT/STAGE.json and the log say what. 2: bad usage,
# or there is no GPU.
set -u

stages="smoke conv crf tests nets sanitize"
stage=all
device=cuda
usage() {
  sed -n '2,21s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --stage | --device)
      [ $# -ge 2 ] || usage
      if [ "$1" = --stage ]; then stage=$2; else device=$2; fi
      shift 2
      ;;
    -*) usage ;;
    *) break ;;
  esac
done
[ $# -ge 1 ] && [ $# -le 2 ] || usage
case " $stages all " in *" $stage "*) ;; *) usage ;; esac
case $device in cuda | cpu) ;; *) usage ;; esac

mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
python=${2:-python3}
# Where it is a path, from here on seen from another folder.
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
# A fall back to the reference must not pass as a test of the kernels.
export DEEPLAB_REPRO_STRICT=1
log=$out/log.txt

if [ "$device" = cuda ]; then
  # For this GPU alone: minutes matter on a rented machine. TORCH_CUDA_ARCH_LIST overrules.
  capability=$("$python" -c '
import torch
print("%d.%d" % torch.cuda.get_device_capability())' 2>>"$log") || {
    echo "$python has no torch that sees a GPU; why is in $log" >&2
    exit 2
  }
  export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$capability}"
fi

# run_stage NAME SECONDS: its exit code; the end of its output on the screen, all of it in the log.
run_stage() {
  local name=$1 limit=$2 started=$SECONDS code=1 resume="" left
  echo "== $name, $(date -u +%FT%TZ)" >>"$log"
  for _ in 1 2 3 4 5 6; do
    left=$((limit - (SECONDS - started)))
    [ $left -gt 20 ] || break
    # It stops by itself a little earlier, and says in its JSON what it left out.
    # shellcheck disable=SC2086 # $resume is one word or none
    timeout -k 10 "$left" "$python" benchmarks/gpu_stages.py "$name" --json "$out/$name.json" \
      --device "$device" --seconds $((left - 15)) $resume >>"$log" 2>&1
    code=$?
    # 0 and 1: it came to its end. 124, 137: the time was over. Else a case took the process, or the
    # GPU's context, with it: the others go on in a new one.
    case $code in 0 | 1 | 2 | 124 | 137) break ;; esac
    resume=--resume
  done
  echo "$name: exit code $code after $((SECONDS - started)) s"
  return "$code"
}

failed=0
if [ "$stage" = all ]; then
  for name in $stages; do
    run_stage "$name" "${LIMIT:-7200}" || failed=1
  done
else
  [ "$stage" = smoke ] && default=240 || default=530
  run_stage "$stage" "${LIMIT:-$default}" || failed=1
fi
# The log would not leave the machine if it were larger than this.
if [ "$(wc -c <"$log")" -gt 15000000 ]; then
  tail -c 14000000 "$log" >"$log.end" && mv "$log.end" "$log"
fi
tail -n 40 "$log"
exit $failed
