"""Internal addresses: this machine's and those of networks behind us.

Whoever owns a domain says where its MX records, policy hosts and report hosts lead. Without a word
of the administrator (`internal-destinations`) that is never to a server which only we can reach.
Documentation networks are not among them: nobody is there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NOTE = "an internal address, which no internal-destinations names"

_INTERNAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this host, RFC 1122 section 3.2.1.3
            "10.0.0.0/8",  # private, RFC 1918
            "100.64.0.0/10",  # shared with one's provider, RFC 6598
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, RFC 3927; in clouds: the instance's secrets
            "172.16.0.0/12",
            "192.0.0.0/24",  # of protocols, RFC 6890
            "192.168.0.0/16",
            "198.18.0.0/15",  # of benchmarks, RFC 2544
            "224.0.0.0/3",  # multicast, reserved, broadcast
            "::/127",  # unspecified, loopback
            "64:ff9b:1::/48",  # a translator's own, RFC 8215
            "100::/64",  # discarded, RFC 6666
            "fc00::/7",  # unique local, RFC 4193
            "fe80::/9",  # link-local, and site-local as it was
            "ff00::/8",  # multicast
        ),
    )
)
# IPv4 addresses inside: by how many bits they stand left of the end
_TRANSLATED = (
    (ipaddress.IPv6Network("::/96"), 0),  # compatible, RFC 4291 section 2.5.5.1
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # translated, RFC 2765
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
_TEREDO = ipaddress.IPv6Network("2001::/32")  # RFC 4380: the client's address inverted


@lru_cache(maxsize=4096)
def is_internal(address: str) -> bool:
    """Whether the IP address, or an IPv4 address inside it, is internal."""
    return any(each in network for each in _meant(address) for network in _INTERNAL)


def may_lead_to(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether what strangers publish may lead us there; `allowed`: internal networks that are."""
    return not is_internal(address) or any(
        each in network for each in _meant(address) for network in allowed
    )


def _meant(address: str) -> Iterator[Address]:
    """The address, and an IPv4 address that packets to it may end at."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    yield parsed
    if isinstance(parsed, ipaddress.IPv6Address):
        for network, shift in _TRANSLATED:
            if parsed in network:
                yield ipaddress.IPv4Address(int(parsed) >> shift & 0xFFFFFFFF)
        if parsed in _TEREDO:
            yield ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF ^ 0xFFFFFFFF)
