#!/usr/bin/env bash
# Proves the image and the systemd unit without a container engine or an image registry: makes Debian's base from packages, builds
# the last stage of Containerfile on it with a program that is built already, runs that as user 10001 on a read-only root with
# no capability, and boots systemd in it, with touchline.service in all its hardening.
#
#   deploy/check/image.sh [PROGRAM]        as root on Debian 12; target/debug/touchline unless said otherwise
#
# Ten minutes and 4 GB, so no part of the gate. What it cannot prove: the stage that compiles, and anything with a GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
program="${1:-${CARGO_TARGET_DIR:-target}/debug/touchline}"
[ "$(id -u)" -eq 0 ] || { echo "not root: run this as root" >&2; exit 1; }
[ -x "$program" ] || { echo "$program does not exist: build it, or name another" >&2; exit 1; }
install_packages buildah mmdebstrap bubblewrap systemd-container curl
work="$(mktemp -d)"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
store=(--root "$work/store" --runroot "$work/runroot")
finish() {
    [ -z "${booted:-}" ] || kill "$booted" 2>/dev/null || true
    wait
    buildah "${store[@]}" unmount --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
chmod 0755 "$work"

# Asks $1 (a port) until $2 seconds are decided, for a minute.
decided() {
    local _ seconds
    for _ in $(seq 60); do
        seconds="$(curl -s "http://127.0.0.1:$1/metrics" | sed -n 's/^touchline_seconds_classified_total{stream="pattern"} //p')"
        [ "${seconds:-0}" -lt "$2" ] || { echo "   $seconds seconds decided"; return 0; }
        sleep 1
    done
    echo "not $2 seconds decided within a minute" >&2
    return 1
}

echo "== base"
mmdebstrap --quiet --variant=minbase --mode=root bookworm "$work/base.tar"
container="$(buildah "${store[@]}" from scratch)"
buildah "${store[@]}" add --quiet "$container" "$work/base.tar" / >/dev/null
buildah "${store[@]}" commit --quiet --rm "$container" localhost/base >/dev/null
rm "$work/base.tar"

echo "== image"
install -D "$program" "$work/built/out/bin/touchline"
buildah "${store[@]}" build --quiet --format docker --pull-never --target run --build-context "build=$work/built" \
    --build-arg BASE_IMAGE=localhost/base --build-arg RUST_IMAGE=localhost/base -f deploy/container/Containerfile -t localhost/touchline .
container="$(buildah "${store[@]}" from --pull-never localhost/touchline)"
mkdir "$work/root" && cp -a "$(buildah "${store[@]}" mount "$container")/." "$work/root/"

echo "== read-only, as user 10001, no capability"
install -d -o 10001 -g 10001 "$work/state"
mapfile -t environment < <(buildah "${store[@]}" inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' localhost/touchline)
inside() {
    local set=() pair
    for pair in "${environment[@]}" "TOUCHLINE_HEALTH=127.0.0.1:18080"; do
        [ -z "$pair" ] || set+=(--setenv "${pair%%=*}" "${pair#*=}")
    done
    setpriv --reuid 10001 --regid 10001 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
        bwrap --unshare-user --unshare-pid --die-with-parent --ro-bind "$work/root" / --proc /proc --dev /dev --tmpfs /tmp \
        --bind "$work/state" /var/lib/touchline --chdir /var/lib/touchline --clearenv "${set[@]}" "$@"
}
inside touchline run 'pattern=testsrc://?width=1280&height=720&live=1' --listen 127.0.0.1:18080 --quiet >"$work/log" 2>&1 &
running=$!
decided 18080 10 || { cat "$work/log" >&2; exit 1; }
inside touchline-health
if inside touch /usr/local/written 2>/dev/null; then echo "its root file system is writable" >&2; exit 1; fi
kill "$running"
wait "$running" 2>/dev/null || true
if inside touchline-health 2>/dev/null; then echo "the health check finds what is not there" >&2; exit 1; fi

echo "== systemd"
root="$work/root"
chroot "$root" sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus' >/dev/null 2>&1
sed -i '/^touchline:/d' "$root/etc/passwd" "$root/etc/group" "$root/etc/shadow" "$root/etc/gshadow"
rm -rf "$root/var/lib/touchline"
install -D -m 0644 deploy/systemd/touchline.sysusers "$root/usr/lib/sysusers.d/touchline.conf"
install -D -m 0644 deploy/systemd/touchline.service "$root/etc/systemd/system/touchline.service"
for token in admin read; do head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$root/etc/touchline/$token.token"; done
# One drawn stream in place of the configuration's.
install -d "$root/etc/systemd/system/touchline.service.d" "$root/etc/systemd/system/multi-user.target.wants"
cat >"$root/etc/touchline/touchline.toml" <<'END'
listen = "127.0.0.1:18081"
pack_root = "/var/lib/touchline/packs"
jsonl = "/var/lib/touchline/records.jsonl"
[[stream]]
id = "pattern"
uri = "testsrc://?width=1280&height=720&live=1"
END
# A program from before tokens and readiness by notification is started without them.
if ! "$program" run --help | grep -q -- --read-token-file; then
    printf '[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=%s\n' \
        '/usr/local/bin/touchline run --config /etc/touchline/touchline.toml --retry --linger --quiet' \
        >"$root/etc/systemd/system/touchline.service.d/test.conf"
fi
ln -sf /etc/systemd/system/touchline.service "$root/etc/systemd/system/multi-user.target.wants/touchline.service"
: >"$root/etc/machine-id"
machine() { nsenter -t "$(pgrep -P "$booted" | head -n 1)" -m -u -i -p "$@"; }
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="$([ -e /sys/fs/cgroup/cgroup.controllers ] && echo 1 || echo 0)" \
    systemd-nspawn --quiet --register=no --keep-unit --directory "$root" --machine touchline-check --boot >"$work/boot" 2>&1 &
booted=$!
token="$(cat "$root/etc/touchline/read.token")"
curl() { command curl -H "Authorization: Bearer $token" "$@"; }
decided 18081 10 || { machine journalctl -u touchline --no-pager >&2 || cat "$work/boot" >&2; exit 1; }
machine systemctl reload touchline
machine systemctl is-active touchline
machine systemctl kill --signal=KILL touchline
sleep 4
decided 18081 5
[ "$(machine systemctl show touchline -p NRestarts --value)" = 1 ]
machine systemctl stop touchline
[ "$(machine systemctl show touchline -p Result --value)" = success ]
machine systemd-analyze security touchline --no-pager | tail -n 1
