#!/usr/bin/env bash
# Installs talkjax and runs ruff and the tests in two processes. Arguments are passed to pytest: -m slow, -k name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
