"""SCRAM by the vectors of RFC 7677, and against itself with anything in between."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.login.saslprep import PrepareError, saslprep
from relayd.login.scram import ScramClient, ScramError, ScramServer, Verifier

# RFC 7677 section 3
SALT = bytes.fromhex("5b6d99689d12358eeca04b141236fa81")
CLIENT_NONCE, SERVER_NONCE = "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

words = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x17F, blacklist_characters="\x7f\xad"),
    min_size=1,
    max_size=20,
).filter(lambda text: _preparable(text))


def _preparable(text: str) -> bool:
    try:
        return bool(saslprep(text))
    except PrepareError:
        return False


def server(**changes: object) -> ScramServer:
    return ScramServer(**{"plus": False, "offered": False, "bindings": {}, **changes})  # type: ignore[arg-type]


class Vectors(unittest.TestCase):
    def test_the_clients_side(self) -> None:
        client = ScramClient("user", "pencil", nonce=CLIENT_NONCE)
        self.assertEqual(client.first(), CLIENT_FIRST)
        self.assertEqual(client.final(SERVER_FIRST), CLIENT_FINAL)
        client.verify(SERVER_FINAL)

    def test_the_servers_side(self) -> None:
        machine = server(nonce=SERVER_NONCE)
        verifier = Verifier.of("pencil", salt=SALT, iterations=4096)
        self.assertEqual(machine.first(CLIENT_FIRST), "user")
        self.assertEqual(machine.challenge(verifier), SERVER_FIRST)
        self.assertEqual(machine.final(CLIENT_FINAL), SERVER_FINAL)

    def test_saslprep(self) -> None:
        # RFC 4013 section 3
        for given_, prepared in (
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
        ):
            self.assertEqual(saslprep(given_), prepared)
        for bad in ("\u0007", "\u0627\u0031"):
            with self.assertRaises(PrepareError):
                saslprep(bad)


class Together(unittest.TestCase):
    @settings(deadline=None, max_examples=60)
    @given(words, words, words)
    def test_only_the_password_fits(self, name: str, password: str, tried: str) -> None:
        verifier = Verifier.of(password, iterations=4096)
        client, machine = ScramClient(name, tried), server()
        self.assertEqual(machine.first(client.first()), saslprep(name))
        proof = client.final(machine.challenge(verifier))
        if saslprep(tried) == saslprep(password):
            client.verify(machine.final(proof))
            self.assertTrue(verifier.accepts(tried))
        else:
            with self.assertRaises(ScramError):
                machine.final(proof)
            self.assertFalse(verifier.accepts(tried))

    @settings(deadline=None)
    @given(st.binary(max_size=200), st.binary(max_size=200))
    def test_nothing_a_client_sends_gets_in_or_raises_anything_else(
        self, first: bytes, final: bytes
    ) -> None:
        machine = server()
        with self.assertRaises(ScramError):
            machine.first(first)
            machine.challenge(Verifier(b"salt", 4096, b"s" * 32, b"k" * 32))
            machine.final(final)

    @settings(deadline=None)
    @given(st.binary(max_size=200), st.binary(max_size=200))
    def test_nothing_a_server_sends_is_believed(self, first: bytes, final: bytes) -> None:
        client = ScramClient("user", "pencil")
        client.first()
        with self.assertRaises(ScramError):
            client.final(first)
            client.verify(final)
        with self.assertRaises(ScramError):
            client.verify(final)

    def test_every_changed_octet_is_noticed(self) -> None:
        for at in range(len(CLIENT_FINAL)):
            machine = server(nonce=SERVER_NONCE)
            machine.first(CLIENT_FIRST)
            machine.challenge(Verifier.of("pencil", salt=SALT, iterations=4096))
            changed = bytearray(CLIENT_FINAL)
            changed[at] ^= 1
            with self.assertRaises(ScramError):
                machine.final(bytes(changed))


class ChannelBinding(unittest.TestCase):
    BINDINGS = {"tls-exporter": b"x" * 32}  # noqa: RUF012

    def login(self, client: ScramClient, machine: ScramServer) -> None:
        verifier = Verifier.of("pencil", iterations=4096)
        machine.first(client.first())
        client.verify(machine.final(client.final(machine.challenge(verifier))))

    def test_the_same_channel(self) -> None:
        client = ScramClient("user", "pencil", binding=("tls-exporter", b"x" * 32))
        self.login(client, server(plus=True, offered=True, bindings=self.BINDINGS))

    def test_another_channel(self) -> None:
        client = ScramClient("user", "pencil", binding=("tls-exporter", b"y" * 32))
        with self.assertRaises(ScramError):
            self.login(client, server(plus=True, offered=True, bindings=self.BINDINGS))

    def test_a_binding_we_do_not_have(self) -> None:
        client = ScramClient("user", "pencil", binding=("tls-unique", b"y" * 12))
        with self.assertRaises(ScramError):
            self.login(client, server(plus=True, offered=True, bindings=self.BINDINGS))

    def test_our_offer_was_taken_away_on_the_wire(self) -> None:
        with self.assertRaises(ScramError):
            self.login(
                ScramClient("user", "pencil", could_bind=True),
                server(offered=True, bindings=self.BINDINGS),
            )
        self.login(ScramClient("user", "pencil", could_bind=True), server())

    def test_plus_without_a_binding_and_the_other_way_round(self) -> None:
        with self.assertRaises(ScramError):
            self.login(
                ScramClient("user", "pencil"),
                server(plus=True, offered=True, bindings=self.BINDINGS),
            )
        with self.assertRaises(ScramError):
            self.login(
                ScramClient("user", "pencil", binding=("tls-exporter", b"x" * 32)),
                server(offered=True, bindings=self.BINDINGS),
            )
