# Debian packages that Touchline needs. Sourced by run.sh and test.sh; installs only what is missing.

BUILD_PACKAGES="build-essential pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev"
# For the feature kafka: the headers of OpenSSL, and the library. librdkafka is compiled with the crate.
KAFKA_BUILD_PACKAGES="libssl-dev"
KAFKA_RUN_PACKAGES="libssl3"
RUN_PACKAGES="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav fonts-dejavu-core"
TEST_PACKAGES="libgstrtspserver-1.0-dev ffmpeg chromium chromium-driver prometheus python3-venv mosquitto nats-server valgrind"
CHECK_PACKAGES="prometheus shellcheck systemd python3-venv"

install_packages() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    echo "installing:$missing" >&2
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "not root and no sudo: run  apt-get install$missing  as root, then this again" >&2; exit 1; }
        as_root="sudo"
    fi
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

need_cargo() {
    command -v cargo >/dev/null || { echo "cargo is not installed: install Rust 1.92 or newer first (package rustup, or your distribution's)" >&2; exit 1; }
}
