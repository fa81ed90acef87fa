# Train the bundled network again: draw the set, train, fold the BatchNorms away, and score what is
# left on the pictures that were held back, before and after the CRF. Ends with an error if the
# score is more than a point away from that of the bundled weights.
set -eu
here=weights/synthetic_largefov
drawn=demo_output/drawn
out=demo_output/synthetic_largefov
rm -rf "$drawn" "$out"
mkdir -p "$out"
run() { printf '\n$ deeplab-repro'; printf ' %s' "$@"; printf '\n'; "$BIN/deeplab-repro" "$@"; }

run data synthesize "$drawn" --pictures 2000
run train --no-quirks --no-channels-last --solver "$here/solver.prototxt" --workers 1 --log "$out"
printf '\n$ python benchmarks/synthetic.py ...\n'
"$BIN/python" benchmarks/synthetic.py --set "$drawn" \
    --snapshot "$out"/train_iter_*.caffemodel --model "$out/weights.caffemodel" \
    --like "$here/score.json" --json "$out/score.json"
