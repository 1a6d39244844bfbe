# Clean roots of Debian for packaging/deb, packaging/try, packaging/suite and packaging/ci, made once
# and kept. DEBIAN=12 (the default) or DEBIAN=13 says which.
#
# CACHE is a folder for each release. CACHE/base is what debootstrap makes. Every other root is a layer of overlayfs above one of them:
# CACHE/NAME/below names it, CACHE/NAME/upper has what it adds. Nothing stays mounted: who works in
# a root mounts it in a mount namespace of its own.

# stop WHY: it cannot be done here
stop() {
    echo "relayd: $*" >&2
    exit 1
}

export DEBIAN=${DEBIAN:-12}
case $DEBIAN in
12) CODENAME=bookworm ;;
13) CODENAME=trixie ;;
*) stop "DEBIAN=$DEBIAN: it is 12 or 13" ;;
esac

# mirror LABEL: where this machine gets its own Debian from, whichever release that is
mirror() {
    apt-get indextargets --format '$(REPO_URI)' "Label: $1" 'Created-By: Packages' | head -n 1
}
# exported: to ask takes seconds, and this file is read by everything that has to do with a root
export MIRROR=${MIRROR:-$(mirror Debian)} SECURITY=${SECURITY:-$(mirror Debian-Security)}

# needs COMMAND PACKAGE
needs() {
    command -v "$1" >/dev/null || stop "no $1 here (apt-get install $2)"
}

# sources: what apt is told of this release
sources() {
    printf "deb %s $CODENAME main\ndeb %s $CODENAME-updates main\ndeb %s $CODENAME-security main\n" \
        "$MIRROR" "$MIRROR" "$SECURITY"
}

bootstrap() {
    rm -rf "$1/base"
    debootstrap --variant=minbase $CODENAME "$1/base" "$MIRROR" >"$1/debootstrap.log" 2>&1
}

# chroot_base CACHE: CACHE/base is what debootstrap makes; who comes while another makes it waits
chroot_base() {
    local cache=$1
    [ ! -e "$cache/base/ready" ] || return 0
    [ "$(id -u)" -eq 0 ] || stop "a clean chroot takes root"
    needs debootstrap debootstrap
    if [ -z "$MIRROR" ] || [ -z "$SECURITY" ]; then
        stop "say where Debian $DEBIAN is to be had: MIRROR=URL SECURITY=URL make deb"
    fi
    mkdir -p "$cache"
    (
        flock 9
        [ -e "$cache/base/ready" ] || make_base "$cache"
    ) 9>"$cache/base.lock"
}

make_base() {
    local cache=$1
    bootstrap "$cache" || bootstrap "$cache" || { # a mirror may have a bad moment
        tail "$cache/debootstrap.log" >&2
        stop "debootstrap has failed"
    }
    sources >"$cache/base/etc/apt/sources.list"
    printf '%s\n' 'Acquire::Retries "5";' 'APT::Keep-Downloaded-Packages "false";' \
        'APT::Install-Recommends "false";' 'Dpkg::Use-Pty "false";' 'Acquire::Languages "none";' \
        >"$cache/base/etc/apt/apt.conf.d/90trial"
    echo force-unsafe-io >"$cache/base/etc/dpkg/dpkg.cfg.d/90trial"
    printf '#!/bin/sh\nexit 101\n' >"$cache/base/usr/sbin/policy-rc.d"
    chmod 755 "$cache/base/usr/sbin/policy-rc.d"
    # no index of man pages, which nobody looks for, is made with every installation
    inside "$cache" base sh -ec '
        echo man-db man-db/auto-update boolean false | debconf-set-selections
        apt-get update -q
        apt-get clean' >"$cache/base.log" 2>&1 || {
        tail "$cache/base.log" >&2
        stop "the new root could not be told where its packages are"
    }
    touch "$cache/base/ready"
}

# on CACHE NAME BELOW: an empty layer
on() {
    rm -rf "${1:?}/${2:?}"
    mkdir -p "$1/$2/upper" "$1/$2/work" "$1/$2/root"
    echo "$3" >"$1/$2/below"
}

# layer CACHE NAME BELOW COMMAND: what the shell's COMMAND makes of BELOW, unless it is there
layer() {
    local cache=$1 name=$2 wanted="$3 $4"
    if [ -e "$cache/$name/ready" ] && [ "$(cat "$cache/$name/ready")" = "$wanted" ]; then
        return 0
    fi
    on "$cache" "$name" "$3"
    inside "$cache" "$name" sh -ec "$4" >"$cache/$name.log" 2>&1 || {
        tail -n 40 "$cache/$name.log" >&2
        stop "the root \"$name\" could not be made"
    }
    echo "$wanted" >"$cache/$name/ready"
}

# mounted CACHE NAME COMMAND...: with the root mounted at CACHE/NAME/root, as nobody else sees it
mounted() {
    local cache=$1 name=$2 below lower=''
    shift 2
    below=$name
    while [ "$below" != base ]; do
        below=$(cat "$cache/$below/below")
        if [ "$below" = base ]; then lower=$lower:$cache/base; else lower=$lower:$cache/$below/upper; fi
    done
    unshare --mount --propagation private sh -ec '
        if [ "$2" = base ]; then
            mkdir -p "$1/base/root"
            mount --bind "$1/base" "$1/base/root"
        else
            mount -t overlay overlay "$1/$2/root" \
                -o "lowerdir=$3,upperdir=$1/$2/upper,workdir=$1/$2/work"
        fi
        shift 3
        exec "$@"' sh "$cache" "$name" "${lower#:}" "$@"
}

# inside CACHE NAME COMMAND...: runs it there, with processes and mounts of its own
inside() {
    local cache=$1 name=$2
    shift 2
    mounted "$cache" "$name" unshare --pid --fork --kill-child --mount-proc sh -ec '
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
        mount -t tmpfs tmpfs "$root/tmp"
        mount -t tmpfs tmpfs "$root/run"
        mkdir "$root/run/lock"
        cp -L /etc/resolv.conf "$root/etc/resolv.conf"
        # not by chroot, which whoever enters another mount namespace would leave
        cd "$root"
        pivot_root . .
        umount -l .
        cd /
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive HOME=/root "$@"' sh "$cache/$name/root" "$@"
}

# in_memory COMMAND...: DEB_FOLDER is a folder for it, in memory if there is enough, gone when it ends
in_memory() {
    local status=0 free
    free=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
    DEB_FOLDER=$(mktemp -d)
    export DEB_FOLDER
    if [ "$free" -lt 6 ]; then
        echo "NOTE: $free GiB of memory are too little for the clean roots: they are made on disk"
        "$@" || status=$?
    else
        unshare --mount --propagation private sh -ec '
            mount -t tmpfs -o mode=755,size=90% tmpfs "$DEB_FOLDER"
            exec "$@"' sh "$@" || status=$?
    fi
    rm -rf "$DEB_FOLDER"
    return $status
}
