#!/usr/bin/env bash
# A fresh machine to a talking head: the environment, the puppets corpus, six minutes of training, a re-voiced video and
# its scores. What is already there is used again. RUN=DIR chooses another workdir.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh
run="${RUN:-runs/quickstart}"
python=.venv/bin/python
$python -m talkjax.build data/puppets
$python -m talkjax.train --config=configs/speech_edit.py:tiny --workdir="$run"
if [ ! -f "$run/metrics.json" ]; then
  $python -m talkjax.evaluate --workdir="$run" --output="$run/metrics.json" --strip="$run/strip.png" \
    --export="$run/held_out"
fi
$python -m talkjax.generate --workdir="$run" --video="$run/held_out/video.mp4" --audio="$run/held_out/other_speech.wav" \
  --output="$run/revoiced.mp4"
echo "scores   $run/metrics.json"
echo "video    $run/revoiced.mp4"
echo "strip    $run/strip.png   (truth above, generated below)"
