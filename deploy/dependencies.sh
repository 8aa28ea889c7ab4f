#!/usr/bin/env bash
# Checks what the members and a server that cannot train must not depend on.
set -euo pipefail
cd "$(dirname "$0")/.."

# absent CRATES CARGO-TREE-OPTIONS...: none of the crates, a regular expression, is in the tree.
absent() {
    local crates=$1 tree
    shift
    tree=$(cargo tree --locked -e normal --target all --prefix none "$@")
    if grep -E "^($crates) " <<<"$tree" | sort -u; then
        echo "cargo tree $*: remove the dependencies above" >&2
        exit 1
    fi
}

for crate in touchline-core touchline-compute; do
    absent 'gstreamer(-.*)?|glib(-sys)?' -p "$crate" --all-features
done
absent 'touchline-learn' -p touchline --no-default-features --features gst
