#!/usr/bin/env bash
# Captions on this machine.
#
#   ./run_local.sh                                     the sample photographs, with the model that ships
#   ./run_local.sh --input=photos --output=captions    any arguments go to the job
#
# The first run makes .venv beside this script; later ones install nothing. PYTHON names another interpreter than
# the newest suitable one on the PATH; EXTRAS other extras of setup.py than `demo`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$root/.venv
extras=${EXTRAS:-demo}

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "run_local.sh: no Python 3.10 to 3.13 with venv found on the PATH; install one (Debian: python3-venv)," \
    "or name it: PYTHON=/path/to/python3.12 ./run_local.sh" >&2
  return 2
}

# Each extra that is installed is noted with a checksum of setup.py, so that a changed dependency installs again.
checksum=$(cksum < "$root/setup.py")

is_installed() {
  local extra
  for extra in ${extras//,/ }; do
    grep -qsxF "$checksum $extra" "$venv/.installed" || return 1
  done
}

if ! is_installed; then
  python=$(find_python)
  echo "Installing into $venv, once; this takes some minutes ..." >&2
  "$venv/bin/python" -m pip --version > /dev/null 2>&1 || "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$extras]" >&2
  for extra in ${extras//,/ }; do
    echo "$checksum $extra" >> "$venv/.installed"
  done
fi

if [ $# -eq 0 ]; then
  exec "$venv/bin/python" -m beam_job.cli.demo
fi
exec "$venv/bin/python" -m beam_job "$@"
