"""Channel bindings: both ends compute the same, each connection another, none below TLS 1.3."""

from __future__ import annotations

import contextlib
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from OpenSSL import SSL

from relayd.tls.binding import channel_bindings
from tests.certs import Authority


def connected(version: int) -> tuple[SSL.Connection, SSL.Connection]:
    """Two ends of a connection that has shaken hands."""
    with TemporaryDirectory() as folder:
        chain, key = Authority().issue("localhost").write(Path(folder), "x")
        server_context = SSL.Context(SSL.TLS_METHOD)
        server_context.use_certificate_chain_file(str(chain))
        server_context.use_privatekey_file(str(key))
    client_context = SSL.Context(SSL.TLS_METHOD)
    client_context.set_max_proto_version(version)
    server, client = SSL.Connection(server_context), SSL.Connection(client_context)
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(4):
        for here, there in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                here.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                there.bio_write(here.bio_read(65536))
    return server, client


class BindingTests(unittest.TestCase):
    def test_both_ends_agree_and_connections_differ(self) -> None:
        seen = set()
        for _ in range(2):
            server, client = connected(SSL.TLS1_3_VERSION)
            bindings = channel_bindings(server)
            self.assertEqual(bindings, channel_bindings(client))
            self.assertEqual([len(each) for each in bindings.values()], [32])
            seen.add(bindings["tls-exporter"])
        self.assertEqual(len(seen), 2)

    def test_none_below_tls_1_3(self) -> None:
        server, client = connected(SSL.TLS1_2_VERSION)
        self.assertEqual((channel_bindings(server), channel_bindings(client)), ({}, {}))
