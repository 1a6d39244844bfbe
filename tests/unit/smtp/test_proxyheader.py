"""The PROXY header: whatever comes in whatever pieces, a header, a complaint, or not yet."""

from __future__ import annotations

import ipaddress
import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.smtp.proxyheader import (
    MAX_LINE,
    SIGNATURE,
    Header,
    ProxiedClient,
    ProxyError,
    read_header,
)

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
ports = st.integers(0, 65535)


def shown(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(getattr(address, "ipv4_mapped", None) or address)


def version_1(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bytes:
    return f"PROXY TCP{address.version} {address} {address} {port} 25\r\n".encode()


def version_2(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, tlvs: bytes = b""
) -> bytes:
    family = 0x11 if address.version == 4 else 0x21
    block = address.packed * 2 + port.to_bytes(2, "big") + b"\0\x19" + tlvs
    return SIGNATURE + bytes([0x21, family]) + len(block).to_bytes(2, "big") + block


def binary(command: int, family: int, block: bytes = b"") -> bytes:
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


class HeaderTests(unittest.TestCase):
    @given(addresses, ports, st.binary(max_size=40), st.binary(max_size=300), st.booleans())
    def test_a_header_is_read_once_it_is_whole_and_not_before(
        self,
        address: ipaddress.IPv4Address | ipaddress.IPv6Address,
        port: int,
        rest: bytes,
        tlvs: bytes,
        line: bool,
    ) -> None:
        octets = version_1(address, port) if line else version_2(address, port, tlvs)
        for size in range(len(octets)):
            self.assertIsNone(read_header(octets[:size]))
        expected = Header(ProxiedClient(shown(address), port), len(octets))
        self.assertEqual(read_header(octets + rest), expected)

    @given(
        st.one_of(
            st.binary(), st.binary().map(SIGNATURE.__add__), st.binary().map(b"PROXY ".__add__)
        )
    )
    def test_whatever_comes_is_no_other_trouble(self, octets: bytes) -> None:
        decided = False
        for size in range(len(octets) + 1):
            try:
                found = read_header(octets[:size])
            except ProxyError:
                decided = True
                continue
            self.assertFalse(decided and found is None, "a complaint is final")
            decided = decided or found is not None
            if found is not None:
                self.assertLessEqual(found.size, size)
        self.assertTrue(decided or len(octets) < 16 + 65535)

    def test_a_balancer_may_speak_for_itself(self) -> None:
        for octets in (
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            binary(0x20, 0x00),
            binary(0x20, 0x11, b"\1\2\3\4" * 3),
            binary(0x20, 0xFF, b"whatever"),
            binary(0x21, 0x00),
            binary(0x21, 0x00, b"\x04\0\x05hello"),
            binary(0x21, 0x31, bytes(216)),
        ):
            self.assertEqual(read_header(octets), Header(None, len(octets)), octets)

    def test_an_address_of_ipv4_is_one_also_when_it_comes_mapped(self) -> None:
        octets = b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 25\r\n"
        self.assertEqual(read_header(octets), Header(ProxiedClient("192.0.2.1", 4711), len(octets)))

    def test_what_is_malformed(self) -> None:
        for octets in (
            b"EHLO client.example\r\n",
            b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 x\r\n",
            b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 example 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            b"PROXY TCP4 " + b"1" * MAX_LINE,
            binary(0x11, 0x11, bytes(12)),  # version 1 in binary
            binary(0x22, 0x11, bytes(12)),  # an unknown command
            binary(0x21, 0x12, bytes(12)),  # UDP
            binary(0x21, 0x41, bytes(12)),  # an unknown family
            binary(0x21, 0x11, bytes(11)),
            binary(0x21, 0x21, bytes(35)),
        ):
            with self.assertRaises(ProxyError, msg=octets):
                read_header(octets)
