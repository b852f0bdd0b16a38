#!/usr/bin/env bash
# Trains our own autoencoder on puppets and writes the weights that come with the package
# (talkjax/weights/puppets_autoencoder.safetensors). RUN=DIR sets the workdir, DATA=DIR the folder of corpora.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh
run="${RUN:-runs/autoencoder}"
data="${DATA:-datasets}"
python=.venv/bin/python
$python -m talkjax.build data/puppets --data_dir="$data"
$python -m talkjax.train --config=configs/autoencoder.py:tiny --workdir="$run" --config.data.dir="$data"
$python -m talkjax.evaluate --workdir="$run" --output="$run/test.json"
$python -m talkjax.weights.packaged --name=puppets_autoencoder --workdir="$run" --scores="$run/test.json"
