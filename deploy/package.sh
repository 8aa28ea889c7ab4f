#!/usr/bin/env bash
# Makes packages of Touchline below target/package: a .deb for Debian 12 and systems like it, and a .tar.gz for other systems.
#
#   deploy/package.sh                    builds the program and packs it
#   deploy/package.sh --program FILE     packs an existing program
#   deploy/package.sh --out DIR          writes to DIR instead
#   deploy/package.sh --check            also installs, runs, removes and purges the .deb in a fresh Debian 12 (as root)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
. deploy/packages.sh
program="" check="" out="${CARGO_TARGET_DIR:-$PWD/target}/package"
while [ $# -gt 0 ]; do
    case "$1" in
        --program) program="$(realpath "$2")"; shift 2 ;;
        --out) out="$(realpath -m "$2")"; shift 2 ;;
        --check) check=yes; shift ;;
        *) echo "unknown argument: $1; see the head of deploy/package.sh" >&2; exit 2 ;;
    esac
done
if [ -z "$program" ]; then
    need_cargo
    # shellcheck disable=SC2086
    install_packages $BUILD_PACKAGES $KAFKA_BUILD_PACKAGES
    TOUCHLINE_COMMIT="$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"
    export TOUCHLINE_COMMIT
    cargo build --release --locked --features kafka --bin touchline
    program="${CARGO_TARGET_DIR:-$PWD/target}/release/touchline"
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)"
arch="$(dpkg --print-architecture)"
root="$work/root"

install -d "$root"/usr/{bin,lib/{systemd/system,sysusers.d},share/{touchline/weights,doc/touchline,man/man1,fish/vendor_completions.d}}
install -d "$root"/usr/share/{bash-completion/completions,zsh/vendor-completions} "$root"/etc/{touchline,logrotate.d}
strip --strip-debug -o "$root/usr/bin/touchline" "$program"
cp -r weights/compact "$root/usr/share/touchline/weights/"
cp -r pipelines "$root/usr/share/touchline/"
cp README.md LICENSE CHANGELOG.md deploy/OPERATING.md deploy/prometheus/alerts.yml "$root/usr/share/doc/touchline/"
cp -r deploy/grafana/dashboards "$root/usr/share/doc/touchline/"
"$program" manual --out "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*
"$program" completions bash >"$root/usr/share/bash-completion/completions/touchline"
"$program" completions zsh >"$root/usr/share/zsh/vendor-completions/_touchline"
"$program" completions fish >"$root/usr/share/fish/vendor_completions.d/touchline.fish"
sed 's#/usr/local/#/usr/#' deploy/systemd/touchline.service >"$root/usr/lib/systemd/system/touchline.service"
cp deploy/systemd/touchline.sysusers "$root/usr/lib/sysusers.d/touchline.conf"
cp deploy/systemd/touchline.logrotate "$root/etc/logrotate.d/touchline"
# The stream of the example becomes a comment: a service without streams waits for the API or the file.
sed -e 's#/usr/local/#/usr/#' -e '/^\[\[stream\]\]/,$ s/^\(.\)/# \1/' deploy/systemd/touchline.toml >"$root/etc/touchline/touchline.toml"
chmod -R u=rwX,go=rX "$root"
chmod 0640 "$root/etc/touchline/touchline.toml"

tar -C "$root" --owner=0 --group=0 --sort=name --transform "s#^\./usr#touchline-$version#" --transform "s#^\./etc#touchline-$version/etc#" \
    -czf "$out/touchline-$version-$arch.tar.gz" ./usr ./etc

mkdir -p "$root/DEBIAN" "$work/debian"
touch "$work/debian/control"
libraries="$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info root/usr/bin/touchline 2>/dev/null)"
cat >"$root/DEBIAN/control" <<EOF
Package: touchline
Version: $version
Architecture: $arch
Maintainer: The developers of Touchline
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Depends: ${libraries#shlibs:Depends=}, ${RUN_PACKAGES// /, }, systemd | systemd-standalone-sysusers
Recommends: ca-certificates, logrotate
Section: video
Priority: optional
Description: watches live sports broadcasts and reports which sport is on
 Touchline takes RTSP, HLS, SRT, RTMP, UDP or files and reports every second
 which of 25 sports is on, from pictures, motion and sound: on a page, as JSON
 lines, over buses and as Prometheus metrics.
EOF
(cd "$root" && find etc -type f | sed 's#^#/#' | sort) >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 0755 "deploy/debian/$script" "$root/DEBIAN/$script"
done
dpkg-deb --root-owner-group -Zzstd -z9 --build "$root" "$out/touchline_${version}_$arch.deb" >/dev/null
(cd "$out" && sha256sum "touchline_${version}_$arch.deb" "touchline-$version-$arch.tar.gz" | tee SHA256SUMS)
[ -n "$check" ] || exit 0

# A fresh Debian 12, with the package sources and certificates of this machine.
install_packages mmdebstrap
system="$work/system"
mmdebstrap --variant=minbase --include=ca-certificates bookworm "$system" >/dev/null
cp /etc/resolv.conf "$system/etc/"
cp "$out/touchline_${version}_$arch.deb" "$system/tmp/touchline.deb"
inside() { chroot "$system" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp DEBIAN_FRONTEND=noninteractive "$@"; }
mount -t proc proc "$system/proc"
trap 'umount "$system/proc"; rm -rf "$work"' EXIT
inside apt-get update -qq
inside apt-get install -y -qq --no-install-recommends /tmp/touchline.deb >/dev/null
inside touchline --version
inside touchline doctor
inside touchline config check /etc/touchline/touchline.toml
said="$(inside touchline score /usr/share/touchline/pipelines/overlays 2>&1 || true)"
grep -q "no recording or picture" <<<"$said"
inside stat -c '%a %U:%G %n' /etc/touchline/touchline.toml /etc/touchline/admin.token /etc/touchline/read.token
inside apt-get remove -y -qq touchline >/dev/null
inside test ! -e /usr/bin/touchline -a -e /etc/touchline/touchline.toml
inside apt-get purge -y -qq touchline >/dev/null
inside test ! -e /etc/touchline -a ! -e /usr/share/touchline
echo "installed, ran, removed and purged"
