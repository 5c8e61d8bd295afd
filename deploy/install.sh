#!/bin/sh
# Make .venv hold Open DiHT with some extras, at the versions and hashes of requirements.lock:
#
#     deploy/install.sh base,train,eval      (make calls it; PYTHON names the interpreter)
#
# A marker for each extra makes a repeated call return at once. It is written last, so an
# interrupted installation is done again; of several calls at a time one installs and the
# others wait.
set -eu
cd "$(dirname "$0")/.."
fail() { echo "error: $*" >&2; exit 1; }

python=.venv/bin/python
wanted=$(echo "$1" | sed 's/^base,*//')
extras=$(echo "$1" | tr , ' ')
# A checkout that was moved, or whose requirements have changed, is installed again.
markers=.venv/installed/$({ cat setup.py requirements.lock; pwd; } | cksum | tr -d ' ')
missing() {
  [ -x $python ] || return 0
  for extra in $extras; do [ -e "$markers/$extra" ] || return 0; done
  return 1
}

version='import sys; print(*sys.version_info[:2], sep=".")'
if [ -n "${PYTHON:-}" ] && [ -x $python ]; then
  asked=$("$PYTHON" -c "$version" 2>/dev/null) || asked=another
  has=$($python -c "$version")
  [ "$asked" = "$has" ] || fail ".venv has Python $has, not that of PYTHON=$PYTHON; remove it first: make clean"
fi
missing || exit 0
if command -v flock >/dev/null; then exec 9<requirements.lock; flock 9; fi
missing || exit 0

if ! $python -c 'import sys' 2>/dev/null; then
  for found in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    supported='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
    "$found" -c "$supported" 2>/dev/null && break
    found=
  done
  [ -n "$found" ] || fail "${PYTHON:+PYTHON=$PYTHON is not one: }Python 3.11, 3.12 or 3.13 is needed" \
    "and was not found; install it, or add PYTHON=/path/to/python3 to the make command"
  "$found" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$found has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
  rm -rf .venv
fi

case $1 in *train* | *eval* | *score* | *dev*) size="8 GB on disk" ;; *) size="1 GB on disk" ;; esac
echo "Installing Open DiHT ($1; $size) into .venv ..."
[ -x $python ] || "$found" -m venv .venv
# Packages are hard links into uv's cache. On another file system they would be copies, and take twice the space.
cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/uv}
mkdir -p "$cache" 2>/dev/null || true
if [ "$(stat -c %d "$cache" 2>/dev/null)" != "$(stat -c %d .venv)" ]; then export UV_CACHE_DIR="$PWD/.venv/cache"; fi
log=.venv/install.log
install() {
  [ -x .venv/bin/uv ] ||
    .venv/bin/pip install --quiet --disable-pip-version-check --no-input uv==0.13.9 || return
  .venv/bin/uv pip install --python $python --editable ".${wanted:+[$wanted]}" --constraint requirements.lock
}
if ! install >$log 2>&1; then
  away='dns error|failed to fetch|name resolution|connection (refused|reset)|timed out|unreachable|network was disabled'
  if grep -qiE "$away" $log; then
    fail "no package index answered; check the network and run the same command again (details: $log)"
  fi
  reason=$(grep -iE 'error|cause' $log | tail -n 1 | sed 's/^[^a-zA-Z]*//; s/^cause: //; s/\.*$//')
  fail "the installation failed: ${reason:-no reason is given}. Read $log; requirements.lock holds versions" \
    "for Linux and Python 3.11 to 3.13"
fi
mkdir -p "$markers"
for extra in $extras; do : >"$markers/$extra"; done
