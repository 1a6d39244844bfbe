# Clean roots of Debian 12, made once and kept; for packaging/deb and packaging/try.

# mirror RELEASE: where this machine itself gets it from
mirror() {
    apt-get indextargets --format '$(REPO_URI)' "Release: $1" 'Created-By: Packages' | head -n 1
}
MIRROR=${MIRROR:-$(mirror bookworm)}
SECURITY=${SECURITY:-$(mirror bookworm-security)}

# chroot_base CACHE: CACHE/base is what debootstrap makes
chroot_base() {
    local cache=$1
    [ ! -e "$cache/base/ready" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
        echo "relayd: a clean chroot takes root and debootstrap (apt-get install debootstrap)" >&2
        exit 1
    fi
    if [ -z "$MIRROR" ] || [ -z "$SECURITY" ]; then
        echo "relayd: say where Debian 12 is to be had: MIRROR=URL SECURITY=URL make deb" >&2
        exit 1
    fi
    mkdir -p "$cache/archives/partial"
    rm -rf "$cache/base"
    debootstrap --variant=minbase bookworm "$cache/base" "$MIRROR" >"$cache/debootstrap.log" || {
        tail "$cache/debootstrap.log" >&2
        exit 1
    }
    printf 'deb %s bookworm main\ndeb %s bookworm-updates main\ndeb %s bookworm-security main\n' \
        "$MIRROR" "$MIRROR" "$SECURITY" >"$cache/base/etc/apt/sources.list"
    printf '#!/bin/sh\nexit 101\n' >"$cache/base/usr/sbin/policy-rc.d"
    chmod 755 "$cache/base/usr/sbin/policy-rc.d"
    touch "$cache/base/ready"
}

# inside CACHE ROOT COMMAND...: runs it there, with processes and mounts of its own
inside() {
    local cache=$1 root=$1/$2
    shift 2
    mkdir -p "$cache/archives/partial" "$root/var/cache/apt/archives"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    unshare --mount --pid --fork --kill-child sh -c '
        set -e
        mount -t proc proc "$1/proc"
        mount --bind "$2/archives" "$1/var/cache/apt/archives"
        mount -t tmpfs tmpfs "$1/tmp"
        root=$1
        shift 2
        exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive HOME=/root "$@"' sh "$root" "$cache" "$@"
}
