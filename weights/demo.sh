# The main job on the bundled model: convert it, run it, prove that it computes what Caffe computed.
set -eu
model=weights/largefov_v1_w8/weights.caffemodel
picture=weights/largefov_v1_w8/picture.png
caffe=weights/largefov_v1_w8/activations.h5
out=demo_output
mkdir -p "$out"
run() { printf '\n$ deeplab-repro'; printf ' %s' "$@"; printf '\n'; "$BIN/deeplab-repro" "$@"; }

echo "A DeepLab-LargeFOV in Caffe's V1 format, a picture, and what Caffe computed for it."
run convert "$model" -o "$out/largefov.safetensors" --json "$out/convert.json"
run inspect "$out/largefov.safetensors" --input-shape data=1x3x97x97 --json "$out/inspect.json"
run activations "$out/largefov.safetensors" --input "$picture" -o "$out/activations.h5"
run compare "$out/largefov.safetensors" --activations "$caffe" --json "$out/compare.json"

printf '\nFiles written:\n'
ls -1 "$out"/* | sed 's/^/  /'
