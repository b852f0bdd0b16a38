#!/usr/bin/env bash
# Runs a command on every host of a Cloud TPU VM slice and connects the processes.
# Usage: launch/tpu.sh TPU_NAME ZONE python -m talkjax.train --config=configs/speech_edit.py --workdir=gs://bucket/run
# The hosts clone the current commit, which must have been pushed to the origin, and create their own .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -lt 3 ]; then
  sed -n '2,4p' "$0" >&2
  exit 2
fi
name="$1" zone="$2"
shift 2
commit="$(git rev-parse HEAD)" origin="$(git remote get-url origin)"
# %q preserves the quoting of the command through two shells.
command="$(printf '%q ' "$@")"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  set -e
  [ -d talkjax ] || git clone --quiet '$origin' talkjax
  cd talkjax && git fetch --quiet && git checkout --quiet '$commit'
  launch/setup.sh tpu
  PATH=\"\$PWD/.venv/bin:\$PATH\" TALKJAX_DISTRIBUTED=1 $command"
