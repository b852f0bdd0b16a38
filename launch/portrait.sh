#!/usr/bin/env bash
# A talking portrait by V-Express's published weights: launch/portrait.sh PORTRAIT AUDIO [OUTPUT.mp4]
# Installs talkjax, fetches the weights from the Hugging Face Hub (several GB, once), converts them to a workdir, and
# generates. EXTRAS=cuda or tpu installs for an accelerator; RUN=DIR sets the
# workdir, WEIGHTS a local copy of the weights, CONFIG other settings (see talkjax.convert --help).
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,4p' "$0" >&2
  exit 2
fi
image="$(realpath "$1")" audio="$(realpath "$2")" output="$(realpath -m "${3:-out.mp4}")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
  launch/setup.sh "${EXTRAS:-}"
  PYTHON=.venv/bin/python
fi
run="${RUN:-runs/vexpress_published}"
if [ ! -f "$run/config.json" ]; then
  "$PYTHON" -m talkjax.convert --source=vexpress --path="${WEIGHTS:-hf:tk93/V-Express/model_ckpts}" --output="$run" \
    ${CONFIG:+--config="$CONFIG"}
fi
exec "$PYTHON" -m talkjax.generate --workdir="$run" --image="$image" --audio="$audio" --output="$output"
