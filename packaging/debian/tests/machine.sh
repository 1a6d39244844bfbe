# What the tests say and do on the machine they are on; each sources it.
set -eu

here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
chmod 755 "$work"
network=''
export DEBIAN_FRONTEND=noninteractive

# alone: without an internet
alone() {
    [ -z "$network" ] || kill "$network" 2>/dev/null || true
    [ -z "$network" ] || wait "$network" 2>/dev/null || true
    network=''
}

# nothing of ours stays: what runs here would keep the machine from ending
leave() {
    alone
    [ ! -e "$work/cron" ] || kill "$(cat "$work/cron")" 2>/dev/null || true
    [ -d /run/systemd/system ] || [ ! -x /etc/init.d/relayd ] || daemon stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap leave EXIT

said() { echo "--- $*"; }

fail() {
    echo "FAILED: $*"
    cat "$work/network" 2>/dev/null || true
    relayctl queue || true
    if [ -d /run/systemd/system ]; then
        systemctl status --no-pager --lines 0 relayd || true
        journalctl -u relayd -n 40 --no-pager || true
    else
        tail -n 40 /var/log/relayd/relayd.log || true
    fi
    exit 1
} >&2

# patiently COMMAND...: until it is so; a busy machine is given its time
patiently() {
    local left=450
    while ! "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.2
    done
}

# arrived FOLDER TEXT: a message with this text is at that host
arrived() { patiently kept "$@" || fail "\"$2\" has not arrived at $1"; }
kept() { grep -lsqF -- "$2" "$work/$1"/*.eml; }

# queued MAILBOX: mailq shows it
queued() { patiently sh -c 'mailq | grep -q -- "$1"' sh "$1" || fail "mailq does not show $1"; }

# daemon start|stop|restart|reload: as the machine's own init does
daemon() {
    if [ -d /run/systemd/system ]; then
        systemctl "$1" relayd
    elif [ "${RELAYD_START:-}" = unit ]; then
        "$here/unit" "$1"
    else
        /etc/init.d/relayd "$1"
    fi || fail "relayd does not $1"
}

# send FROM TO TEXT: by SMTP to port 25
send() {
    python3 - "$@" <<'END'
import smtplib, sys
sender, recipient, text = sys.argv[1:]
with smtplib.SMTP("127.0.0.1", 25, timeout=90) as client:
    client.sendmail(sender, [recipient], f"Subject: x\r\n\r\n{text}\r\n")
END
}

as() {
    local user=$1
    shift
    setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups "$@"
}

# internet [without-mx]: the hosts that mail goes to
internet() {
    alone
    python3 "$here/network.py" "$work" "$@" >"$work/network" 2>&1 &
    network=$!
    patiently grep -qx ready "$work/network" || fail "no network: $(cat "$work/network")"
}

# root ADDRESS: where the mail of this machine's users goes
root() {
    sed -i '/^root:/d' /etc/aliases
    echo "root: $1" >>/etc/aliases
    dpkg-reconfigure relayd
}

# compiled_once: Python's bytecode stays as the installation has made it, whenever the package is
# configured again; which otherwise takes longer than all the rest of that
compiled_once() {
    for each in py3clean py3compile; do ln -sf /bin/true /usr/bin/$each; done
}

# answer QUESTION TYPE VALUE: for dpkg-reconfigure
answer() { echo "relayd relayd/$1 $2 $3" | debconf-set-selections; }

# packages: /debs has those under test, /previous those to upgrade from
packages() {
    if [ ! -d /debs ]; then
        mkdir /debs
        (cd /debs && apt-get download -q relayd relayd-mta)
    fi
    [ -d /previous ] || "$here/repack" /debs 0.0.1 /previous
}

# the machine's own network ends at loopback; on it is all the internet there is
ip link set lo up 2>/dev/null || true
for address in 192.0.2.2 192.0.2.9; do # exchangers are not looked for at internal addresses
    ip address add $address/32 dev lo 2>/dev/null || true
done
echo "nameserver 127.0.0.1" >/etc/resolv.conf
