#!/usr/bin/env bash
# Checks and times talkjax on this machine's accelerator in about 8 minutes: golden cases, training steps, a clip and a
# 31 s video of every system at `paper`, with random weights. Writes JSON, a table and a profile to RUN (runs/accelerator).
# Arguments go to tests/benchmarks/accelerator.py: --size=tiny tries every part on a CPU.
# PYTHON=/path/to/python uses an environment that is there, otherwise launch/setup.sh makes one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
  launch/setup.sh "${EXTRAS:-test,cuda}"
  PYTHON=.venv/bin/python
fi
exec "$PYTHON" -m tests.benchmarks.accelerator --output="${RUN:-runs/accelerator}" "$@"
