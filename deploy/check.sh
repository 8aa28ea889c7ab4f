#!/usr/bin/env bash
# Checks the files under deploy/ without a container engine or a cluster: shell scripts, Containerfiles, compose file, alert rules
# with their tests, dashboards against Grafana's types, systemd unit, Kubernetes manifests against their schemas. Also checks that
# these files and the operator's guide name only metrics, flags, keys and messages that the program has.
#
# Half a minute; the first time it installs its tools, below the target directory.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
# shellcheck disable=SC2086
install_packages $CHECK_PACKAGES
command -v npm >/dev/null || install_packages npm
tools="${CARGO_TARGET_DIR:-target}/deploy-check"
wanted="$(cat deploy/check/requirements.txt deploy/check/package.json)"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$tools"
    mkdir -p "$tools/npm"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r deploy/check/requirements.txt
    cp deploy/check/package.json "$tools/npm/"
    npm install --prefix "$tools/npm" --silent --no-audit --no-fund --ignore-scripts
    printf '%s' "$wanted" >"$tools/installed"
fi
bin="$tools/venv/bin"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

echo "== scripts"
# SC2034: packages.sh is there to be sourced.
shellcheck --shell=bash --external-sources --exclude=SC2034 .ci/run deploy/*.sh deploy/check/*.sh deploy/container/*.sh

echo "== Containerfiles"
"$bin/hadolint" deploy/container/Containerfile deploy/container/Containerfile.cuda deploy/kubeflow/Containerfile

echo "== alerts"
promtool check rules deploy/prometheus/alerts.yml
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/alerts.test.yml

echo "== dashboards"
{
    cat deploy/check/dashboards.ts
    for board in deploy/grafana/dashboards/*.json; do
        echo "export const $(basename "$board" .json): Board ="
        cat "$board"
        echo ";"
    done
} >"$tools/npm/boards.ts"
"$tools/npm/node_modules/.bin/tsc" --noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext --target es2022 \
    "$tools/npm/boards.ts"

# Warnings are faults: a key that is misspelt is only a warning to systemd.
verify() {
    local said
    said="$(systemd-analyze verify "$1" 2>&1)" || true
    [ -z "$said" ] || { echo "$said" >&2; exit 1; }
}

echo "== systemd"
# The program need not be installed for this check. The exposure of the unit is 1.3 of 10.
sed 's#^ExecStart=/usr/local/bin/touchline#ExecStart=/usr/bin/true#' deploy/systemd/touchline.service >"$work/touchline.service"
verify "$work/touchline.service"
systemd-analyze security --offline=true --no-pager --threshold=15 "$work/touchline.service" | tail -n 1
mkdir "$work/touchline.service.d"
cp deploy/systemd/touchline.service.d/gpu.conf "$work/touchline.service.d/"
verify "$work/touchline.service"

echo "== Kubernetes"
for overlay in cpu gpu fleet; do
    "$bin/kubectl" kustomize "deploy/kubernetes/overlays/$overlay" >"$work/$overlay.yaml"
    for version in 1.28 1.32 1.37; do
        "$bin/kubernetes-validate" --kubernetes-version "$version" --strict --quiet "$work/$overlay.yaml"
    done
done
# Another number of pods carries over to the shards.
cp -r deploy/kubernetes "$work/other"
sed -i 's/count: 2/count: 5/' "$work/other/overlays/cpu/kustomization.yaml"
"$bin/kubectl" kustomize "$work/other/overlays/cpu" >"$work/five.yaml"
grep -q 'replicas: 5' "$work/five.yaml"

echo "== Python client"
MYPYPATH=deploy/clients/python "$bin/mypy" --strict --cache-dir="$work/mypy" deploy/clients/python/touchline_client src/serve/examples/live.py

echo "== names"
"$bin/python" deploy/check/check.py "$work/cpu.yaml" "$work/gpu.yaml" "$work/five.yaml" "$work/fleet.yaml"
