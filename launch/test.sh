#!/usr/bin/env bash
# A fresh machine to a green test suite: the environment, ruff, pytest in two processes (arguments go to it: -m slow, -k name).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
