#!/bin/sh
# What a GPU does with GenGeo, in 8 minutes: one JSON file for each part as it runs, then gpu.json and gpu.md.
#
#   python benchmarks/gpu_images.py        # beforehand, where gengeo_hf[world] is installed; copy it with the checkout
#   sh benchmarks/gpu.sh OUT               # on the machine with the GPU
#   sh benchmarks/gpu.sh OUT --device cpu --size tiny      # does it work?
#
# It runs from a checkout and needs torch >= 2.11, transformers >= 5.17, accelerate, safetensors and pillow, nothing
# else. A part that hangs or fails costs only its own time. PYTHON chooses the interpreter.
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
        echo "${part%:*} ended with $?: what it had measured is in $out/${part%:*}.json"
done
"$python" "$here/gpu_measure.py" table --out "$out"
