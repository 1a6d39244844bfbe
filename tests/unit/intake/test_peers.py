"""Peers who speak for clients: balancers with a PROXY header, and those who may say XCLIENT."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from relayd.intake.balancer import HEADER_TIME
from relayd.intake.limits import SessionLimits
from relayd.intake.trace import address_literal
from relayd.rules.tables.table import Unknown
from relayd.smtp.xclient import ATTRIBUTES, LOGIN
from tests.support import TestCase
from tests.unit.intake.scene import CONTENT, Peer, Scene, message

BALANCER, STRANGER = "192.0.2.10", "192.0.2.66"
HEADER = b"PROXY TCP4 203.0.113.7 192.0.2.25 4711 25\r\n"


def of_balancer(address: str) -> bool:
    return address == BALANCER


def unreadable(address: str) -> bool:
    raise Unknown("table balancers cannot be read")


class PeerCase(TestCase):
    def scene(
        self,
        balancer: Callable[[str], bool] = of_balancer,
        login: bool = False,
        sessions: SessionLimits | None = None,
    ) -> Scene:
        scene = Scene(sessions=sessions)
        offered = (*ATTRIBUTES, LOGIN) if login else ATTRIBUTES
        scene.listen(
            balancer=balancer,
            xclient=lambda address: offered if address in (BALANCER, "203.0.113.7") else (),
        )
        return scene

    def client_of(self, scene: Scene, peer: Peer) -> str:
        """Whose message it is, by the trace field and by the facts that are stored."""
        peer.say("EHLO client.example")
        peer.say(*message())
        self.assertIn("queued", peer.say(*CONTENT)[-1])
        stored, _ = scene.spool.stored[-1]
        trace = b"".join(stored.content.chunks()).split(b"\r\n")[0].decode()
        name = stored.client.rdns or "unknown"
        self.assertIn(f"({name} {address_literal(stored.client.address)})", trace)
        return f"{stored.client.address}:{stored.client.port}"


class BalancerTests(PeerCase):
    def test_the_client_is_whom_the_header_names(self) -> None:
        scene = self.scene()
        peer = scene.connect(BALANCER)
        self.assertEqual(peer.replies(), [])
        self.assertEqual(peer.send(HEADER), [f"220 {scene.service.hostname} ESMTP relayd"])
        self.assertEqual(self.client_of(scene, peer), "203.0.113.7:4711")
        peer.leave()
        self.assertIn("203.0.113.7", scene.log.of("session")[0])
        self.assertEqual(scene.admission.in_all, 0)

    def test_octet_by_octet_and_with_the_clients_first_words(self) -> None:
        scene = self.scene()
        peer = scene.connect(BALANCER)
        heard: list[str] = []
        for octet in HEADER + b"EHLO early.example\r\n":
            heard += peer.send(bytes([octet]))
        self.assertEqual(heard[0][:4], "220 ")
        self.assertEqual(heard[-1][:4], "250 ")

    def test_limits_count_the_client_and_not_the_balancer(self) -> None:
        scene = self.scene(sessions=SessionLimits(per_client=2))
        peers = [scene.connect(BALANCER) for _ in range(4)]
        for number, peer in enumerate(peers):
            source = HEADER if number < 3 else HEADER.replace(b"203.0.113.7", b"203.0.113.8")
            expected = "421" if number == 2 else "220"
            self.assertEqual(peer.send(source)[0][:3], expected)

    def test_a_balancer_may_speak_for_itself(self) -> None:
        scene = self.scene()
        peer = scene.connect(BALANCER)
        peer.send(b"PROXY UNKNOWN\r\n")
        self.assertEqual(self.client_of(scene, peer), f"{BALANCER}:40000")

    def test_what_is_no_header_is_closed_and_logged(self) -> None:
        for octets in (
            b"EHLO client.example\r\n",
            b"PROXY TCP4 x x 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31",
        ):
            scene = self.scene()
            peer = scene.connect(BALANCER)
            self.assertEqual(peer.send(octets + bytes(20)), [])
            self.assertTrue(peer.told_to_go)
            self.assertIn("PROXY -> closed", scene.log.of("refused")[0])
            peer.leave()
            self.assertEqual(len(scene.log.lines), 1)
            self.assertEqual(scene.admission.in_all, 0)
            self.assertEqual(scene.service.sessions, set())

    def test_a_slow_header_is_closed_and_logged(self) -> None:
        scene = self.scene()
        peer = scene.connect(BALANCER)
        for octet in HEADER[:9]:
            scene.clock.advance(HEADER_TIME / 10)
            peer.send(bytes([octet]))
        self.assertFalse(peer.told_to_go)
        scene.clock.advance(HEADER_TIME / 10)
        self.assertTrue(peer.told_to_go)
        self.assertIn("within 10 s", scene.log.of("refused")[0])

    def test_nobody_else_is_believed(self) -> None:
        scene = self.scene()
        peer = scene.connect(STRANGER)
        self.assertEqual(peer.replies()[0][:3], "220")
        self.assertEqual(peer.send(HEADER)[0][:3], "500")
        self.assertEqual(self.client_of(scene, peer), f"{STRANGER}:40000")

    def test_who_cannot_be_known_is_turned_away(self) -> None:
        scene = self.scene(unreadable)
        self.assertIsNone(scene.factory.buildProtocol(None))
        self.assertIn("cannot be read", scene.log.of("refused")[0])

    def test_shutdown_does_not_wait_for_a_header(self) -> None:
        scene = self.scene()
        peer = scene.connect(BALANCER)
        scene.service.close()
        self.assertTrue(peer.told_to_go)
        self.assertEqual(scene.service.sessions, set())


class XClientTests(PeerCase):
    def peer(self, scene: Scene, address: str = "203.0.113.7") -> Peer:
        return scene.greeted(address)

    def test_the_client_is_whom_the_peer_names(self) -> None:
        scene = self.scene()
        peer = self.peer(scene)
        heard = peer.say("XCLIENT ADDR=198.51.100.9 PORT=99 NAME=x.example")
        self.assertEqual(heard, [f"220 {scene.service.hostname} ESMTP relayd"])
        self.assertEqual(self.client_of(scene, peer), "198.51.100.9:99")
        peer.say("XCLIENT ADDR=IPV6:2001:db8::1")
        self.assertEqual(self.client_of(scene, peer), "2001:db8::1:0")
        peer.leave()
        self.assertEqual(len(scene.log.of("session")), 2)  # one for each who has done something
        self.assertEqual(scene.admission.in_all, 0)

    def test_an_unknown_client_is_nobodys_neighbour(self) -> None:
        scene = self.scene()
        peer = self.peer(scene)
        peer.say("XCLIENT ADDR=[UNAVAILABLE]")
        self.assertEqual(self.client_of(scene, peer), "0.0.0.0:0")

    def test_nobody_else_is_believed(self) -> None:
        scene = self.scene()
        peer = scene.connect(STRANGER)
        self.assertNotIn("XCLIENT", "".join(peer.say("EHLO x")))
        self.assertEqual(peer.say("XCLIENT ADDR=198.51.100.9")[0][:9], "550 5.7.1")
        self.assertEqual(self.client_of(scene, peer), f"{STRANGER}:40000")

    def test_limits_count_the_client_and_not_the_peer(self) -> None:
        scene = self.scene(sessions=SessionLimits(per_client=1))
        first = self.peer(scene)
        self.assertEqual(first.say("XCLIENT ADDR=198.51.100.9")[0][:3], "220")
        second = self.peer(scene)  # the first one is not counted as the peer's any more
        self.assertEqual(second.say("XCLIENT ADDR=198.51.100.9")[0][:3], "421")
        self.assertTrue(second.told_to_go)
        second.leave()
        first.leave()
        self.assertEqual(scene.admission.in_all, 0)
        self.assertEqual(self.peer(scene).say("NOOP")[0][:3], "250")

    def test_a_login_holds_where_it_is_trusted(self) -> None:
        scene = self.scene(login=True)
        peer = self.peer(scene)
        peer.say("XCLIENT ADDR=198.51.100.9 LOGIN=ann", "EHLO x")
        self.assertEqual(peer.say("MAIL FROM:<bob@example.org>")[0][:3], "553")
        self.assertIn("login ann", scene.log.of("refused")[0])  # whose mail it is not
        peer.say("XCLIENT ADDR=198.51.100.8", "EHLO x")
        self.assertEqual(peer.say("MAIL FROM:<bob@example.org>")[0][:3], "250", "another's login")
        self.assertEqual(self.peer(self.scene()).say("XCLIENT LOGIN=ann")[0][:3], "550")

    def test_behind_a_balancer(self) -> None:
        """The balancer's client is asked who it is; whether it may say so for others is its own."""
        scene = self.scene()
        peer = scene.connect(BALANCER)
        peer.send(HEADER)
        self.assertIn("250 XCLIENT", " ".join(peer.say("EHLO x")))

    def test_a_certificate_is_not_the_clients(self) -> None:
        from relayd.intake.identity import introduced
        from relayd.mail.client import Client
        from relayd.smtp.events import XClient

        client = Client("192.0.2.1", 5, certificate="ab" * 32, login="peer", tls="TLSv1.3 x")
        found = introduced(client, XClient(helo="x"))
        self.assertEqual(found, dataclasses.replace(client, certificate="", login="", helo="x"))
