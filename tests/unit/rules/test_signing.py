"""`dkim`, `sign` and `forwarded`: in whose names each copy is signed, and keys that can be read."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd import config
from relayd.ops.explain import decide, lines
from relayd.rules.language.model import DkimDef, KeyFile, Sign
from tests.unit.rules.sample import plan, rules
from tests.unit.rules.strategies import LEADING, NAMES, WHEN, some
from tests.unit.rules.test_grammar import parse

SITE = """
dkim     gateway domain gw.example.com selector g key file key.pem
dkim     example domain example.com    selector e key file key.pem
accept   from 192.0.2.0/24
accept   to @example.com
sign     sender @example.com with example when login any
sign     any with gateway when forwarded
forward  info@example.com -> alice@example.net, bob@example.com, info@example.com
"""
_SELECTORS = st.sampled_from(["s", "s2026", "a.b", "x-1", "r_1"])
_KEYS = st.builds(KeyFile, _SELECTORS, st.sampled_from(["k.pem", "dkim/k.pem", "/etc/a b.pem"]))
DKIM = st.tuples(
    NAMES,
    st.sampled_from(["example.com", "xn--mller-kva.example"]),
    st.lists(_KEYS, min_size=1, max_size=4, unique_by=lambda key: key.selector),
    st.integers(1, 4),
).map(lambda v: DkimDef(v[0], v[1], tuple(v[2][: v[3]]), tuple(v[2][v[3] :])))
SIGN = st.builds(Sign, LEADING, NAMES, when=WHEN)


def pem(key: object) -> bytes:
    octets: bytes = key.private_bytes(  # type: ignore[attr-defined]
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return octets


class Printed(unittest.TestCase):
    @settings(max_examples=100, deadline=None)
    @given(some(st.one_of(DKIM, SIGN)))
    def test_parse_of_str_is_the_statement(self, items: tuple[object, ...]) -> None:
        self.assertEqual(parse("\n".join(map(str, items))), list(items))

    def test_forwarded_prints_and_reads_as_itself(self) -> None:
        for text in (
            "sign any with gateway when forwarded",
            "sign forwarded with gateway when not forwarded",
            "route any direct when forwarded",
        ):
            self.assertEqual([str(item) for item in parse(text)], [text])


class _Site(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.key(pem(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))))

    def key(self, octets: bytes, mode: int = 0o640) -> None:
        path = self.folder / "key.pem"
        path.unlink(missing_ok=True)
        path.write_bytes(octets)
        path.chmod(mode)

    def load(self, text: str = SITE) -> config.Settings:
        path = self.folder / "relayd.conf"
        path.write_text(f"hostname gw.example.com\n{text}")
        return config.load(path)


class Signing(_Site):
    def signed(self, to: str, text: str = SITE, **facts: str) -> dict[str, tuple[str, ...]]:
        ruleset = rules(text, self.folder)
        found = plan(ruleset, to, **facts)
        return {str(each.mailbox): each.signed_by for each in found.destinations}

    def test_what_is_forwarded_is_signed_for_whom_it_is_forwarded_to(self) -> None:
        self.assertEqual(
            self.signed("info@example.com"),
            {
                "alice@example.net": ("gateway",),
                "bob@example.com": ("gateway",),
                "info@example.com": (),
            },
        )

    def test_what_stays_as_named_is_not(self) -> None:
        self.assertEqual(self.signed("x@example.com"), {"x@example.com": ()})

    def test_all_rules_that_hold_sign(self) -> None:
        said = self.signed("info@example.com", sender="a@example.com", login="ann")
        self.assertEqual(said["alice@example.net"], ("example", "gateway"))
        self.assertEqual(said["info@example.com"], ("example",))

    def test_each_name_signs_once(self) -> None:
        text = SITE + "sign any with gateway\n"
        self.assertEqual(self.signed("info@example.com", text)["alice@example.net"], ("gateway",))

    def test_a_rewritten_recipient_is_forwarded(self) -> None:
        text = SITE + "rewrite recipient old@example.com -> new@example.com\n"
        self.assertEqual(self.signed("old@example.com", text), {"new@example.com": ("gateway",)})

    def test_routes_may_look_at_it(self) -> None:
        text = SITE + "next-hop out smtp out.example:25\nroute any via out when forwarded\n"
        found = plan(rules(text, self.folder), "info@example.com").destinations
        self.assertEqual(
            {str(each.mailbox): each.next_hop for each in found},
            {"alice@example.net": "out", "bob@example.com": "out", "info@example.com": "direct"},
        )

    def test_the_trail_says_it_once(self) -> None:
        trail = plan(rules(SITE, self.folder), "info@example.com").trail
        said = [step.rule for step in trail if step.stage == "sign"]
        self.assertEqual(said, ["any with gateway when forwarded"])

    def test_explain_tells_it_of_each_copy(self) -> None:
        question = {"recipient": "info@example.com", "from": "192.0.2.1"}
        answer = decide(rules(SITE, self.folder), question)
        self.assertEqual(
            {each["mailbox"]: each["signed_by"] for each in answer["destinations"]},
            {
                "alice@example.net": ["gateway"],
                "bob@example.com": ["gateway"],
                "info@example.com": [],
            },
        )
        self.assertIn("sign", " ".join(lines(answer)))

    def test_without_sign_rules_there_is_no_stage(self) -> None:
        self.assertIsNone(rules("accept to @example.com\n").signing)

    def test_keys_that_sign_nothing_are_warned_of(self) -> None:
        text = "dkim gateway domain gw.example.com selector g key file key.pem\n"
        (warning,) = self.load(text).warnings
        self.assertEqual(warning.what, "nothing is signed with gateway")


class Keys(_Site):
    def problem(self, text: str = SITE) -> str:
        with self.assertRaises(config.ConfigErrors) as caught:
            self.load(text)
        return str(caught.exception.problems[0])

    def test_they_are_read_with_the_configuration(self) -> None:
        found = self.load()
        self.assertEqual(
            {name: [key.key_name for key in keys] for name, keys in found.signing.items()},
            {"gateway": ["g._domainkey.gw.example.com"], "example": ["e._domainkey.example.com"]},
        )
        self.assertIn(self.folder / "key.pem", found.files)  # `watch` takes up another one

    def test_a_changed_key_is_taken_up_by_the_next_reading(self) -> None:
        before = self.load().signing["gateway"][0].record
        self.key(pem(Ed25519PrivateKey.generate()))
        self.assertNotEqual(self.load().signing["gateway"][0].record, before)

    def test_a_retired_key_is_not_read(self) -> None:
        found = self.load(
            SITE.replace(
                "g key file key.pem", "g key file key.pem retired selector o key file gone.pem"
            )
        )
        self.assertEqual(len(found.signing["gateway"]), 1)

    def test_it_may_lie_beside_the_file_that_names_it(self) -> None:
        (self.folder / "rules.d").mkdir()
        (self.folder / "rules.d" / "a.rules").write_text(SITE)
        (self.folder / "key.pem").rename(self.folder / "rules.d" / "key.pem")
        self.assertEqual(len(self.load("include rules.d/*.rules\n").signing), 2)

    def test_a_key_open_to_others_is_complained_of(self) -> None:
        for mode in (0o644, 0o642):
            self.key((self.folder / "key.pem").read_bytes(), mode)
            self.assertIn(
                f"key.pem holds secrets and is open to others (mode {mode:04o}); expected e.g. chmod 640",
                self.problem(),
            )

    def test_what_is_no_key_is_complained_of_and_not_shown(self) -> None:
        for octets, why in (
            (b"secret words\n", "there is no private key in it"),
            (pem(ec_key(SECP256R1())), "the key is neither RSA nor Ed25519"),
        ):
            self.key(octets)
            said = self.problem()
            self.assertRegex(said, rf":3:60: key.pem: {why}; expected an RSA ")
            self.assertNotIn("secret", said)

    def test_nothing_shows_them(self) -> None:
        self.assertNotIn("SigningKey", repr(self.load()))
