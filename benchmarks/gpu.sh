#!/bin/sh
# Measure GenGeo on a GPU in 8 minutes: one JSON file for each part while it runs, then gpu.json and gpu.md.
#
#   python benchmarks/gpu_images.py        # beforehand, with gengeo_hf[world] installed; copy the result with the checkout
#   sh benchmarks/gpu.sh OUT               # on the machine with the GPU
#   sh benchmarks/gpu.sh OUT --device cpu --size tiny      # trial run
#
# It runs from a checkout and needs only torch >= 2.11, transformers >= 5.17, accelerate, safetensors and pillow.
# A part that hangs or fails does not affect the others. PYTHON selects the interpreter.
set -u
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
out=${1:?usage: sh benchmarks/gpu.sh OUT [options of gpu_measure.py]}
shift
export PYTHONPATH="${here%/*}${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python=${PYTHON:-python3}
mkdir -p "$out"
for part in peak:25 encode:100 train:100 memory:60 loading:60 agreement:30 world:90; do
    echo "== ${part%:*} (at most ${part#*:} s)"
    timeout -k 5 "${part#*:}" "$python" "$here/gpu_measure.py" "${part%:*}" --out "$out" --seconds "${part#*:}" "$@" ||
        echo "${part%:*} ended with exit status $?: its figures so far are in $out/${part%:*}.json"
done
"$python" "$here/gpu_measure.py" table --out "$out"
