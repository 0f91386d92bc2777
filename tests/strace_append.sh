#!/bin/sh
# F1 at every system call of an append, with its figures; installs strace where it is missing.
set -e
cd "$(dirname "$0")/.."
if ! command -v strace >/dev/null; then
    apt-get update -qq && apt-get install -y -qq strace
fi
exec "${PYTHON:-.venv/bin/python}" -m pytest -q tests/test_crashes.py
