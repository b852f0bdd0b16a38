#!/usr/bin/env bash
# Trains our own speech encoder on puppets and writes the weights that come with the package
# (talkjax/weights/speech_encoder_tiny.safetensors). RUN=DIR sets the workdir, DATA=DIR the folder of corpora.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh
run="${RUN:-runs/speech_encoder}"
data="${DATA:-datasets}"
python=.venv/bin/python
$python -m talkjax.build data/puppets --data_dir="$data"
$python -m talkjax.train --config=configs/speech_encoder.py:tiny --workdir="$run" --config.data.dir="$data" \
  --config.steps=2500
$python -m talkjax.evaluate --workdir="$run" --batch_size=32 --output="$run/test.json"
$python -m talkjax.weights.packaged --name=speech_encoder_tiny --workdir="$run" --scores="$run/test.json"
