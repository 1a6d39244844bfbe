"""How mail goes out: addresses to send from, a fallback relay, and the pace of each transport."""

from __future__ import annotations

import ipaddress
import re

from relayd.mail.address import AddressError, check_domain
from relayd.migrate.mastercf import Service
from relayd.migrate.nexthops import Where, to_hosts
from relayd.migrate.settings import seconds, written
from relayd.migrate.work import Work
from relayd.rules.language.pacing import MOST

BIND = ("smtp_bind_address", "smtp_bind_address6")
HELO = "smtp_helo_name"
_FALLBACKS = ("smtp_fallback_relay", "fallback_relay")
_CONCURRENCY, _DELAY = "destination_concurrency_limit", "destination_rate_delay"
_PACED = re.compile(rf"(.+)_({_CONCURRENCY}|{_DELAY}|transport_rate_delay)\Z")
_LONGEST = 7 * 86400  # seconds between two messages: a rate of relayd's


def direct_from(work: Work, transport: str) -> str:
    """The way to a domain's exchangers by this transport: `direct from brand, via fallback`."""
    source = _source(work, transport or "smtp")
    fallback = _fallback(work, transport)
    parts = [f"direct from {source}" if source else "direct"]
    return ", ".join([*parts, *([f"via {', '.join(fallback)}"] if fallback else [])])


def onward(work: Work, found: Where, transport: str) -> str:
    """The end of a route for mail that is not ours; empty: there is none."""
    if found.direct:
        return direct_from(work, transport)
    for name in BIND if found.hops else ():
        if work.main[name]:
            work.report.lost(name, f"{found.route}: a next hop is reached from any address of ours")
    for name in _FALLBACKS if found.hops else ():
        if work.main[name]:
            work.report.lost(
                name,
                f"{found.route} has no other way: name a second next hop there, behind a comma",
            )
    return found.route


def has_source(work: Work, transport: str) -> bool:
    """Whether master.cf gives this transport an address of its own to send from."""
    service = _service(work, transport)
    return service is not None and any(name in service.overrides for name in BIND)


def _service(work: Work, transport: str) -> Service | None:
    return next(
        (each for each in work.services if (each.name, each.type) == (transport, "unix")), None
    )


def _source(work: Work, transport: str) -> str:
    """The name of the `source` that it sends from; empty: from any address."""
    service = _service(work, transport)
    own = {} if service is None else service.overrides
    main = work.main if service is None else work.main.overlaid(own)
    addresses = []
    for name in BIND:
        text = main[name].strip().strip("[]")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            if text:
                work.report.lost(name, f'"{text}" is no address')
            continue
        if not address.is_unspecified:
            addresses.append(str(address))
    if not addresses:
        return ""
    helo = main[HELO] or main["myhostname"]
    try:
        check_domain(helo)
    except AddressError as error:
        work.report.lost(HELO, f"{helo}: {error}")
        helo = work.main["myhostname"]
    name = work.draft.definition(
        "source",
        transport if own.keys() & {*BIND, HELO} else "outgoing",
        f"{', '.join(addresses)} helo {helo}",
    )
    work.carried |= {(transport, each) for each in (*BIND, HELO) if each in own}
    for each in (*BIND, HELO):
        if each not in own and work.main[each]:
            work.report.translated(each, f"source {name}, for mail that goes by MX")
    if service is not None and own.keys() & {*BIND, HELO}:
        work.report.translated(f"master.cf {service.title}", f"source {name}")
    return name


def _fallback(work: Work, transport: str) -> list[str]:
    """The next hops that take what the way before them cannot deliver now."""
    service = _service(work, transport or "smtp")
    if service is not None and service.overrides.get(_FALLBACKS[0]) == "":
        work.carried.add((service.name, _FALLBACKS[0]))
        return []
    setting = next((each for each in _FALLBACKS if work.main[each]), "")
    if not setting:
        return []
    found = to_hosts(work, work.main[setting], "")
    if found.why:
        work.report.lost(setting, found.why)
        return []
    work.report.translated(
        setting,
        f"via {', '.join(found.hops)} behind routes by MX; relayd takes it also where a provider"
        " blocks this host. What transport_maps names has no other way",
    )
    return found.hops


def paces(work: Work) -> None:
    """Concurrency and delays of a transport, for what is routed by it."""
    for setting in work.main.given:
        match = _PACED.match(setting)
        if match is None:
            continue
        transport, what = match.groups()
        if setting == f"default_{_CONCURRENCY}":
            continue  # deliveries-per-destination
        if transport == "smtp" and what == _CONCURRENCY:
            _everywhere(work, setting)
            continue
        limit = _limit(work.main[setting], what)
        domains = work.by_transport.get(transport, [])
        if limit is None:
            work.report.lost(setting, f"{work.main[setting]}: relayd has no such pace")
        elif not limit:
            work.report.same(setting, "no delay")
        elif what == "transport_rate_delay" and len(domains) > 1:
            work.report.lost(
                setting,
                "relayd has a pace for each destination, none for several of them together: if they"
                f" are one provider's, write `provider` and `pace provider NAME {limit}`",
            )
        elif domains:
            for domain in domains:
                work.draft.rule("pace", f"pace to @{domain} {limit}", f"transport {transport}")
            work.report.translated(setting, f"pace to {len(domains):,} domains: {limit}")
        elif transport in ("smtp", "default") and (hops := _relayhosts(work)):
            for hop in hops:
                work.draft.rule("pace", f"pace via {hop} {limit}", setting)
            work.report.translated(setting, f"pace via {', '.join(hops)}: {limit}")
        else:
            work.report.lost(
                setting,
                "relayd finds the pace of each destination; for those that you know to want less"
                f" write `pace to @DOMAIN {limit}`, or `pace via` a next hop",
            )


def _everywhere(work: Work, setting: str) -> None:
    text = work.main[setting]
    known = work.main[f"default_{_CONCURRENCY}"]
    if text == known:
        work.report.same(setting, f"deliveries-per-destination {text}")
    elif not text.isdigit() or not 0 < int(text) <= 10_000:
        work.report.lost(setting, f"{text}: deliveries-per-destination goes from 1 to 10000")
    else:
        head = "deliveries-per-destination "
        kept = [each for each in work.draft.settings if not each[0].startswith(head)]
        work.draft.settings[:] = [*kept, (f"{head}{text}", setting)]
        work.report.translated(setting, f"{head}{text}")


def _relayhosts(work: Work) -> list[str]:
    """The next hops of what is not ours, where there are some."""
    last = work.draft.rules["route"][-1][0] if work.draft.rules["route"] else ""
    _, via, names = last.partition("route any via ")
    return names.split(", ")[:1] if via else []


def _limit(text: str, what: str) -> str | None:
    """As `pace` has it; empty: none; None: it has no word for that."""
    if what == _CONCURRENCY:
        if text == "0":
            return ""
        return f"connections {text}" if text.isdigit() and int(text) <= MOST else None
    delay = seconds(text, "s")
    if delay is None or delay > _LONGEST:
        return None
    if not delay:
        return ""
    return f"rate 1/{written(delay) if re.fullmatch('[0-9]+[smhd]', written(delay)) else delay}"
