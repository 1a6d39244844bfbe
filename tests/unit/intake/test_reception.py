from __future__ import annotations

import unittest
from unittest.mock import patch

from relayd.intake.intake import ReceptionLimits
from relayd.intake.limits import SessionLimits
from relayd.intake.submission import completed
from relayd.intake.trace import LoopLimits, TraceField
from relayd.intake.transaction import merge_notify
from relayd.mail.address import Mailbox
from relayd.mail.envelope import DIRECT
from relayd.mail.message import RecipientState, Submission
from relayd.mail.plan import Destination, Plan
from relayd.report.wishes import STRANGERS, TRUSTED, Wishes
from relayd.rules.evaluate import Facts
from relayd.rules.header import MAX_FIELDS, edit_header
from relayd.rules.ruleset import Ruleset
from tests.unit.intake.scene import (
    CONTENT,
    HOST,
    RULES,
    STEP,
    Peer,
    Scene,
    accepted,
    decide,
    message,
)
from tests.unit.rules.sample import rules as parsed


class Transactions(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.peer = self.scene.greeted()

    def submit(self, *recipients: str, content: tuple[str, ...] = CONTENT) -> Submission:
        replies = self.peer.say(*message(*recipients))
        self.assertEqual(replies[-1][:3], "354", replies)
        (reply,) = self.peer.say(*content)
        self.assertEqual(reply[:3], "250", reply)
        return self.scene.spool.stored[-1][1]

    def test_all_that_the_spool_is_to_keep(self) -> None:
        self.scene.change(wishes=lambda of, client: TRUSTED)
        peer = self.scene.greeted(address="2001:db8::9")
        peer.say(
            "MAIL FROM:<s@example.org> BODY=8BITMIME RET=HDRS ENVID=q+2B1 SIZE=100",
            "RCPT TO:<Alice@Example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;al@example.com",
            "DATA",
        )
        peer.say(*CONTENT)
        submission = self.scene.spool.stored[-1][1]
        envelope = submission.envelope
        self.assertEqual(str(envelope.reverse_path), "s@example.org")
        self.assertEqual(
            (envelope.body, envelope.ret, envelope.envid, envelope.smtputf8),
            ("8BITMIME", "HDRS", "q+1", False),
        )
        (recipient,) = submission.recipients
        self.assertEqual(str(recipient.mailbox), "Alice@Example.com")
        self.assertEqual(str(recipient.original), "Alice@Example.com")
        self.assertEqual(recipient.orcpt, "rfc822;al@example.com")
        self.assertEqual(recipient.notify, {"SUCCESS", "DELAY"})
        self.assertEqual(recipient.reverse_path, envelope.reverse_path)
        client = submission.client
        self.assertEqual(
            (client.address, client.helo, client.protocol, client.listener),
            ("2001:db8::9", "client.example", "ESMTP", "127.0.0.1:2525"),
        )
        self.assertEqual(submission.trail, (STEP,))
        self.assertEqual(submission.rules, RULES.hash)
        self.assertEqual((submission.state, submission.states), (RecipientState.QUEUED, ()))
        self.assertEqual((submission.eight_bit, submission.utf8_header), (False, False))

    def test_refused_recipients_do_not_spoil_the_others(self) -> None:
        replies = self.peer.say(
            "MAIL FROM:<>",
            "RCPT TO:<refuse@example.com>",
            "RCPT TO:<later@example.com>",
            "RCPT TO:<alice@example.com>",
            "DATA",
        )
        self.assertEqual([reply[:3] for reply in replies], ["250", "550", "451", "250", "354"])
        self.peer.say(*CONTENT)
        (recipient,) = self.scene.spool.stored[0][1].recipients
        self.assertEqual(recipient.mailbox.local, "alice")
        self.assertEqual(
            self.scene.log.of("refused")[0],
            "RCPT TO:<refuse@example.com> -> 550 5.7.1 Go away (test.rules:9 reject to refuse@)",
        )

    def test_no_memory_after_the_commit_is_still_250(self) -> None:
        def scarce(*_: object, **__: object) -> None:
            raise MemoryError

        self.scene.log.accepted = scarce  # type: ignore[method-assign]
        self.submit("alice@example.com")

    def test_rcpt_twice_is_one_recipient(self) -> None:
        submission = self.submit("alice@example.com", "alice@EXAMPLE.com", "Alice@example.com")
        self.assertEqual(
            [str(recipient.mailbox) for recipient in submission.recipients],
            ["alice@example.com", "Alice@example.com"],
        )

    def test_rcpt_twice_is_still_the_sole_recipient(self) -> None:
        self.submit("alice@example.com", "alice@example.com")
        stored = self.scene.spool.stored[0][0]
        self.assertIn(b" for <alice@example.com>;", b"".join(stored.content.chunks()))

    def test_forwarding_to_the_same_mailbox_is_one_delivery(self) -> None:
        submission = self.submit("alias@example.com", "alice@example.net", "bob@example.net")
        self.assertEqual(
            [(str(r.mailbox), r.next_hop) for r in submission.recipients],
            [
                ("alice@example.net", "direct"),
                ("bob@example.net", "store"),
                ("bob@example.net", "direct"),
            ],
        )

    def test_orcpt_of_our_own_when_forwarding_changed_the_mailbox(self) -> None:
        submission = self.submit("alias@example.com")
        self.assertEqual(
            [recipient.orcpt for recipient in submission.recipients],
            ["rfc822;alias@example.com"] * 2,
        )
        self.assertEqual(self.submit("carol@example.com").recipients[0].orcpt, "")

    def test_held_and_discarded_beside_accepted(self) -> None:
        submission = self.submit("alice@example.com", "hold@example.com", "discard@example.com")
        self.assertEqual(
            [submission.state_of(n) for n in range(3)],
            [RecipientState.QUEUED, RecipientState.HELD, RecipientState.DISCARDED],
        )
        ((_, records),) = self.scene.handed_over
        self.assertEqual([str(r.recipient.mailbox) for r in records], ["alice@example.com"])

    def test_all_held_or_all_discarded(self) -> None:
        submission = self.submit("hold@example.com")
        self.assertEqual((submission.state, submission.states), (RecipientState.HELD, ()))
        submission = self.submit("discard@example.com")
        self.assertEqual((submission.state, submission.states), (RecipientState.DISCARDED, ()))
        self.assertEqual(len(submission.recipients), 1)
        self.assertEqual(self.scene.handed_over, [])

    def test_too_many_recipients(self) -> None:
        scene = Scene(limits=ReceptionLimits(recipients=2))
        replies = scene.greeted().say(
            *message("a@example.com", "b@example.com", "a@example.com", "c@example.com")
        )
        self.assertEqual([reply[:3] for reply in replies[1:]], ["250", "250", "250", "452", "354"])

    def test_too_many_final_recipients(self) -> None:
        scene = Scene(limits=ReceptionLimits(destinations=3))
        replies = scene.greeted().say(
            "MAIL FROM:<>",
            "RCPT TO:<alias@example.com>",
            "RCPT TO:<alias@example.org>",
            "RCPT TO:<a@example.org>",
        )
        # and now it is full: the next one may fit, but is not worth another decision
        self.assertEqual([reply[:3] for reply in replies[1:]], ["250", "452", "452"])

    def test_a_list_beyond_the_limit_is_decided_about_once(self) -> None:
        decided = []

        def counting(ruleset: Ruleset, facts: Facts) -> Plan:
            decided.append(facts.recipient.local)
            return decide(ruleset, facts)

        scene = Scene(limits=ReceptionLimits(destinations=3))
        scene.change(decide=counting)
        peer = scene.greeted()
        heard = peer.say("MAIL FROM:<>", "RCPT TO:<alias@example.com>")
        heard += peer.say(*[f"RCPT TO:<alias@{number}.example>" for number in range(50)])
        self.assertEqual([reply[:3] for reply in heard], ["250"] * 2 + ["452"] * 50)
        self.assertEqual(decided, ["alias"] * 2)
        # those who were taken are, and the next transaction begins anew
        self.assertEqual([reply[:3] for reply in peer.say("DATA", *CONTENT)], ["354", "250"])
        heard = peer.say("MAIL FROM:<>", "RCPT TO:<alias@example.org>")
        self.assertEqual([reply[:3] for reply in heard], ["250", "250"])

    def test_more_fields_than_rules_may_look_at_are_refused(self) -> None:
        """Each of them costs, however small it is."""
        ruleset = parsed("rewrite header To @ours.test -> @new.test\nheader remove X-Del")
        for field in (b"To:\r\n", b"X-Del:\r\n", b"To:\r\n \r\n"):
            for end in (b"\r\nHello.\r\n.\r\n", b".\r\n"):
                for fields, code in ((MAX_FIELDS, "250"), (MAX_FIELDS + 1, "552 5.3.4")):
                    with self.subTest(field=field, end=end, fields=fields):
                        scene = Scene()
                        scene.change(edit=lambda _, *rest: edit_header(ruleset, (0, 1), rest[1]))
                        peer = scene.greeted()
                        peer.say(*message("rewritten@example.com"))
                        (reply,) = peer.send(field * fields + b"X: y\r\n" * 20_000 + end)
                        self.assertEqual(reply[: len(code)], code)

    def test_a_submission_completes_no_more_fields_than_that(self) -> None:
        section = b"To: a\r\n" * (MAX_FIELDS + 10) + b"\r\n"
        with patch("relayd.intake.submission.MAX_ADDRESSES", 1 << 30):
            found = completed(section, now=0.0, ident=1, hostname=HOST, origin="example.com")
        self.assertEqual(found.count(b"To: a@example.com\r\n"), MAX_FIELDS)
        self.assertEqual(found.count(b"To: a\r\n"), 10)

    def test_rset_and_ehlo_forget_the_transaction(self) -> None:
        for command in ("RSET", "EHLO again.example"):
            self.peer.say("MAIL FROM:<>", "RCPT TO:<a@example.com>", command)
            self.assertEqual(self.peer.say("DATA")[0][:3], "503")

    def test_whose_mail_was_refused_is_not_waited_for_by_the_next_commit(self) -> None:
        changes: list[int] = []
        scene = Scene()
        scene.change(expect=changes.append)
        peer = scene.greeted()
        self.assertEqual(changes, [1])  # a new session, and then its transaction
        scene.spool.healthy = False
        peer.say("MAIL FROM:<s@example.org>")
        self.assertEqual(changes, [1, -1])
        scene.spool.healthy = True
        peer.say("MAIL FROM:<s@example.org>")
        self.assertEqual(changes, [1, -1, 1])
        peer.say("RSET")
        peer.leave()
        self.assertEqual(changes, [1, -1, 1, -1])

    def test_one_snapshot_of_the_rules_for_each_transaction(self) -> None:
        taken: list[int] = []

        def rules() -> object:
            taken.append(1)
            return RULES

        self.scene.change(rules=rules)
        peer = self.scene.greeted()
        peer.say(*message("a@example.com", "b@example.com"))
        self.assertEqual(len(taken), 1)
        peer.say(*CONTENT, *message())
        self.assertEqual(len(taken), 2)

    def test_size_of_the_trace_field_is_not_the_peers(self) -> None:
        submission = self.submit(content=("", "body", "."))
        stored = self.scene.spool.stored[0][0]
        self.assertEqual(b"".join(stored.content.chunks(submission.header_size)), b"body\r\n")


class Contents(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene(limits=ReceptionLimits(header_size=2000))
        self.peer = self.scene.greeted()

    def end(self, *lines: str, recipients: tuple[str, ...] = ()) -> str:
        self.peer.say(*message(*recipients))
        replies = self.peer.say(*lines, ".")
        self.assertEqual(len(replies), 1)
        return replies[0]

    def test_eight_bit_and_utf8_header(self) -> None:
        for lines, flags in (
            (("Subject: x", "", "body"), (False, False)),
            (("Subject: x", "", "bödy"), (True, False)),
            (("Subject: ü", "", "body"), (True, True)),
        ):
            self.end(*lines)
            submission = self.scene.spool.stored[-1][1]
            self.assertEqual((submission.eight_bit, submission.utf8_header), flags)

    def test_header_section_too_large(self) -> None:
        reply = self.end(*(f"X-{n}: {'y' * 100}" for n in range(30)), "", "body")
        self.assertEqual(reply[:9], "552 5.3.4")
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        self.assertEqual(self.end("Subject: x", "", "body" * 1000)[:3], "250")

    def test_nothing_of_the_senders_joins_our_trace_field(self) -> None:
        for first, before in (
            (" blank first", "\r\n"),
            ("\ttab first", "\r\n"),
            ("no field", "\r\n"),
            ("..", "\r\n"),
            ("From a@b.test Mon Jan  5", "X-Mailbox-Line: "),
            (">From a@b.test", "X-Mailbox-Line: "),
            ("Subject: x", ""),
            ("", ""),
        ):
            for size in (1, 7, 10_000):
                self.peer.say(*message())
                text = f"{first}\r\nTo: y\r\n\r\nbody\r\n"
                octets = f"{text}.\r\n".encode()
                for at in range(0, len(octets), size):
                    replies = self.peer.send(octets[at : at + size])
                with self.subTest(first, size=size):
                    self.assertEqual(replies[0][:3], "250")
                    stored, submission = self.scene.spool.stored[-1]
                    content = b"".join(stored.content.chunks())
                    rest = content.partition(b";\r\n ")[2]
                    self.assertEqual(
                        rest.partition(b"\r\n")[2].decode(), before + text.replace("..", ".", 1)
                    )
                    ours = before != "\r\n" and first != ""
                    self.assertEqual(
                        content[: submission.header_size].count(b"\r\n"), 7 if ours else 4 + 1
                    )

    def test_content_that_ends_in_its_first_line_by_bdat(self) -> None:
        for text, expected in ((b"nothing", b"\r\nnothing"), (b"A: b", b"A: b"), (b" ", b"\r\n ")):
            self.peer.say(*message()[:-1])
            self.assertEqual(self.peer.send(b"BDAT %d LAST\r\n" % len(text) + text)[0][:3], "250")
            content = b"".join(self.scene.spool.stored[-1][0].content.chunks())
            self.assertIn(b"\r\n" + expected, content)
            self.assertTrue(content.startswith(b"Received: "))
            self.assertIn(expected.strip(b"\r\n"), content[-len(expected) - 2 :])

    def test_what_rules_make_of_a_header_is_within_its_limit(self) -> None:
        def longer(ruleset: Ruleset, rules: tuple[int, ...], section: bytes, now: float) -> bytes:
            return b"X: " + b"y" * 1500 + b"\r\n" + section

        self.scene.change(edit=longer, decide=self.edited)
        self.peer = self.scene.greeted()
        self.assertEqual(self.end("Subject: x", "", "body")[:3], "250")
        reply = self.end("Subject: x", f"Y: {'z' * 600}", "", "body")
        self.assertEqual(reply[:9], "552 5.3.4")
        self.assertIn("rewritten", reply)
        self.assertTrue(self.scene.spool.drafts[-1].rolled_back)

    def test_what_rules_make_of_a_message_is_within_message_size(self) -> None:
        def longer(ruleset: Ruleset, rules: tuple[int, ...], section: bytes, now: float) -> bytes:
            return b"X: y\r\n" + section

        self.scene.change(
            edit=longer, decide=self.edited, limits=ReceptionLimits(message_size=1000)
        )
        self.peer = self.scene.greeted()
        header = "Subject: x\r\n\r\n"
        for size, code in ((1000 - 6, "250"), (1000 - 5, "552")):
            body = "b" * (size - len(header) - 2)
            self.assertEqual(self.end("Subject: x", "", body)[:3], code)

    @staticmethod
    def edited(ruleset: Ruleset, facts: Facts) -> Plan:
        return accepted(facts, Destination(facts.recipient, DIRECT, facts.sender, (0,)))

    def test_too_many_hops(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        for hops, code in ((50, "250"), (51, "554")):
            peer.say(*message())
            (reply,) = peer.say(*["Received: by a; now"] * hops, "", ".")
            self.assertEqual(reply[:3], code)
        self.assertEqual(reply, "554 5.4.6 Too many hops")
        self.assertIn("Too many hops", scene.log.of("refused")[0])

    def test_a_message_that_comes_round_again_and_again(self) -> None:
        scene = Scene(limits=ReceptionLimits(loop=LoopLimits(same_recipient=3)))
        peer = scene.greeted()
        content = b"Subject: x\r\n\r\nbody\r\n"
        said = []
        for _ in range(4):
            peer.say(*message())
            (reply,) = peer.send(content + b".\r\n")
            said.append(reply[:9])
            content = b"".join(scene.spool.stored[-1][0].content.chunks())
        self.assertEqual(said, ["250 2.0.0"] * 3 + ["554 5.4.6"])

    def test_received_in_the_body_is_no_hop(self) -> None:
        self.assertEqual(self.end("Subject: x", "", *["Received: by a; now"] * 60)[:3], "250")

    def test_core_refuses_the_content(self) -> None:
        self.peer.say(*message())
        self.assertEqual(self.peer.send(b"Subject: x\r\n\r\nbare\nlf\r\n"), [])
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        (reply,) = self.peer.send(b".\r\n")
        self.assertEqual(reply[:3], "554")
        self.assertEqual(self.scene.spool.waiting, [])
        self.assertIn("content -> 554", self.scene.log.of("refused")[0])


class Rewriting(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.peer = self.scene.greeted()

    def submit(self, *recipients: str, field: str = "Subject: x") -> Submission:
        self.peer.say(*message(*recipients))
        self.assertEqual(self.peer.say(field, "", "body", ".")[0][:3], "250")
        return self.scene.spool.stored[-1][1]

    def test_each_set_of_rules_makes_one_header_section(self) -> None:
        submission = self.submit(
            "alias@example.com", "rewritten@example.com", "rewritten@example.org"
        )
        self.assertEqual([r.header for r in submission.recipients], [0, 1, 2, 2])
        stored = self.scene.spool.stored[0][0]
        content = b"".join(stored.content_for(2).chunks())
        trace, _, rest = content.partition(b"X-Rules")
        self.assertEqual(rest, b": 1,2\r\nSubject: x\r\n\r\nbody\r\n")
        self.assertTrue(trace.startswith(b"Received: from client.example"))
        self.assertEqual(TraceField(HOST).hops(content).own, 1)
        plain = b"".join(stored.content_for(0).chunks())
        self.assertEqual(plain, trace + b"Subject: x\r\n\r\nbody\r\n")

    def test_rules_that_change_nothing_keep_the_section_as_received(self) -> None:
        submission = self.submit("rewritten@example.com", field="X-Keep: me")
        self.assertEqual(submission.headers, ())
        self.assertEqual(submission.recipients[0].header, 0)


class Injections(unittest.TestCase):
    """A peer's text never becomes a line of its own in the content, the log or a reply."""

    def trace(self, peer: Peer, scene: Scene) -> bytes:
        peer.say(*message())
        peer.say("", ".")
        return b"".join(scene.spool.stored[-1][0].content.chunks())

    def test_helo(self) -> None:
        for helo in (
            "EHLO a b c",
            "EHLO x) by evil.example (y",
            "EHLO x\x0bX-Evil: yes",
            "EHLO x\u2028X-Evil: yes",
            "EHLO <script>",
            'EHLO "quoted"',
            "EHLO x;y",
            "HELO [127.0.0.1",
            "EHLO \x85evil",
        ):
            scene = Scene()
            peer = scene.connect()
            peer.replies()
            replies = peer.say(helo)
            self.assertTrue(all(reply[:1].isdigit() for reply in replies), replies)
            if replies[0][:3] != "250":
                continue  # the core would not have it: as good
            content = self.trace(peer, scene)
            self.assertTrue(content.isascii())
            self.assertTrue(
                content.startswith(b"Received: from [192.0.2.1] (unknown [192.0.2.1]) (HELO")
            )
            self.assertEqual(TraceField(HOST).hops(content).own, 1)
            self.assertNotIn(b"\nX-Evil", content)

    def test_helo_over_tls_keyword(self) -> None:
        scene = Scene()
        peer = scene.greeted(helo="HELO old.example")
        self.assertIn(b" with SMTP id ", self.trace(peer, scene))

    def test_smtputf8_keyword(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.say("MAIL FROM:<s@example.org> SMTPUTF8", "RCPT TO:<jürgen@example.com>", "DATA")
        peer.say("", ".")
        ((stored, submission),) = scene.spool.stored
        content = b"".join(stored.content.chunks())
        self.assertIn(b" with UTF8SMTP id ", content)
        self.assertTrue(content.isascii())
        self.assertEqual(submission.client.protocol, "UTF8SMTP")
        self.assertEqual(submission.recipients[0].mailbox, Mailbox("jürgen", "example.com"))
        self.assertFalse(submission.utf8_header)
        peer.say(*message())  # the next transaction is an ordinary one
        peer.say("", ".")
        self.assertEqual(scene.spool.stored[1][1].client.protocol, "ESMTP")


class Notify(unittest.TestCase):
    def test_merging_reports_what_either_asked_for(self) -> None:
        never, none = frozenset({"NEVER"}), frozenset[str]()
        success, failure = frozenset({"SUCCESS"}), frozenset({"FAILURE"})
        for first, second, merged in (
            (none, none, none),
            (never, never, never),
            (none, never, none),
            (never, success, success),
            (success, failure, success | failure),
            (none, success, {"SUCCESS", "FAILURE", "DELAY"}),
        ):
            self.assertEqual(merge_notify(first, second), merged)
            self.assertEqual(merge_notify(second, first), merged)


class Expanded(unittest.TestCase):
    """RFC 3461: an alias that becomes several addresses is reported on once."""

    def told(self, *parameters: str) -> tuple[list[str], list[frozenset[str]]]:
        told: list[str] = []
        scene = Scene()
        scene.change(
            expanded=lambda message, aliases: told.extend(str(each.mailbox) for each in aliases),
            wishes=lambda of, client: TRUSTED,
        )
        peer = scene.greeted()
        peer.say("MAIL FROM:<s@example.org>")
        for recipient in ("alias@example.com", "one@example.com"):
            peer.say(" ".join([f"RCPT TO:<{recipient}>", *parameters]))
        peer.say("DATA", "x", ".")
        ((_, submission),) = scene.spool.stored
        return told, [recipient.notify for recipient in submission.recipients]

    def test_success_at_an_alias(self) -> None:
        told, notify = self.told("NOTIFY=SUCCESS,FAILURE")
        self.assertEqual(told, ["alias@example.com"])
        self.assertEqual(notify, [{"FAILURE"}, {"FAILURE"}, {"SUCCESS", "FAILURE"}])

    def test_no_wish_for_success(self) -> None:
        self.assertEqual(self.told("NOTIFY=FAILURE"), ([], [frozenset({"FAILURE"})] * 3))
        self.assertEqual(self.told(), ([], [frozenset()] * 3))


class Wishing(unittest.TestCase):
    """What strangers wish to be reported is not done to whoever they say they are."""

    def stored(
        self,
        *notify: str,
        ret: str = "",
        rules: str = "accept to @example.com",
        login: str = "",
        wishes: Wishes = STRANGERS,
    ) -> Submission:
        scene = Scene()
        ruleset = parsed(rules)
        scene.change(
            rules=lambda: ruleset,
            wishes=lambda of, client: TRUSTED if of.trusts(client) else wishes,
        )
        peer = scene.greeted(address="192.0.2.7")
        if login:
            peer.protocol._reception.logged_in(login)  # type: ignore[attr-defined]
        peer.say(f"MAIL FROM:<victim@example.org>{ret and ' RET='}{ret}")
        for number, words in enumerate(notify):
            peer.say(f"RCPT TO:<u{number}@example.com>{words and ' NOTIFY='}{words}")
        peer.say("DATA", "x", ".")
        ((_, submission),) = scene.spool.stored
        return submission

    def notify(self, submission: Submission) -> list[frozenset[str]]:
        return [recipient.notify for recipient in submission.recipients]

    def test_a_stranger_hears_of_failures_by_headers(self) -> None:
        submission = self.stored(
            "SUCCESS", "SUCCESS,FAILURE", "DELAY,FAILURE", "NEVER", "", "SUCCESS,DELAY", ret="FULL"
        )
        self.assertEqual(
            self.notify(submission),
            [{"NEVER"}, {"FAILURE"}, {"FAILURE"}, {"NEVER"}, frozenset(), {"NEVER"}],
        )
        self.assertEqual(submission.envelope.ret, "HDRS")

    def test_a_stranger_who_says_nothing_gets_headers(self) -> None:
        self.assertEqual(self.stored("").envelope.ret, "HDRS")

    def test_a_stranger_who_repeats_a_recipient_wishes_no_more(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.say(
            "MAIL FROM:<victim@example.org>",
            "RCPT TO:<u@example.com> NOTIFY=FAILURE",
            "RCPT TO:<u@example.com> NOTIFY=SUCCESS,FAILURE",
            "DATA",
        )
        peer.say("x", ".")
        self.assertEqual(self.notify(scene.spool.stored[0][1]), [{"FAILURE"}])

    def test_who_is_named_by_a_rule_is_no_stranger(self) -> None:
        submission = self.stored(
            "SUCCESS",
            "DELAY",
            ret="FULL",
            rules="accept to @example.com\naccept from 192.0.2.0/24",
        )
        self.assertEqual(self.notify(submission), [{"SUCCESS"}, {"DELAY"}])
        self.assertEqual(submission.envelope.ret, "FULL")

    def test_nor_is_who_has_logged_in(self) -> None:
        submission = self.stored("SUCCESS", ret="FULL", login="victim@example.org")
        self.assertEqual(self.notify(submission), [{"SUCCESS"}])

    def test_a_setting_honours_strangers(self) -> None:
        submission = self.stored("SUCCESS", ret="FULL", wishes=TRUSTED)
        self.assertEqual(self.notify(submission), [{"SUCCESS"}])
        self.assertEqual(submission.envelope.ret, "FULL")


class Capacity(unittest.TestCase):
    def test_a_session_leaves_nothing_behind(self) -> None:
        scene = Scene(sessions=SessionLimits(in_all=10))
        for _ in range(50):
            peer = scene.greeted()
            peer.say(*message())
            peer.leave()
        self.assertEqual(scene.admission.in_all, 0)
        self.assertTrue(all(draft.rolled_back for draft in scene.spool.drafts))
        self.assertEqual(scene.clock.getDelayedCalls(), [])
