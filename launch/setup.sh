#!/usr/bin/env bash
# Creates .venv and installs talkjax into it. Later calls do nothing as long as setup.py and this file are unchanged.
# Usage: launch/setup.sh [extra,...]   (extras of setup.py: test, cuda, tpu, beam, onnx, tts, parity)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-}"
stamp=".venv/.talkjax"
wanted="$(cat setup.py launch/setup.sh | cksum) ${extras}"
if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then exit 0; fi

python=""
for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: no Python 3.11, 3.12 or 3.13 was found: install one, or set PYTHON=/path/to/python" >&2
  exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing talkjax into .venv with $(.venv/bin/python --version)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
# The last MediaPipe release that contains models pins an old NumPy and protobuf that it does not need (hence --no-deps). It
# has no wheel for Python 3.13, where a newer release uses the models extracted from the wheel of the older one.
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mediapipe==0.10.21
else
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mediapipe==1.2.2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check flatbuffers certifi
  models="$(mktemp -d)"
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --dest "$models" mediapipe==0.10.21
  .venv/bin/python - "$models"/*.whl <<'EOF'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.prefix) / 'share' / 'talkjax'
folder.mkdir(parents=True, exist_ok=True)
with zipfile.ZipFile(sys.argv[1]) as wheel:
  for name in wheel.namelist():
    if name.endswith(('/face_detection_short_range.tflite', '/face_landmark_with_attention.tflite')):
      (folder / pathlib.PurePath(name).name).write_bytes(wheel.read(name))
EOF
  rm -r "$models"
fi
echo "$wanted" >> "$stamp"
