#!/bin/bash
# Trains on all GPUs of one machine. The same line again goes on from the last checkpoint.
#
#   deploy/torchrun/train.sh DATA CONFIG WORKDIR [key=value ...]
#
# SIGTERM to this process, or Ctrl-C, saves first. A rank that dies is started again with the others, at most three times.
set -euo pipefail

if [ "$#" -lt 3 ]; then
  echo "usage: train.sh DATA CONFIG WORKDIR [key=value ...]" >&2
  exit 2
fi
data=$1 config=$2 workdir=$3
shift 3

# Torchrun kills ranks that are still saving so many seconds after SIGTERM; its own default is 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec .venv/bin/python -m torch.distributed.run --standalone --nproc-per-node "${GPUS:-gpu}" --max-restarts 3 \
  -m open_diht.trainer --data "$data" --config "$config" --workdir "$workdir" "$@"
