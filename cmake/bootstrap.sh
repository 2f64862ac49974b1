#!/usr/bin/env bash
# Installs what the build needs and is missing: Debian packages (as root; otherwise names them and stops) and a
# virtual environment with the pinned torch. Does nothing, in a fraction of a second, when all is there.
#
# usage: cmake/bootstrap.sh VENV [test]
set -euo pipefail
venv=${1:?usage: cmake/bootstrap.sh VENV [test]}
here=$(cd "$(dirname "$0")/.." && pwd)
requirements=$here/python/requirements-dev.txt

say() { printf 'bootstrap: %s\n' "$*"; }

# package:what to look for (a command, or a header)
needed=(
  cmake:cmake ninja-build:ninja g++:g++ git:git make:make
  libspdlog-dev:/usr/include/spdlog/spdlog.h libcli11-dev:/usr/include/CLI/CLI.hpp
  libyaml-cpp-dev:/usr/include/yaml-cpp/yaml.h libeigen3-dev:/usr/include/eigen3/Eigen/Core
  nlohmann-json3-dev:/usr/include/nlohmann/json.hpp libgtest-dev:/usr/include/gtest/gtest.h
  libbenchmark-dev:/usr/include/benchmark/benchmark.h libjpeg62-turbo-dev:/usr/include/jpeglib.h
  libpng-dev:/usr/include/png.h zlib1g-dev:/usr/include/zlib.h
)
# Not needed: clang, ccache and mold make every build several times faster; `glyptic data get` is built with libcurl,
# libarchive and OpenSSL; `make lint` runs clang-format and clang-tidy.
helpful=(
  clang:clang++ ccache:ccache mold:mold
  libcurl4-openssl-dev:curl-config libarchive-dev:/usr/include/archive.h
  libssl-dev:/usr/include/openssl/evp.h clang-format:clang-format clang-tidy:clang-tidy
)
# A browser, in which the tests open reports; without it they read them as text.
if [ "${2:-}" = test ]; then helpful+=(chromium:chromium); fi

missing_of() {
  local entry what
  for entry in "$@"; do
    what=${entry#*:}
    case $what in
      /*) [ -e "$what" ] || printf '%s ' "${entry%%:*}" ;;
      *) command -v "$what" >/dev/null || printf '%s ' "${entry%%:*}" ;;
    esac
  done
}

python=$(command -v python3.11 || command -v python3 || true)
if [ -z "$python" ]; then say "python3.11 is missing; install it (Debian: apt-get install python3.11)"; exit 2; fi

missing=$(missing_of "${needed[@]}")
$python -c 'import ensurepip, venv' 2>/dev/null || missing+="python3-venv "
[ -e "$($python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+="python3-dev "
optional=$(missing_of "${helpful[@]}")

if [ -n "$missing$optional" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $missing$optional"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || say "the package lists could not be refreshed; going on with the old ones"
    # shellcheck disable=SC2086
    if [ -n "$missing" ]; then apt-get -qq install -y --no-install-recommends $missing >/dev/null; fi
    # shellcheck disable=SC2086
    if [ -n "$optional" ]; then
      apt-get -qq install -y --no-install-recommends $optional >/dev/null || say "going on without: $optional"
    fi
  elif [ -n "$missing" ]; then
    say "these Debian packages are missing: $missing"
    say "install them as root: apt-get install -y $missing$optional"
    exit 2
  else
    say "optional, for faster builds and more of the tests: apt-get install -y $optional"
  fi
fi

stamp=$venv/.glyptic-requirements
if [ ! -x "$venv/bin/python" ] || ! cmp -s "$requirements" "$stamp"; then
  uv=$(command -v uv || true)
  if [ -z "$uv" ]; then
    # uv installs the 4 GB of torch in seconds where pip takes minutes; pip does where uv cannot be had.
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q uv >/dev/null 2>&1 && uv=$venv/bin/uv || uv=
  else
    [ -x "$venv/bin/python" ] || "$uv" venv -q --seed --python "$python" "$venv"
  fi
  say "installing the Python packages of python/requirements-dev.txt into $venv"
  if [ -n "$uv" ]; then
    VIRTUAL_ENV=$venv "$uv" pip install -q --python "$venv/bin/python" -r "$requirements"
  else
    "$venv/bin/python" -m pip install -q -r "$requirements"
  fi
  cp "$requirements" "$stamp"
fi
