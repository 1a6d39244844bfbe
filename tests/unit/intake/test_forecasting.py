"""What is foreseen of copies, and what rules that ask `breaks dmarc` do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relayd import config
from relayd.authentication.dkimkey import key_record
from relayd.authentication.dkimsigning import new_private_key, private_key
from relayd.intake.checks import ReceivedContent
from relayd.intake.examination import Filtered
from relayd.intake.gatheredfacts import Gatherer
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.message import RecipientState
from relayd.mail.plan import FACT, Verdict
from relayd.ops.explain import explain, lines
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Known
from relayd.rules.header import edit_header
from relayd.rules.storedfact import recalled
from tests.support import TestCase
from tests.unit.authentication.test_dkim import ED_RECORD, NOW
from tests.unit.authentication.test_dkim import SECTION as SECTION_OF_OTHERS
from tests.unit.authentication.test_dkim import sign as sign_for
from tests.unit.intake.scene import HOST, Peer, message
from tests.unit.intake.test_examination import BODY, ExaminationCase
from tests.unit.intake.test_lookups import Zone

Records = Mapping[tuple[str, str], tuple[str, ...] | None]
US = "198.51.100.7"
OTHER_KEY = key_record(Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key())
KEY = ("s._domainkey.sender.example", "TXT")
POLICY = ("_dmarc.sender.example", "TXT")
SECTION = SECTION_OF_OTHERS.replace(b"example.com", b"sender.example")
GATEWAY: Records = {
    (HOST, "A"): (US,),
    (HOST, "TXT"): (f"v=spf1 ip4:{US} -all",),
    (f"_dmarc.{HOST}", "TXT"): ("v=DMARC1; p=reject",),
}
STRICT: Records = {**GATEWAY, KEY: (ED_RECORD,), POLICY: ("v=DMARC1; p=reject",)}
SITE = f"""
accept  to @ours.example
srs     domain {HOST} keys file srs.keys
forward info@ours.example -> alice@outside.example
forward here@ours.example -> bob@ours.example
forward both@ours.example -> bob@ours.example, alice@outside.example
"""


def sign(section: bytes = SECTION, **tags: Any) -> bytes:  # noqa: ANN401
    """The field of the author's domain."""
    return sign_for(d="sender.example", section=section, **tags)


PLAIN = SECTION
SIGNED = sign() + b"\r\n" + SECTION


class ForecastCase(ExaminationCase, TestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        keys = self.folder / "srs.keys"
        keys.write_text("secret\n")
        keys.chmod(0o600)

    def site(self, text: str, records: Records, **intake: object) -> None:
        self.zone = Zone(records)
        settings = config.load_text(f"hostname {HOST}\n{SITE}{text}", self.folder)
        ruleset = self.ruleset = settings.ruleset
        self.gatherer = Gatherer(
            self.scene.clock, self.zone, self.log, HOST, lambda: NOW, keys=lambda: settings.signing
        )
        self.scene.change(
            gatherer=self.gatherer,
            rules=lambda: ruleset,
            decide=evaluate,
            edit=edit_header,
            **intake,
        )

    def sent(
        self,
        text: str,
        content: bytes,
        records: Records = STRICT,
        to: str = "info@ours.example",
        sender: str = "ann@sender.example",
    ) -> str:
        """The reply to the final dot."""
        self.site(text, records)
        self.peer: Peer = self.scene.greeted()
        self.peer.say(*message(to, sender=sender))
        (reply,) = self.peer.send(content + b".\r\n")
        self.peer.leave()
        return reply

    def forecasts(self) -> list[str]:
        """What the trail says of each copy."""
        return [
            f"{step.rule}: {step.note}"
            for step in self.submission.trail
            if step.stage == "forecast"
        ]

    def foreseen(self, content: bytes, records: Records = STRICT, text: str = "") -> str:
        """The outcome for the one copy, and why."""
        reply = self.sent(f'header add X-Breaks "yes" when breaks dmarc\n{text}', content, records)
        self.assertEqual(reply[:3], "250", reply)
        (said,) = self.forecasts()
        self.assertIn(": alice@outside.example: ", said)
        return said.replace(": alice@outside.example: ", ": ")

    def header(self) -> bytes:
        """The header section that the first recipient is to see."""
        number = self.submission.recipients[0].header
        self.assertGreater(number, 0)
        return self.submission.headers[number - 1]


class Foreseen(ForecastCase):
    def test_an_aligned_signature_that_is_kept_passes(self) -> None:
        self.assertEqual(
            self.foreseen(SIGNED + BODY), "pass: signed by sender.example, for sender.example"
        )

    def test_neither_fails(self) -> None:
        said = self.foreseen(PLAIN + BODY)
        self.assertEqual(
            said,
            "fails: sender.example asks for reject; no signature of sender.example; "
            f"SPF passes for {HOST}",
        )

    def test_a_policy_of_none_is_a_risk(self) -> None:
        records = {**STRICT, POLICY: ("v=DMARC1; p=none",)}
        self.assertTrue(
            self.foreseen(PLAIN + BODY, records).startswith("at risk: sender.example asks")
        )

    def test_without_a_policy_somebody_must_answer_for_it(self) -> None:
        said = self.foreseen(PLAIN + BODY, GATEWAY)
        self.assertEqual(said, f"pass: sender.example has no DMARC policy; SPF of {HOST}")
        said = self.foreseen(PLAIN + BODY, {(HOST, "A"): (US,)})
        self.assertEqual(
            said, "at risk: sender.example has no DMARC policy, and nobody answers for it"
        )

    def test_header_rules_that_touch_what_is_signed(self) -> None:
        said = self.foreseen(SIGNED + BODY, text='header replace Subject "x"')
        self.assertIn("what we change breaks the signature of sender.example", said)
        self.assertEqual(said[:5], "fails")
        said = self.foreseen(SIGNED + BODY, text='header add X-Other "x"')
        self.assertEqual(said[:4], "pass")
        said = self.foreseen(SIGNED + BODY, text='header add Subject "x"')
        self.assertEqual(said[:4], "pass", "those named are counted from below")

    def test_a_signature_over_our_trace_field(self) -> None:
        """It names Received once more than there is one: ours breaks it."""
        content = sign(h="from:to:subject:subject:received") + b"\r\n" + SECTION
        self.assertIn("what we change breaks", self.foreseen(content + BODY))

    def test_a_signature_that_leaves_out_the_end(self) -> None:
        whole = b"Hello  there \r\n"
        field = sign(l=str(len(whole)), body=whole)
        said = self.foreseen(field + b"\r\n" + SECTION + whole + b"more\r\n")
        self.assertTrue(said.startswith("at risk"), said)
        self.assertIn("leaves out the end of the body", said)
        said = self.foreseen(field + b"\r\n" + SECTION + whole)
        self.assertEqual(said[:4], "pass")

    def test_a_signature_that_expires_while_it_is_tried_again(self) -> None:
        field = sign(x=str(int(NOW) + 7200))
        said = self.foreseen(field + b"\r\n" + SECTION + BODY)
        self.assertEqual(said, "at risk: signed by sender.example, but that expires in 2 h")
        field = sign(x=str(int(NOW) - 1))
        said = self.foreseen(field + b"\r\n" + SECTION + BODY)
        self.assertIn("has failed: it has expired", said)

    def test_a_key_that_is_gone(self) -> None:
        said = self.foreseen(SIGNED + BODY, {**STRICT, KEY: ()})
        self.assertTrue(said.startswith("fails"), said)
        self.assertIn("has failed: there is no key", said)

    def test_a_signature_that_is_dated_in_the_future(self) -> None:
        field = sign(t=str(int(NOW) + 7200))
        said = self.foreseen(field + b"\r\n" + SECTION + BODY)
        self.assertEqual(said, "at risk: signed by sender.example, but that is dated in the future")
        field = sign(t=str(int(NOW) + 30))
        self.assertEqual(self.foreseen(field + b"\r\n" + SECTION + BODY)[:4], "pass")

    def test_several_keys_of_one_name(self) -> None:
        for keys in ((ED_RECORD, ED_RECORD), (OTHER_KEY, ED_RECORD)):
            said = self.foreseen(SIGNED + BODY, {**STRICT, KEY: keys})
            self.assertEqual(said[:7], "at risk", said)

    def test_what_only_some_would_not_verify_is_a_risk_and_breaks_dmarc(self) -> None:
        """Algorithms, identities and uses of keys that mailauth and older opendkim let pass."""
        signatures = (
            sign().replace(b"a=ed25519-sha256", b"a=rsa-sha1"),
            sign().replace(b"; d=", b"; i=@elsewhere.example; d="),
            sign().replace(b"; d=", b"; q=other/method; d="),
            sign().replace(b"h=from:", b"h="),
            sign(l="9999"),
        )
        for field in signatures:
            said = self.foreseen(field + b"\r\n" + SECTION + BODY)
            self.assertEqual(said[:7], "at risk", (field, said))
            self.assertIn(b"X-Breaks: yes", self.header())
        for tags in ("h=sha1; ", "s=tlsrpt; ", "t=s; "):
            key = ED_RECORD.replace("k=", f"{tags}k=")
            content = sign(i="@sub.sender.example") + b"\r\n" + SECTION + BODY
            said = self.foreseen(content, {**STRICT, KEY: (key,)})
            self.assertEqual(said[:7], "at risk", (tags, said))
        other = sign_for(d="other.example").replace(b"a=ed25519-sha256", b"a=rsa-sha1")
        self.assertEqual(self.foreseen(other + b"\r\n" + SECTION + BODY)[:5], "fails")

    def test_one_behind_more_signatures_than_are_verified_is_a_risk(self) -> None:
        others = b"".join(sign_for(d=f"n{n}.example") + b"\r\n" for n in range(8))
        said = self.foreseen(others + SIGNED + BODY)
        self.assertEqual(said[:7], "at risk")
        self.assertIn("more signatures than are verified", said)

    def test_who_is_not_asked_in_time_is_a_risk(self) -> None:
        self.sent("hold from 10.0.0.1 when dmarc reject", SIGNED + BODY, {**STRICT, KEY: None})
        (said,) = self.forecasts()
        self.assertIn("DMARC of sender.example: no answer", said)

    def test_an_author_of_ours_passes_by_spf(self) -> None:
        content = PLAIN.replace(b"a@sender.example", b"a@mail.%s" % HOST.encode())
        said = self.foreseen(content + BODY)
        self.assertEqual(said, f"pass: SPF of {HOST}, for mail.{HOST}")
        without = {**STRICT, (HOST, "A"): ()}
        self.assertIn(f"our name {HOST} has no address", self.foreseen(content + BODY, without))
        other = {**STRICT, (HOST, "A"): (US, "198.51.100.8")}
        self.assertIn("says fail of 198.51.100.8", self.foreseen(content + BODY, other))

    def test_no_author(self) -> None:
        self.assertEqual(self.foreseen(b"Subject: x\r\n\r\nx\r\n"), "at risk: From has no address")

    def test_what_receivers_read_in_different_ways(self) -> None:
        second = SIGNED.replace(b"\r\n\r\n", b"\r\nFrom: b@sender.example\r\n\r\n")
        two = PLAIN.replace(b"a@sender.example", b"a@sender.example, b@other.example")
        records = {**STRICT, POLICY: ("v=DMARC1; p=none",)}
        for content in (second, two):
            said = self.foreseen(content + BODY, records)
            self.assertEqual(said, "at risk: From names several domains, or is there twice")

    def test_the_trail_has_the_header_rules_that_change_a_copy(self) -> None:
        text = 'header remove X-Absent\nheader replace Subject "x"'
        self.foreseen(SIGNED + BODY, text=text)
        at_work = [
            (step.rule, step.note) for step in self.submission.trail if step.stage == "header"
        ]
        to = "alice@outside.example"
        self.assertEqual(
            at_work,
            [('add X-Breaks "yes" when breaks dmarc', to), ('replace Subject "x"', to)],
        )

    def test_what_stays_with_us_is_not_foreseen(self) -> None:
        self.sent("reject when dmarc none and dmarc pass", PLAIN + BODY, to="here@ours.example")
        self.assertEqual(self.forecasts(), [])
        self.sent("reject when dmarc none and dmarc pass", PLAIN + BODY, to="both@ours.example")
        self.assertEqual(len(self.forecasts()), 1)

    def test_what_nobody_configured_is_not_asked_for(self) -> None:
        self.sent("", SIGNED + BODY)
        self.assertEqual(self.zone.asked, [])
        self.assertEqual(self.forecasts(), [])


class Breaking(ForecastCase):
    def test_the_sender_is_told_at_the_final_dot(self) -> None:
        rule = 'reject when breaks dmarc 550 5.7.1 "It would be refused"'
        self.assertEqual(self.sent(rule, PLAIN + BODY), "550 5.7.1 It would be refused")
        self.assertEqual(self.sent(rule, SIGNED + BODY)[:3], "250")
        self.assertEqual(self.sent(rule, PLAIN + BODY, to="here@ours.example")[:3], "250")
        self.assertEqual(self.sent(rule, PLAIN + BODY, to="both@ours.example")[:3], "550")
        self.assertEqual(self.sent("defer when breaks dmarc", PLAIN + BODY)[:3], "451")

    def test_other_conditions_count_as_well(self) -> None:
        rule = "reject when breaks dmarc and spf fail"
        self.assertEqual(self.sent(rule, PLAIN + BODY)[:3], "250")
        records = {**STRICT, ("sender.example", "TXT"): ("v=spf1 -all",)}
        self.assertEqual(self.sent(rule, PLAIN + BODY, records)[:3], "550")
        self.assertEqual(
            self.sent(f"accept when dkim none\n{rule}", PLAIN + BODY, records)[:3], "250"
        )

    def test_a_policy_of_none_breaks_nothing(self) -> None:
        records = {**STRICT, POLICY: ("v=DMARC1; p=none",)}
        self.assertEqual(self.sent("reject when breaks dmarc", PLAIN + BODY, records)[:3], "250")
        records = {**STRICT, POLICY: ("v=DMARC1; p=quarantine",)}
        self.assertEqual(self.sent("reject when breaks dmarc", PLAIN + BODY, records)[:3], "550")

    def test_what_is_not_known_is_later(self) -> None:
        for records in ({**STRICT, KEY: None}, {**STRICT, POLICY: None}):
            for rule in ("reject when breaks dmarc", "hold when not breaks dmarc"):
                self.assertEqual(self.sent(rule, SIGNED + BODY, records)[:3], "451")

    def test_hold_and_discard(self) -> None:
        for verb, state in (("hold", RecipientState.HELD), ("discard", RecipientState.DISCARDED)):
            self.sent(f"{verb} when breaks dmarc", PLAIN + BODY)
            self.assertEqual(self.submission.state_of(0), state)
            self.sent(f"{verb} when breaks dmarc", SIGNED + BODY)
            self.assertEqual(self.submission.state_of(0), RecipientState.QUEUED)

    def test_routes_forwards_and_header_rules_are_of_each_copy(self) -> None:
        text = (
            "next-hop slow smtp slow.example:25\nroute any via slow when breaks dmarc\n"
            'header add X-Breaks "yes" when breaks dmarc\n'
        )
        self.sent(text, PLAIN + BODY, to="both@ours.example")
        stays, leaves = sorted(self.submission.recipients, key=lambda each: each.next_hop)
        self.assertEqual((str(stays.mailbox), stays.next_hop), ("bob@ours.example", "direct"))
        self.assertEqual(leaves.next_hop, "slow")
        with_field = [b"X-Breaks" in section for section in self.submission.headers]
        self.assertEqual(
            (with_field[stays.header - 1], with_field[leaves.header - 1]), (False, True)
        )
        text = "forward x@ours.example -> alice@outside.example when not breaks dmarc"
        for content, mailbox in ((SIGNED, "alice@outside.example"), (PLAIN, "x@ours.example")):
            self.sent(text, content + BODY, to="x@ours.example")
            self.assertEqual(str(self.submission.recipients[0].mailbox), mailbox)

    def test_a_rule_that_asks_is_left_out_of_the_answer(self) -> None:
        """From is rewritten for its sake; so it is asked of the copy with the old one."""
        text = "rewrite header From any -> srs when breaks dmarc\nhold when breaks dmarc\n"
        self.sent(text, PLAIN + BODY)
        self.assertEqual(self.submission.state_of(0), RecipientState.HELD)
        self.assertIn(
            f'From: "a at sender.example (via {HOST})"\r\n <SRSF='.encode(), self.header()
        )
        self.assertEqual(
            self.forecasts(), [f"pass: alice@outside.example: SPF of {HOST}, for {HOST}"]
        )
        self.sent(text, SIGNED + BODY)
        self.assertEqual(self.submission.state_of(0), RecipientState.QUEUED)
        self.assertNotIn(b"via", b"".join(self.submission.headers))

    def test_header_rules_that_do_not_ask_count(self) -> None:
        text = 'header replace Subject "x"\nreject when breaks dmarc\n'
        self.assertEqual(self.sent(text, SIGNED + BODY)[:3], "550")

    def test_the_answer_is_kept_with_the_message(self) -> None:
        for to, said in (
            ("info@ours.example", "breaks dmarc"),
            ("both@ours.example", "breaks dmarc"),
        ):
            self.sent("hold when breaks dmarc", PLAIN + BODY, to=to)
            kept = [step for step in self.submission.trail if step.stage == FACT]
            self.assertIn(said, [step.rule for step in kept])


class OurOwnSignature(ForecastCase):
    TEXT = f"""
dkim gateway domain {HOST} selector g key file g.pem
sign any with gateway when forwarded
rewrite header From any -> srs when breaks dmarc
"""

    def setUp(self) -> None:
        super().setUp()
        key = self.folder / "g.pem"
        pem = new_private_key(ed25519=True)
        key.write_bytes(pem)
        key.chmod(0o600)
        self.record = key_record(private_key(pem).public_key())

    def test_it_vouches_where_the_dns_has_its_key(self) -> None:
        records = {**STRICT, (f"g._domainkey.{HOST}", "TXT"): (self.record,), (HOST, "TXT"): ()}
        said = self.foreseen(PLAIN + BODY, records, self.TEXT)
        self.assertEqual(said, f"pass: signed by {HOST}, for {HOST}")

    def test_a_key_that_nobody_finds_is_a_risk(self) -> None:
        for found in ((), (self.record[:-8] + "AAAAAAA=",), (self.record, self.record)):
            records = {**STRICT, (f"g._domainkey.{HOST}", "TXT"): found, (HOST, "TXT"): ()}
            said = self.foreseen(PLAIN + BODY, records, self.TEXT)
            self.assertEqual(
                said,
                f"at risk: signed by {HOST}, but the DNS does not have our key g._domainkey.{HOST}",
            )

    def test_what_we_do_not_sign_we_do_not_vouch_for(self) -> None:
        """A header section with more fields than a signature names."""
        records = {**STRICT, (f"g._domainkey.{HOST}", "TXT"): (self.record,), (HOST, "TXT"): ()}
        said = self.foreseen(b"Resent-To: a@x.example\r\n" * 520 + PLAIN + BODY, records, self.TEXT)
        self.assertNotIn(b"DKIM-Signature", self.header())
        self.assertEqual(said[:5], "fails", said)

    def test_spf_that_is_aligned_takes_the_risk_away(self) -> None:
        said = self.foreseen(PLAIN + BODY, STRICT, self.TEXT)
        self.assertEqual(said, f"pass: SPF of {HOST}, for {HOST}")


class Filtering(ForecastCase):
    """What filters write counts as what our own rules change."""

    async def _edited(self, content: ReceivedContent, **what: bytes) -> Filtered:
        body = None
        if "body" in what:
            body = content.new_body()
            body.write(what["body"])
        await content.rewrite(what.get("section"), body)
        return Filtered()

    def foreseen_after(self, **what: bytes) -> str:
        edited = self._edited

        class Editor:
            async def examine(self, *given: Any) -> Filtered:  # noqa: ANN401
                return await edited(given[3], **what)

        self.site("reject when breaks dmarc", STRICT, filters=Editor())
        peer = self.scene.greeted()
        peer.say(*message("info@ours.example", sender="ann@sender.example"))
        (reply,) = peer.send(SIGNED + BODY + b".\r\n")
        peer.leave()
        return reply[:3]

    def test_what_changes_a_signed_field_or_the_body_breaks(self) -> None:
        other = SIGNED.replace(b"Subject: one", b"Subject: [spam] one")
        self.assertEqual(self.foreseen_after(section=other), "250")
        other = SIGNED.replace(b"Subject: two", b"Subject: [spam] two")
        self.assertEqual(self.foreseen_after(section=other), "550")
        self.assertEqual(self.foreseen_after(body=b"Hello  there, scanned\r\n"), "550")

    def test_what_adds_a_field_does_not(self) -> None:
        self.assertEqual(self.foreseen_after(section=b"X-Spam: no\r\n" + SIGNED), "250")
        self.assertEqual(self.foreseen_after(section=SIGNED, body=BODY), "250")


class Questions(ForecastCase):
    """What `relayctl explain` says of it, and tests of rules."""

    async def asked(
        self, text: str, *, header: str = "", said: Sequence[str] = ()
    ) -> dict[str, Any]:
        self.site(text, STRICT)

        async def nothing(*given: object) -> Any:  # noqa: ANN401
            return "none"

        async def nobody(*given: object) -> list[str]:
            return []

        question = {
            "recipient": "info@ours.example",
            "sender": "ann@sender.example",
            "header": header,
            "with": said,
        }
        return await explain(
            self.ruleset, question, nobody, nothing, nothing, self.gatherer.supposing
        )

    RULE = "reject when breaks dmarc"

    async def test_with_a_header_section(self) -> None:
        for section, said in ((SIGNED, "pass"), (PLAIN, "")):
            answer = await self.asked(self.RULE, header=section.decode("latin-1"))
            outcomes = [step["rule"] for step in answer["trail"] if step["stage"] == "forecast"]
            self.assertEqual(answer["verdict"], "accept" if said else "refuse", answer)
            self.assertEqual(outcomes[0], said or "fails")
            (row,) = [each for each in answer["facts"] if each["fact"].startswith("whether it br")]
            self.assertEqual(row["value"], f"{'not ' if said else ''}breaks dmarc")

    async def test_a_header_rule_that_breaks_it_is_told(self) -> None:
        text = self.RULE + '\nheader replace Subject "x"\n'
        answer = await self.asked(text, header=SIGNED.decode("latin-1"))
        said = "\n".join(lines(answer))
        self.assertIn("what we change breaks the signature of sender.example", said)

    async def test_with_what_is_said_of_signatures(self) -> None:
        answer = await self.asked(self.RULE, said=["dkim pass @sender.example"])
        self.assertEqual(answer["verdict"], "accept")
        answer = await self.asked(self.RULE, said=["dkim none"])
        self.assertEqual(answer["verdict"], "refuse")

    async def test_with_the_answer_itself(self) -> None:
        answer = await self.asked(self.RULE, said=["breaks dmarc"])
        self.assertEqual(answer["verdict"], "refuse")
        answer = await self.asked(self.RULE, said=["not breaks dmarc"])
        self.assertEqual(answer["verdict"], "accept")

    async def test_without_anything_it_is_not_known(self) -> None:
        answer = await self.asked(self.RULE)
        self.assertEqual(answer["verdict"], "accept")
        self.assertIn("breaks dmarc unknown", [each["value"] for each in answer["facts"]])

    def test_tests_of_rules_state_it(self) -> None:
        text = (
            f"{self.RULE}\n"
            "expect to info@ours.example when breaks dmarc -> reject 550 5.7.1\n"
            "expect to info@ours.example when not breaks dmarc -> alice@outside.example\n"
            "expect to info@ours.example when dkim pass -> alice@outside.example sender srs\n"
        )
        self.site(text, STRICT)
        with self.assertRaises(config.ConfigErrors):
            self.site(
                text.replace("when breaks dmarc -> reject", "when breaks dmarc -> hold"), STRICT
            )

    def test_what_was_kept_answers_replay(self) -> None:
        for content, to, verdict in (
            (PLAIN, "info@ours.example", Verdict.REFUSE),
            (SIGNED, "info@ours.example", Verdict.ACCEPT),
            (PLAIN, "here@ours.example", Verdict.ACCEPT),
        ):
            self.sent("hold when breaks dmarc", content + BODY, to=to)
            stored = {step.place: step.note for step in self.submission.trail if step.stage == FACT}
            self.site(self.RULE, STRICT)
            gathered = recalled(self.ruleset.gathered, stored)
            client, sender = Client("192.0.2.1"), Mailbox.parse("ann@sender.example")
            facts = Facts(client, sender, Mailbox.parse(to), NOW, gathered, Known.CONTENT)
            plan = evaluate(self.ruleset, facts)
            self.assertEqual(plan.verdict, verdict, (to, stored, plan.trail))
