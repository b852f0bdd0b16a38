#!/usr/bin/env bash
# From a fresh machine to a talking head: installs talkjax, builds the puppets corpus, trains `tiny`, evaluates
# and generates a re-voiced video. Training takes about MINUTES (6): the number of steps follows from the measured time of
# one, and is at most 600. Reuses existing results. RUN=DIR sets the workdir.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh
run="${RUN:-runs/quickstart}"
python=.venv/bin/python
$python -m talkjax.build data/puppets
config=configs/speech_edit.py:tiny
if [ ! -f "$run/steps" ]; then
  $python -m talkjax.benchmark --config=$config --training_only --repeats=5 --output="$run/benchmark.json" > /dev/null
  $python - "$run" "${MINUTES:-6}" <<'EOF'
import json, pathlib, sys
run, minutes = pathlib.Path(sys.argv[1]), float(sys.argv[2])
measured = json.loads((run / 'benchmark.json').read_text())
# On a CPU, reading takes its time from the same cores as the step.
seconds = measured['step_seconds'] + measured['batch_size'] / measured['input_frames_per_second']
steps = int(min(600, max(100, (60 * minutes - measured['compile_seconds']) / seconds)))
(run / 'steps').write_text(str(steps))
print(f'training takes {steps} steps of about {seconds:.2f} s: {steps * seconds / 60:.0f} minutes '
      f'(matrix products run at {measured["matmul_gflops"]:.0f} GFLOP/s, the step at {measured["gflops"]:.0f})')
EOF
fi
$python -m talkjax.train --config=$config --workdir="$run" --config.steps="$(cat "$run/steps")"
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
