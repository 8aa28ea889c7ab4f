#!/usr/bin/env bash
# Writes the bill of materials of the program: CycloneDX 1.5, JSON. Lists every crate in a build of these features with its
# version, licence, hash and dependencies. It reads Cargo.lock, so the same commit gives the same file.
#   deploy/sbom.sh [OUT [cargo's feature options]]      touchline.cdx.json, the default features
# GStreamer and its plugins are Debian's packages: `dpkg-query` on the machine or image knows those.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-touchline.cdx.json}"
[ $# -gt 0 ] && shift
host="$(rustc -vV | sed -n 's/^host: //p')"
mkdir -p "$(dirname "$out")"
metadata="$(mktemp)"
tree="$(mktemp)"
trap 'rm -f "$metadata" "$tree"' EXIT
cargo metadata --locked --format-version 1 --filter-platform "$host" "$@" >"$metadata"
# What the build takes in by another way, to check the file against.
cargo tree --locked -p touchline --target "$host" --edges normal,build --prefix none --format '{p}' "$@" |
    sed -E 's/^([^ ]+) v([^ ]+).*/\1 \2/' | sort -u >"$tree"
python3 - "$metadata" "$tree" "$out" <<'PYTHON'
import json, sys, tomllib, uuid

metadata = json.load(open(sys.argv[1]))
wanted = {tuple(line.split()) for line in open(sys.argv[2])}
with open("Cargo.lock", "rb") as lock:
    hashes = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
packages = {p["id"]: p for p in metadata["packages"]}
nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
root = metadata["resolve"]["root"]


def needs(node):
    """What a package is built from: without what only its tests need."""
    return sorted({d["pkg"] for d in node["deps"] if any(k["kind"] in (None, "build") for k in d["dep_kinds"])})


reached, todo = set(), [root]
while todo:
    at = todo.pop()
    if at not in reached:
        reached.add(at)
        todo.extend(needs(nodes[at]))


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package):
    entry = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        "scope": "required",
    }
    if package.get("description"):
        entry["description"] = " ".join(package["description"].split())
    if package.get("license"):
        # Some old crates write MIT/Apache-2.0, which means either.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = hashes.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository"):
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


program = component(packages[root]) | {"type": "application"}
parts = sorted((component(packages[i]) for i in reached if i != root), key=lambda c: (c["name"], c["version"]))
depends = [
    {"ref": purl(packages[i]), "dependsOn": sorted(purl(packages[d]) for d in needs(nodes[i]))} for i in sorted(reached)
]
named = {(packages[i]["name"], packages[i]["version"]) for i in reached}
missing = wanted - named
# The members of the workspace come with it, not from a registry.
own = {purl(packages[i]) for i in reached if packages[i]["source"] is None}
unhashed = [c["name"] for c in parts if "hashes" not in c and c["purl"] not in own]
unlicensed = [c["name"] for c in parts if "licenses" not in c]
for what, found in [("not named", sorted(missing)), ("without a hash", unhashed), ("without a licence", unlicensed)]:
    if found:
        sys.exit(f"the bill of materials is not complete: {what}: {found}")
bom = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "version": 1,
    "metadata": {"component": program},
    "components": parts,
    "dependencies": sorted(depends, key=lambda d: d["ref"]),
}
# The same for the same content, as the whole file is.
bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))}"
with open(sys.argv[3], "w") as out:
    json.dump(bom, out, indent=1, sort_keys=True)
    out.write("\n")
print(f"{sys.argv[3]}: {len(parts)} crates, all {len(wanted)} of the build's tree among them")
PYTHON
