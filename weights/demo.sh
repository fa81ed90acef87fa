# The main job on the bundled models: convert, run and prove one; segment and refine with the other.
set -eu
out=demo_output
mkdir -p "$out"
run() { printf '\n$ deeplab-repro'; printf ' %s' "$@"; printf '\n'; "$BIN/deeplab-repro" "$@"; }

model=weights/largefov_v1_w8/weights.caffemodel
picture=weights/largefov_v1_w8/picture.png
caffe=weights/largefov_v1_w8/activations.h5
echo "A DeepLab-LargeFOV in Caffe's V1 format, a picture, and what Caffe computed for it."
run convert "$model" -o "$out/largefov.safetensors" --json "$out/convert.json"
run inspect "$out/largefov.safetensors" --input-shape data=1x3x97x97 --json "$out/inspect.json"
run activations "$out/largefov.safetensors" --input "$picture" -o "$out/activations.h5"
run compare "$out/largefov.safetensors" --activations "$caffe" --json "$out/compare.json" \
    --html "$out/compare.html"

printf '\nA DeepLab-LargeFOV that was trained on drawn pictures, and such pictures that it never saw.\n'
trained=weights/synthetic_largefov/weights.caffemodel
rm -rf "$out/unseen"
run convert "$trained" -o "$out/synthetic.safetensors"
run data synthesize "$out/unseen" --pictures 40 --seed 1
run segment --voc "$out/unseen" --split trainval --model "$out/synthetic.safetensors" \
    --save-scores .npy -o "$out/before"
# The parameters that did best on pictures of the training set: weights/synthetic_largefov/score.json.
run crf --voc "$out/unseen" --split trainval --scores "$out/before/scores" --marginals none \
    --bi-w 7 --bi-xy-std 25 --bi-rgb-std 6 --pos-w 3 --pos-xy-std 1 -o "$out/after"
for part in before after; do
    run evaluate --predictions "$out/$part/labels" --voc "$out/unseen" --split trainval \
        --json "$out/$part.json" --html "$out/$part.html"
done
"$BIN/python" -m deeplab_repro.demo "$out"

printf '\nFiles written:\n'
ls -1d "$out"/* | sed 's/^/  /'
printf '\nOpen %s/index.html: the pictures, before and after the CRF.\n' "$out"
