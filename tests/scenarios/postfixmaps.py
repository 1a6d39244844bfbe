"""Debian's own main.cf, extended by maps of 500 entries: the same each time it is made."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path("/usr/share/postfix/main.cf.debian")
SHIPPED_MASTER = Path("/usr/share/postfix/master.cf.dist")
ENTRIES = 500
DOMAINS = ("virt.example", "club.example", "example.com")

_MAIN = """
myhostname = mx1.example.com
mydestination = $myhostname, localhost.$mydomain,
    localhost
alias_maps = hash:/etc/postfix/aliases
alias_database = hash:/etc/postfix/aliases
virtual_alias_maps = hash:/etc/postfix/virtual,
   # a comment inside
   regexp:/etc/postfix/virtual.regexp
canonical_maps = hash:/etc/postfix/canonical pcre:/etc/postfix/canonical.pcre
sender_canonical_maps = btree:/etc/postfix/senders
transport_maps = hash:$config_directory/transport
sender_dependent_relayhost_maps = hash:/etc/postfix/relayhosts
relayhost = [smtp.isp.example]:submission
relay_domains = hash:/etc/postfix/relay_domains
relay_recipient_maps = hash:/etc/postfix/relay_recipients
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128 !192.168.3.4 192.168.0.0/16
    [2001:db8::]/32
masquerade_domains = !spare.example.com example.com
masquerade_exceptions = root
recipient_delimiter = +
smtpd_sender_restrictions = check_sender_access hash:/etc/postfix/access,
    reject_unknown_sender_domain
smtpd_client_restrictions = check_client_access hash:/etc/postfix/client permit_mynetworks
    reject_rbl_client zen.example
header_checks = regexp:/etc/postfix/header_checks
message_size_limit = 20480000
maximal_queue_lifetime = 3d
inet_interfaces = loopback-only
"""

_TABLES = {
    "virtual.regexp": r"""/^(.+)-team@example\.com$/ $1@teams.example.net
/^list-([a-z0-9]+)@(.*)\.lists\.example$/  $1@lists.example, owner-$1@lists.example
if /@cond\.example$/
/^info@/ info@cond.example.net
endif
""",
    "canonical.pcre": r"/^(.*)_(.*)@Example\.ORG$/ $1.$2@example.org" + "\n",
    "senders": "app@host.example.com   old1@example.com\n",
    "relayhosts": "@brand.example [smtp.brand.example]:587\nvip@brand.example vip.example\n"
    "old0@example.com [old.example]\n",
    "relay_domains": "example.net x\nexample.com x\ncatchme.example x\n",
    "relay_recipients": "@example.net x\nalias1@example.com x\n@catchme.example x\n"
    + "".join(f"old{n}@example.com x\n" for n in range(20)),
    "access": "spammer@bad.example REJECT go away\nbad.example 550 5.7.1 no\n"
    "friend@bad.example OK\nslow.example 450 later\ndrop@drop.example DISCARD\n",
    "client": "192.0.2.66 REJECT\n198.51.100 554 no\n192.0.2.67 REJECT\n",
    "header_checks": "/^X-Internal:/ IGNORE\n/^Subject: buy/ REJECT\n",
    "aliases": "postmaster: root\nroot: admin@example.net\nprogram: |/usr/bin/prog\n"
    "team: alice, bob@example.org\nalice: alice@example.net\nowner-team: alice\n",
}
_TRANSPORTS = (
    ".sub{n}.example.net  smtp:[10.1.0.{m}]",
    "dom{n}.example.net  relay:hub{k}.example.org:2525",
    "user{n}@mail{k}.example.net  smtp:[10.2.0.1]:26",
    "dom{n}.example.net  :",
    "dom{n}.example.net  error:5.1.2 This domain is gone",
    "dom{n}.example.net  lmtp:unix:private/lmtp",
    "dom{n}.example.net  uucp:old{n}",
    "dom{n}.example.net  :[10.9.9.{m}]",
    "dom{n}.example.net  smtp:",
    "dom{n}.example.net  smtp:[10.3.0.1], [10.3.0.2]:2525",
)


def make(folder: Path, master: str = "") -> None:
    """Write main.cf, master.cf and all tables."""
    (folder / "main.cf").write_text(SHIPPED.read_text("utf-8") + _MAIN)
    (folder / "master.cf").write_text(master or SHIPPED_MASTER.read_text("utf-8"))
    (folder / "virtual").write_text("\n".join(_virtual()) + "\n")
    (folder / "canonical").write_text("\n".join(_canonical()) + "\n")
    lines = [_TRANSPORTS[n % len(_TRANSPORTS)].format(n=n, m=n % 250, k=n % 7)
             for n in range(ENTRIES)]  # fmt: skip
    (folder / "transport").write_text("\n".join(lines) + "\n")
    for name, text in _TABLES.items():
        (folder / name).write_text(text)


def _virtual() -> list[str]:
    lines = ["# made for a test", "virt.example anything", "club.example x"]
    for n in range(ENTRIES):
        targets = [f"user{n}@mail{n % 7}.example.net"]
        if n % 5 == 0:
            targets.append(f"copy{n}@archive.example")
        if n % 11 == 0 and n:
            targets = [f"alias{n - 1}@{DOMAINS[(n - 1) % 3]}"]
        if n % 13 == 0:
            targets = [f"local{n}"]
        if n % 17 == 0:
            targets = [f"alias{n}@{DOMAINS[n % 3]}", f"keep{n}@archive.example"]
        lines.append(f"alias{n}@{DOMAINS[n % 3]}\t{', '.join(targets)}")
    lines += ["@catchall.example boss@example.net", "@moved.example @new.example.org"]
    lines += ["catchall.example x", "moved.example x"]
    return [*lines, "postmaster  admin@example.net",
            "sales  seller1@example.net, seller2@example.net"]  # fmt: skip


def _canonical() -> list[str]:
    lines = []
    for n in range(ENTRIES):
        if n % 10 == 9:
            lines.append(f"old{n}@example.com  old{n - 9}@example.com")
        elif n % 10 == 3:
            lines.append(f"bare{n}   First.Last{n}@example.com")
        else:
            lines.append(f"old{n}@example.com  First.Last{n}@example.org")
    return [*lines, "@legacy.example @example.com"]
