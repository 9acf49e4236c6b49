#!/bin/sh
# Make the virtual environment: setup.sh VENV cpu|gpu. Called by the Makefile.
set -eu
venv=$1
flavour=$2

say() { printf 'setup: %s\n' "$*"; }

uv=$(command -v uv || true)
if [ -z "$uv" ] && [ -x "$venv/tools/bin/uv" ]; then
  uv=$venv/tools/bin/uv
fi
if [ -z "$uv" ]; then
  say "installing uv with pip"
  python3 -m venv "$venv/tools" || {
    say "python3 cannot make virtual environments; install python3-venv, or uv itself" >&2
    exit 1
  }
  "$venv/tools/bin/python" -m pip install --quiet --disable-pip-version-check uv
  uv=$venv/tools/bin/uv
fi

if ! "$venv/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
  say "making $venv with Python 3.11 to 3.13"
  # --allow-existing: the tools folder above lives inside.
  "$uv" venv --quiet --allow-existing --python '>=3.11,<3.14' "$venv"
fi

say "installing the $flavour requirements (about 3 GB the first time; minutes when nothing is cached)"
quiet=--quiet
if [ -t 2 ]; then quiet=; fi # a terminal gets uv's progress bars
"$uv" pip sync $quiet --python "$venv/bin/python" "requirements/$flavour.txt"
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
say "ready"
