#!/usr/bin/env bash
# Runs a command in every task of a Slurm allocation, one process per node or per GPU, and connects the processes.
# Usage: srun --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 launch/gpu.sh \
#          python -m talkjax.train --config=configs/speech_edit.py --workdir=/scratch/run
# Without Slurm it uses all GPUs of this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -lt 1 ]; then
  sed -n '2,5p' "$0" >&2
  exit 2
fi
launch/setup.sh cuda
export PATH="$PWD/.venv/bin:$PATH"
if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
  head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
  export TALKJAX_COORDINATOR="$head:${TALKJAX_PORT:-12355}" TALKJAX_PROCESSES="$SLURM_NTASKS" TALKJAX_PROCESS="$SLURM_PROCID"
fi
exec "$@"
