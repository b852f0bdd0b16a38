#!/usr/bin/env bash
# From a fresh machine to a talking head: installs talkjax, builds the puppets corpus, trains `tiny`, evaluates
# and generates a re-voiced video. Reuses existing results. RUN=DIR sets the workdir.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh
run="${RUN:-runs/quickstart}"
python=.venv/bin/python
$python -m talkjax.build data/puppets
$python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir="$run"
if [ ! -f "$run/metrics.json" ]; then
  $python -m talkjax.evaluate --workdir="$run" --limit=24 --batch_size=24 --output="$run/metrics.json" \
    --strip="$run/strip.png" --videos="$run/held_out"
fi
# Re-voices a held-out puppet with the audio of another one.
held_out=("$run"/held_out/source/*.mp4)
$python -m talkjax.generate --workdir="$run" --video="${held_out[0]}" --audio="${held_out[1]}" --output="$run/revoiced.mp4"
echo "scores   $run/metrics.json"
echo "video    $run/revoiced.mp4"
echo "strip    $run/strip.png   (ground truth above, generated below)"
