#!/usr/bin/env bash
# Trains with N processes of this machine, one a GPU: ./distributed_train.sh N [arguments of train.py]
set -euo pipefail
processes=$1
shift
exec torchrun --standalone --log-dir=/dev/null --nproc_per_node="$processes" "$(dirname "$0")/train.py" "$@"
