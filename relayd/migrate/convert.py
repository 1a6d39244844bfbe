"""One Postfix configuration to one draft and one report."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import pwd
import re
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.migrate import catalogue
from relayd.migrate.admission import admission
from relayd.migrate.aliasing import aliases, read_aliases, relocated
from relayd.migrate.canonical import canonical
from relayd.migrate.copies import copies
from relayd.migrate.defaults import DEFAULTS
from relayd.migrate.draft import ConfigDraft
from relayd.migrate.forwarding import virtual
from relayd.migrate.headers import header_checks
from relayd.migrate.logins import PostfixLogin, outgoing
from relayd.migrate.maincf import MainCf
from relayd.migrate.mastercf import read_services
from relayd.migrate.report import ImportReport
from relayd.migrate.routing import routing, uses_aliases
from relayd.migrate.security import inbound, outbound
from relayd.migrate.sending import paces
from relayd.migrate.settings import settings
from relayd.migrate.srs import srs
from relayd.migrate.tables import PostfixTables
from relayd.migrate.work import Work
from relayd.rules.check.expect import OUTSIDER
from relayd.rules.language.lexer import string

LIVE = Path("/etc/postfix")  # whoever imports this imports this very machine
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B  # of linux/sockios.h
_LOOPBACK = ("127.0.0.0/8", "::1")
_DECIDING = ("cleanup", "trivial-rewrite", "local", "proxymap")  # where mail goes
_INTERNAL = (
    "lmtp",
    "smtp",
    "local",
    "virtual",
    "error",
    "discard",
    "pickup",
    "cleanup",
    "qmgr",
    "tlsmgr",
    "trivial-rewrite",
    "bounce",
    "verify",
    "flush",
    "proxymap",
    "showq",
    "anvil",
    "scache",
    "postlogd",
    "smtpd",
    "oqmgr",
    "nqmgr",
    "dnsblog",
    "tlsproxy",
    "postscreen",
    "spawn",
)


@dataclass(frozen=True)
class Machine:
    """What of the machine an import depends on; tests have their own."""

    hostname: Callable[[], str] | None = None
    interfaces: Callable[[], Sequence[str]] | None = None
    users: Callable[[], Sequence[str]] | None = None
    networks: Callable[[], Sequence[str]] | None = None

    def own(self, folder: Path) -> bool:
        """Whether the machine's networks can be told: they are asked for, or given."""
        return self.networks is not None or self.interfaces is None


def convert(folder: Path, machine: Machine | None = None) -> Work:
    """The whole import of a folder with main.cf; raises MainCfError."""
    machine = machine or Machine()
    main = MainCf.read(folder, hostname=machine.hostname)
    services = read_services(folder)
    found = (machine.interfaces or own_addresses)()
    work = Work(
        main, services, PostfixTables(folder), ImportReport(main), ConfigDraft(), tuple(found)
    )
    if machine.users is not None:
        work.users = machine.users()
    elif folder.resolve() == LIVE:
        work.users = [each.pw_name for each in pwd.getpwall()]
    _destinations(work)
    _networks(work, (machine.networks or own_networks)() if machine.own(folder) else ())
    _delimiter(work)
    login = PostfixLogin(work, certificate=inbound(work))
    settings(work, login)
    srs(work)
    read_aliases(work, used=uses_aliases(work))
    virtual(work)
    aliases(work)
    canonical(work)
    relocated(work)
    routing(work)
    copies(work)
    paces(work)
    header_checks(work)
    login.finish()
    outbound(work)
    outgoing(work)
    _soft(work)
    _services(work)
    admission(work)
    _guard(work)
    _complete(work)
    return work


def _destinations(work: Work) -> None:
    """The classes of destinations; an earlier one takes what two of them name."""
    reader, report = work.reader, work.report
    work.local = reader.domains("mydestination", "local-domains")
    work.virtual = reader.domains("virtual_alias_domains", "virtual-domains")
    work.mailbox = reader.domains("virtual_mailbox_domains", "mailbox-domains")
    work.relay = reader.domains("relay_domains", "relay-domains")
    taken: dict[str, str] = {}
    for names in work.classes():
        for entry in list(names.entries):
            if entry in taken:
                names.entries.remove(entry)
                if not entry.startswith("."):
                    report.note(
                        f"{entry} is in {taken[entry]} and in {names.origin}; the first counts"
                    )
            else:
                taken[entry] = names.origin
    for names in (work.local, work.virtual, work.mailbox, work.relay):
        count = len(names.entries)
        if names:
            what = f"{count} names" if count != 1 else names.entries[0]
            report.translated(names.origin, f"accept to <{names.name}>: {what}")
        else:
            report.same(names.origin, "none")


def _styled(interface: str, style: str) -> str:
    """What an interface makes of mynetworks: `192.0.2.25/24` its subnet, its class, or itself."""
    here = ipaddress.ip_interface(interface)
    if style == "subnet":
        return str(here.network)
    if style == "class" and isinstance(here, ipaddress.IPv4Interface):
        first = here.packed[0]
        length = 8 if first < 128 else 16 if first < 192 else 24
        return str(ipaddress.ip_network(f"{here.ip}/{length}", strict=False))
    return str(here.network if style == "class" else here.ip)


def _networks(work: Work, networks: Sequence[str]) -> None:
    """mynetworks, or what mynetworks_style makes of this machine's interfaces."""
    setting = "mynetworks"
    if work.main.is_given(setting):
        work.trusted = work.reader.networks(setting, "mynetworks")
    else:
        style = work.main["mynetworks_style"]
        words = [*_LOOPBACK, *(_styled(each, style) for each in networks or work.interfaces)]
        work.report.translated("mynetworks_style", f"{style}: the networks are {', '.join(words)}")
        work.trusted = work.reader.networks(setting, "mynetworks", words)
        work.trusted.origin = f"mynetworks (by mynetworks_style: {style})"
    count = len(work.trusted.entries)
    if work.trusted:
        work.report.translated(setting, f"accept from <mynetworks>: {count} networks")
    else:
        work.report.same(setting, "none")


def _delimiter(work: Work) -> None:
    setting = "recipient_delimiter"
    value = work.main[setting]
    good = "".join(each for each in value if not each.isalnum() and each not in '@."\\ ,')
    if good != value:
        work.report.lost(setting, f"{value!r}: relayd takes marks such as + and - only")
    carried = {"canonical", "virtual"} - set(work.main.words("propagate_unmatched_extensions"))
    if value and (carried or good != value):
        marks = "".join(re.escape(each) for each in value)
        work.close(
            (f"to regex {string(f'[{marks}][^@]*@')}",),
            "propagate_unmatched_extensions" if carried else setting,
            "relayd carries a sub-address on, to wherever an entry leads",
        )
    if good:
        work.draft.subaddress = good
        work.report.translated(setting, f"subaddress {good}")
    elif not value:
        work.report.same(setting, "none")


def _soft(work: Work) -> None:
    """soft_bounce: what would be refused for good waits, so nothing is."""
    if not work.main.yes("soft_bounce"):
        return
    for table in work.draft.tables.values():
        if table.kind == "transport":
            table.lines = [re.sub(r"\berror:5\.", "retry:4.", line) for line in table.lines]
    work.report.translated("soft_bounce", "no rule refuses for good")
    work.report.lost(
        "soft_bounce",
        "what a next hop refuses for good is reported to the sender, as it always is",
    )


def _guard(work: Work) -> None:
    """A test that the result is no open relay, unless the old one was."""
    nets = [ipaddress.ip_network(each) for each in work.trusted.entries]
    client = ipaddress.ip_address(OUTSIDER)
    if any(client.version == net.version and client in net for net in nets):
        work.report.note(f"mynetworks takes in {OUTSIDER}: is this to be an open relay?")
        return
    work.draft.rule("tests", "expect to somebody@elsewhere.invalid -> reject")


def _services(work: Work) -> None:
    """master.cf's other lines, where they are not Postfix's own programs."""
    others = [
        f"{each.name} ({each.command})"
        for each in work.services
        if each.type != "inet" and each.command not in _INTERNAL
    ]
    if others:
        work.report.unneeded(
            "master.cf",
            f"{', '.join(others)}: relayd starts no programs; a table's"
            " entry that sends mail there is named where the table is",
        )
    main = work.main
    for service in work.services:
        title = f"master.cf {service.title}"
        if service.type == "inet":
            continue
        if service.command in _INTERNAL and service.command != "smtpd":
            for name, value in service.overrides.items():
                if name == "syslog_name" or (service.name, name) in work.carried:
                    continue
                why = f"-o {name}={value}: relayd has one set of settings for all it sends"
                deciding = service.command in _DECIDING and name in DEFAULTS
                if deciding and main.overlaid(service.overrides)[name] != main[name]:
                    work.close((), title, why)
                else:
                    work.report.lost(title, why)


def _complete(work: Work) -> None:
    """Something is said of each setting that main.cf gives."""
    main, report = work.main, work.report
    for given in main.repeated:
        report.note(f"main.cf:{given.line}: {given.name} is given again further down, which counts")
    for name in main.given:
        main.expand(main.given[name].raw)  # to know whose names it uses
    for service in work.services:
        for value in service.overrides.values():
            main.expand(value)
    for name in main.given:
        if report.has(name):
            continue
        known = catalogue.about(name, main[name])
        if known is not None:
            lost, why = known
            (report.lost if lost and main[name] else report.unneeded)(name, why)
        elif name in main.used:
            report.unneeded(name, "a name of its own, put into the values that use it")
        elif not main[name]:
            report.unneeded(name, "empty")
        else:
            report.lost(name, "the import does not know it; see postconf(5) what it was for")


def own_networks() -> list[str]:
    """The interfaces of this machine with their networks, as Linux tells them: `192.0.2.25/24`."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                address, mask = (
                    socket.inet_ntoa(fcntl.ioctl(asked.fileno(), what, request)[20:24])
                    for what in (_SIOCGIFADDR, _SIOCGIFNETMASK)
                )
                found.append(f"{address}/{mask}")
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines():
            number, _, length = line.split()[:3]
            found.append(f"{ipaddress.IPv6Address(bytes.fromhex(number))}/{int(length, 16)}")
    return list(dict.fromkeys(found))


def own_addresses() -> list[str]:
    """The addresses of this machine's interfaces, as Linux tells them."""
    found = [ipaddress.ip_interface(each).ip for each in own_networks()]
    return [str(each) for each in found if each.version == 4 or not each.is_link_local]
