#!/usr/bin/env bash
# Trains with N processes of this machine, one a GPU: ./distributed_train.sh N [arguments of train.py]
set -euo pipefail
here=$(dirname "$0")
exec env PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" \
    python -m convnext_ablation.cli.launch "${1-}" "$here/train.py" "${@:2}"
