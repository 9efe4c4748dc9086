#!/usr/bin/env bash
# All checks, from nothing: the environment of run_local.sh with the test extra, then ruff, mypy and pytest.
# Arguments go to pytest:  tests/run.sh -k search
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# METEOR and the PTB tokenizer of pycocoevalcap are Java programs.
if ! command -v java > /dev/null; then
  apt-get update -qq && apt-get install -y -qq default-jre-headless
fi
# The review page is read in a real browser.
if ! command -v chromium > /dev/null || ! command -v chromedriver > /dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi
EXTRAS=demo,test "$root/run_local.sh" --version

cd "$root"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Two at a time: most tests wait for one process or another. Those of a file share what they set up.
exec .venv/bin/python -m pytest -n 2 --dist=loadfile "$@"
