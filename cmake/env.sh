#!/bin/bash
# Makes the machine and the checkout ready: system packages, a virtual environment, sheaf built and installed into it.
# Usage: cmake/env.sh <python> <venv folder>. Quick when nothing has changed: each step leaves a stamp.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
venv=$2
extras="${SHEAF_BUILD_PIP_ARGS:-}"

say() { printf '==> %s\n' "$*"; }

missing_packages() {
  command -v dpkg-query >/dev/null || return 0
  local wanted installed
  wanted=$(sed 's/#.*//' packages-debian.txt | xargs)
  for package in $wanted; do
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    [[ $installed == ii* ]] || printf '%s ' "$package"
  done
}

install_packages() {
  local missing
  missing=$(missing_packages)
  [[ -n $missing ]] || return 0
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    say "installing with apt-get: $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
  else
    say "missing packages; as root: apt-get install --no-install-recommends $missing"
  fi
}

check_tools() {
  local tool
  for tool in g++ cmake ninja pkg-config "$python"; do
    if ! command -v "$tool" >/dev/null; then
      say "cannot go on: '$tool' is not installed (packages-debian.txt lists what Debian needs)"
      exit 1
    fi
  done
}

make_venv() {
  local want have=""
  want=$("$python" -c 'import sys; print(sys.version)')
  [[ -x $venv/bin/python ]] && have=$("$venv/bin/python" -c 'import sys; print(sys.version)' || true)
  if [[ $want != "$have" ]]; then
    say "making $venv with $("$python" -c 'import sys; print("Python", sys.version.split()[0])')"
    rm -rf "$venv"
    "$python" -m venv "$venv"
  fi
}

install_python_packages() {
  local stamp="$venv/.stamp-python-packages" want
  want=$(cat pyproject.toml | sha256sum)
  [[ -f $stamp && $(cat "$stamp") == "$want" ]] && return 0
  say "installing Python packages for the build and the tests"
  "$venv/bin/python" - pyproject.toml > "$venv/requirements.txt" <<'PY'
import re, sys
text = open(sys.argv[1]).read()
for name in ("requires", "dependencies", "test"):
    listed = re.search(rf"^{name} = \[(.*?)\]", text, re.S | re.M).group(1)
    print("\n".join(re.findall(r'"([^"]+)"', listed)))
PY
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$venv/requirements.txt"
  printf '%s' "$want" > "$stamp"
}

# Anything that can end up in the library or the package.
sources_changed() {
  local stamp=$1
  [[ -f $stamp ]] || return 0
  [[ $(cat "$stamp") == "$venv $extras" ]] || return 0
  [[ -n $(find CMakeLists.txt pyproject.toml cmake core transport gpu objstore collectives scheduler runtime launchers \
            python examples tests perf \( -name '*.py' -path 'tests/*' -prune -o -newer "$stamp" -type f \
            ! -name '*.pyc' -print -quit \) 2>/dev/null) ]]
}

install_sheaf() {
  local stamp="$venv/.stamp-sheaf" log=build/env-log.txt
  sources_changed "$stamp" || return 0
  mkdir -p build
  local before
  before=$(mktemp "$venv/.stamp-XXXXXX")   # a file edited during the build is newer than this
  printf '%s' "$venv $extras" > "$before"
  say "building and installing sheaf (full log: $log)"
  # shellcheck disable=SC2086
  "$venv/bin/python" -m pip install -v --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall \
    --config-settings=cmake.define.SHEAF_BUILD_TESTS=ON --config-settings=cmake.define.SHEAF_BUILD_EXAMPLES=ON \
    --config-settings=cmake.define.SHEAF_BUILD_BENCHMARKS=ON $extras . > "$log" 2>&1 < /dev/null &
  local pid=$! last="" line
  while kill -0 "$pid" 2>/dev/null; do
    sleep 2
    line=$(grep -o '\[[0-9]*/[0-9]*\] .*' "$log" 2>/dev/null | tail -1 | cut -c1-100 || true)
    if [[ -n $line && $line != "$last" ]]; then
      printf '    %s\n' "$line"
      last=$line
      sleep 3
    fi
  done
  if ! wait "$pid"; then
    rm -f "$before"
    say "the build failed:"
    grep -n -E 'error|Error|FAILED' "$log" | head -20 || true
    tail -40 "$log"
    exit 1
  fi
  mv "$before" "$stamp"
}

install_packages
check_tools
make_venv
install_python_packages
install_sheaf
say "ready: $venv/bin/python -c 'import sheaf', $venv/bin/sheaf"
