#!/usr/bin/env bash
# Runs caption-images on this machine.
#
#   ./run_local.sh                                     captions sample photographs with the bundled model
#   ./run_local.sh --input=photos --output=captions    all arguments are those of caption-images
#   ./run_local.sh status --output=captions            so are its commands
#
# The first run installs into .venv beside this script; later runs install nothing unless dependencies have changed.
# PYTHON chooses the interpreter (default: the first suitable one on the PATH), EXTRAS the extras of setup.py
# (default: demo).
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

# Installed extras are recorded with a checksum of setup.py, so that changed dependencies are installed.
checksum=$(cksum < "$root/setup.py")

is_installed() {
  local extra
  for extra in ${extras//,/ }; do
    grep -qsxF "$checksum $extra" "$venv/.installed" || return 1
  done
}

if ! is_installed; then
  python=$(find_python)
  echo "Installing into $venv; this takes a few minutes, once ..." >&2
  "$venv/bin/python" -m pip --version > /dev/null 2>&1 || "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$extras]" >&2
  for extra in ${extras//,/ }; do
    echo "$checksum $extra" >> "$venv/.installed"
  done
fi

# Hints of the program then name a command that exists here.
case $0 in
  */*) CAPTION_IMAGES_COMMAND=$(printf '%q' "$0") ;;
  *) CAPTION_IMAGES_COMMAND="bash $(printf '%q' "$0")" ;;
esac
export CAPTION_IMAGES_COMMAND

if [ $# -eq 0 ]; then
  set -- demo
fi
exec "$venv/bin/python" -m beam_job "$@"
