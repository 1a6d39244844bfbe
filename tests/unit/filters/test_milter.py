"""The milter core against scripted filters: flags, versions, edits, what breaks the protocol."""

from __future__ import annotations

import struct
import time
import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.filters.milter import (
    FilterVerdict,
    MilterClient,
    Word,
    connection,
    header,
    path,
)
from relayd.filters.milteredits import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
    edited,
    section_fields,
)
from relayd.filters.milterwire import (
    ACTIONS,
    MACROS,
    MOST_DATA,
    STEPS,
    Event,
    MilterAction,
    MilterError,
    MilterStep,
    agreement,
    offer,
    packet,
    strings,
)
from relayd.mail.reply import Reply, printable

ALL = MilterAction(0x1FF)


def options(version: int, actions: int = 0, steps: int = 0, lists: bytes = b"") -> bytes:
    return packet(b"O", struct.pack("!III", version, actions, steps) + lists)


def agreed(version: int = 6, actions: int = 0, steps: int = 0, lists: bytes = b"") -> MilterClient:
    client = MilterClient()
    assert client.receive(options(version, actions, steps, lists)) == []
    return client


class Negotiation(unittest.TestCase):
    def test_we_offer_all_there_is(self) -> None:
        self.assertEqual(offer(), b"\0\0\0\rO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff")

    def test_what_is_turned_off_is_not_told(self) -> None:
        for event in Event:
            client = agreed(steps=int(event.off))
            self.assertEqual(client.wants(event), event is Event.END_OF_MESSAGE, event)

    def test_what_is_silent_is_not_waited_for(self) -> None:
        for event in Event:
            client = agreed(steps=int(event.silent))
            _, answers = client.tell(event, b"", {})
            self.assertEqual(answers, event is Event.END_OF_MESSAGE, event)
            self.assertEqual(client.ready, not answers)

    def test_each_version_knows_its_own(self) -> None:
        for version in (2, 3, 4, 5, 6):
            client = agreed(version)
            self.assertEqual(client.wants(Event.UNKNOWN), version >= 3)
            self.assertEqual(client.wants(Event.DATA), version >= 4)
            self.assertEqual(client.reusable, version >= 6)
            agreed(version, steps=int(STEPS[version]))
            if version < 6:
                for beyond in (MilterStep.SILENT_BODY, MilterStep.LEADING_SPACE, MilterStep.SKIPS):
                    with self.assertRaises(MilterError):
                        agreed(version, steps=int(beyond))
                with self.assertRaises(MilterError):
                    agreed(version, actions=int(MilterAction.CHANGE_SENDER))

    def test_versions_and_answers_that_are_none(self) -> None:
        for octets in (
            options(1),
            options(7),
            packet(b"O", b"\0\0"),
            packet(b"c"),
            options(6, 0x200),
        ):
            with self.assertRaises(MilterError):
                MilterClient().receive(octets)

    def test_what_real_filters_ask_for(self) -> None:
        """opendkim, opendmarc, clamav-milter, dkimpy-milter, rspamd."""
        for actions, steps in (
            (
                MilterAction.ADD_HEADER | MilterAction.CHANGE_HEADER | MilterAction.NAME_MACROS,
                MilterStep.NO_HELO
                | MilterStep.NO_UNKNOWN
                | MilterStep.NO_DATA
                | MilterStep.SKIPS
                | MilterStep.LEADING_SPACE,
            ),
            (
                MilterAction.ADD_HEADER | MilterAction.QUARANTINE,
                MilterStep.NO_BODY | MilterStep.NO_UNKNOWN | MilterStep.NO_DATA,
            ),
            (
                MilterAction.ADD_HEADER | MilterAction.CHANGE_HEADER | MilterAction.QUARANTINE,
                MilterStep.NO_HELO
                | MilterStep.NO_END_OF_HEADER
                | MilterStep.NO_UNKNOWN
                | MilterStep.NO_DATA,
            ),
            (
                ALL,
                MilterStep.NO_HELO
                | MilterStep.NO_RCPT
                | MilterStep.NO_DATA
                | MilterStep.SILENT_CONNECT
                | MilterStep.SILENT_MAIL
                | MilterStep.SILENT_HEADER
                | MilterStep.SILENT_END_OF_HEADER
                | MilterStep.SILENT_BODY,
            ),
            (ALL, sum(each.silent for each in Event)),
        ):
            found = agreed(6, int(actions), int(steps)).agreed
            self.assertEqual((found.actions, found.steps), (actions, steps))

    def test_lists_of_macros(self) -> None:
        lists = struct.pack("!I", 2) + b"i {auth_authen} x\0" + struct.pack("!I", 5) + b"\0"
        client = agreed(lists=lists)
        octets, _ = client.tell(
            Event.MAIL, b"", {"i": "7", "auth_authen": "ann", "mail_addr": "a@b"}
        )
        self.assertIn(packet(b"D", b"Mi\x007\0{auth_authen}\0ann\0"), octets)
        for cut in (b"\0", b"\0\0\0\x01", b"\0\0\0\x01x"):
            with self.assertRaises(MilterError):
                agreed(lists=cut)


class Told(unittest.TestCase):
    def test_macros_and_event_are_one_write(self) -> None:
        octets, answers = agreed().tell(Event.HELO, b"mx\0", {"tls_version": "TLSv1.3", "x": "y"})
        self.assertEqual(octets, packet(b"D", b"H{tls_version}\0TLSv1.3\0") + packet(b"H", b"mx\0"))
        self.assertTrue(answers)
        self.assertEqual(set(MACROS), {event for event in Event if event.macros is not None})

    def test_what_each_event_carries(self) -> None:
        for octets, wanted in (
            (connection("mx.test", "192.0.2.7", 25), b"mx.test\x004\0\x19192.0.2.7\0"),
            (connection("[x]", "2001:db8::1", 2525), b"[x]\x006\x09\xdd2001:db8::1\0"),
            (connection("localhost", "", 0), b"localhost\0U"),
            (path("a@b.test", ("SIZE=5", "BODY=8BITMIME")), b"<a@b.test>\0SIZE=5\0BODY=8BITMIME\0"),
            (path(""), b"<>\0"),
            (header("Subject", b" x\r\n\ty", leading_space=False), b"Subject\0x\n\ty\0"),
            (header("Subject", b"  x", leading_space=True), b"Subject\0  x\0"),
            (header("X", b"\tx\0y", leading_space=False), b"X\0\txy\0"),
        ):
            self.assertEqual(octets, wanted)

    def test_who_owes_an_answer_is_told_nothing_more(self) -> None:
        client = agreed()
        client.tell(Event.MAIL, b"", {})
        with self.assertRaises(AssertionError):
            client.tell(Event.RCPT, b"", {})
        with self.assertRaises(AssertionError):
            client.next_message()


class Said(unittest.TestCase):
    def say(
        self, event: Event, octets: bytes, client: MilterClient | None = None
    ) -> list[FilterVerdict]:
        self.client = client or agreed(actions=int(ALL), steps=int(MilterStep.SKIPS))
        self.client.tell(event, b"", {})
        return self.client.receive(octets)

    def test_each_word_and_how_far_it_goes(self) -> None:
        for event, word, more in (
            (Event.CONNECT, Word.CONTINUE, "all"),
            (Event.CONNECT, Word.ACCEPT, "nothing"),
            (Event.HELO, Word.REJECT, "nothing"),
            (Event.MAIL, Word.ACCEPT, "messages"),
            (Event.MAIL, Word.TEMPFAIL, "messages"),
            (Event.RCPT, Word.REJECT, "all"),
            (Event.RCPT, Word.TEMPFAIL, "all"),
            (Event.RCPT, Word.ACCEPT, "messages"),
            (Event.RCPT, Word.DISCARD, "messages"),
            (Event.DATA, Word.REJECT, "messages"),
            (Event.END_OF_MESSAGE, Word.REJECT, "messages"),
            (Event.UNKNOWN, Word.REJECT, "all"),
            (Event.BODY, Word.SHUT_DOWN, "nothing"),
            (Event.RCPT, Word.SHUT_DOWN, "nothing"),
        ):
            with self.subTest(event, word=word):
                (verdict,) = self.say(event, packet(word.value))
                self.assertEqual(verdict, FilterVerdict(word))
                self.assertEqual(self.client.wants(Event.RCPT), more == "all")
                self.client.next_message()
                self.assertEqual(self.client.wants(Event.RCPT), more != "nothing")

    def test_another_client_is_told_of_afresh(self) -> None:
        self.say(Event.CONNECT, packet(b"r"))
        self.assertEqual(self.client.next_client(), packet(b"K"))
        self.assertTrue(self.client.wants(Event.CONNECT))

    def test_its_own_reply(self) -> None:
        for text, reply in (
            (b"550 5.7.1 No 100%% way, %s", "550 5.7.1 No 100% way, s"),
            (b"451-4.7.1 one\r\n451 4.7.1 two", "451 4.7.1 one two"),
            (b"554", "554 5.7.1 "),
            (b"550 5.7.1 a\x07b", "550 5.7.1 a b"),
        ):
            (verdict,) = self.say(Event.RCPT, packet(b"y", text + b"\0"))
            self.assertEqual(str(verdict.reply), reply)
        for text in (b"", b"250 ok", b"5xx no", b"550-a\r\n551 b", b"550 a\nb", b"5500"):
            with self.subTest(text), self.assertRaises(MilterError):
                self.say(Event.RCPT, packet(b"y", text + b"\0"))

    def test_it_may_have_seen_enough_of_the_body(self) -> None:
        self.say(Event.BODY, packet(b"s"))
        self.assertFalse(self.client.wants(Event.BODY))
        self.assertTrue(self.client.wants(Event.END_OF_MESSAGE))
        self.client.next_message()
        self.assertTrue(self.client.wants(Event.BODY))
        for event, steps in ((Event.BODY, 0), (Event.MAIL, int(MilterStep.SKIPS))):
            with self.assertRaises(MilterError):
                self.say(event, packet(b"s"), agreed(steps=steps))

    def test_every_edit_at_the_end_of_a_message(self) -> None:
        octets = b"".join(
            (
                packet(b"h", b"X-A\0one\0"),
                packet(b"i", b"\0\0\0\x01X-B\0two\0"),
                packet(b"m", b"\0\0\0\x02Subject\0\0"),
                packet(b"b", b"new\r\n"),
                packet(b"p"),
                packet(b"b", b"body\r\n"),
                packet(b"+", b"<c@d.test>\0"),
                packet(b"2", b"<e@f.test>\0NOTIFY=NEVER\0"),
                packet(b"2", b"<g@h.test>\0"),
                packet(b"-", b"<a@b.test>\0"),
                packet(b"e", b"<s@t.test>\0"),
                packet(b"q", b"why\0"),
                packet(b"c"),
            )
        )
        wanted = (
            AddHeader("X-A", "one"),
            InsertHeader(1, "X-B", "two"),
            ChangeHeader(2, "Subject", ""),
            ReplaceBody(b"new\r\n"),
            ReplaceBody(b"body\r\n"),
            AddRecipient("<c@d.test>"),
            AddRecipient("<e@f.test>", "NOTIFY=NEVER"),
            AddRecipient("<g@h.test>"),
            DeleteRecipient("<a@b.test>"),
            ChangeSender("<s@t.test>"),
            Quarantine("why"),
        )
        self.assertEqual(
            self.say(Event.END_OF_MESSAGE, octets), [FilterVerdict(Word.CONTINUE, None, wanted)]
        )
        client = agreed(actions=int(ALL))
        client.tell(Event.END_OF_MESSAGE, b"", {})
        found = [verdict for each in octets for verdict in client.receive(bytes([each]))]
        self.assertEqual(found, [FilterVerdict(Word.CONTINUE, None, wanted)])

    def test_what_it_may_not_do(self) -> None:
        for event, octets, actions in (
            (Event.MAIL, packet(b"h", b"X\0y\0"), ALL),
            (Event.END_OF_MESSAGE, packet(b"h", b"X\0y\0"), MilterAction(0)),
            (Event.END_OF_MESSAGE, packet(b"b", b"x"), ACTIONS & ~MilterAction.CHANGE_BODY),
            (Event.END_OF_MESSAGE, packet(b"2", b"a\0"), MilterAction.ADD_RECIPIENT),
            (Event.END_OF_MESSAGE, packet(b"h", b"X\0y"), ALL),
            (Event.END_OF_MESSAGE, packet(b"m", b"\0\0"), ALL),
            (Event.END_OF_MESSAGE, packet(b"+", b"a\0b\0"), ALL),
            (Event.END_OF_MESSAGE, packet(b"z"), ALL),
            (Event.END_OF_MESSAGE, packet(b"c", b"x"), ALL),
            (Event.END_OF_MESSAGE, struct.pack("!I", 0), ALL),
            (Event.END_OF_MESSAGE, struct.pack("!I", MOST_DATA + 1), ALL),
            (Event.END_OF_MESSAGE, packet(b"c") + packet(b"c"), ALL),
        ):
            with self.subTest(octets), self.assertRaises(MilterError):
                self.say(event, octets, agreed(actions=int(actions)))

    @given(st.binary(max_size=80), st.sampled_from(list(Event)))
    def test_whatever_it_says_is_a_verdict_or_an_error(self, octets: bytes, event: Event) -> None:
        try:
            for verdict in self.say(event, octets):
                self.assertIsInstance(verdict, FilterVerdict)
        except MilterError:
            pass
        with self.assertRaises(MilterError):
            agreement(octets[:8])


class Edited(unittest.TestCase):
    FIELDS = (
        ("Received", b"Received: ours"),
        ("Received", b"Received: theirs"),
        ("Subject", b"Subject: one"),
        ("X", b"X: y"),
        ("subject", b"subject: two"),
    )

    def lines(
        self, *changes: AddHeader | InsertHeader | ChangeHeader, space: bool = False
    ) -> list[bytes]:
        return [octets for _, octets in edited(list(self.FIELDS), changes, leading_space=space)]

    def test_numbers_are_postfixs(self) -> None:
        self.assertEqual(self.lines(InsertHeader(0, "A", "b"))[0], b"A: b")
        self.assertEqual(self.lines(InsertHeader(1, "A", "b"))[1], b"A: b")
        self.assertEqual(self.lines(InsertHeader(99, "A", "b"))[-1], b"A: b")
        self.assertEqual(
            self.lines(ChangeHeader(1, "Received", "x"))[:2], [b"Received: ours", b"Received: x"]
        )
        self.assertEqual(self.lines(ChangeHeader(2, "SUBJECT", "x"))[4], b"SUBJECT: x")
        self.assertEqual(
            self.lines(ChangeHeader(0, "Subject", "")),
            [o for _, o in self.FIELDS if o != b"Subject: one"],
        )

    def test_what_is_not_there_is_added_or_nothing(self) -> None:
        self.assertEqual(self.lines(ChangeHeader(3, "Subject", "x"))[-1], b"Subject: x")
        self.assertEqual(len(self.lines(ChangeHeader(3, "Subject", ""))), 5)

    def test_no_line_end_of_a_filters_gets_in_alone(self) -> None:
        for value in ("a\nb", "a\r\n\tb", "a\rb", "a\n\nb", "a\0\n b"):
            found = self.lines(AddHeader("A", value))[-1]
            self.assertIn(found, (b"A: a\r\n\tb", b"A: a\r\n b"))
        self.assertEqual(self.lines(AddHeader("A b", "x")), self.lines())
        self.assertEqual(self.lines(AddHeader("A", " x"), space=True)[-1], b"A: x")
        self.assertEqual(self.lines(AddHeader("A", "x"), space=True)[-1], b"A:x")

    def test_content_that_is_fields_alone_loses_none(self) -> None:
        whole = [("A", b"A: b"), ("C", b"C: d\r\n e")]
        for end in (b"\r\n\r\n", b"\r\n", b""):
            self.assertEqual(section_fields(b"A: b\r\nC: d\r\n e" + end), whole)
        self.assertEqual(section_fields(b"\r\n"), [])
        self.assertEqual(section_fields(b""), [])

    def test_changes_count_what_others_have_left(self) -> None:
        """As if each change looked at all fields anew."""
        changes: tuple[AddHeader | InsertHeader | ChangeHeader, ...] = (
            ChangeHeader(1, "Subject", ""),
            ChangeHeader(1, "subject", "two again"),
            AddHeader("Subject", "three"),
            ChangeHeader(2, "Subject", ""),
            InsertHeader(2, "Subject", "first"),
            ChangeHeader(1, "Subject", "first again"),
            ChangeHeader(9, "New", "n"),
            ChangeHeader(1, "New", ""),
        )
        self.assertEqual(
            self.lines(*changes),
            [
                b"Received: ours",
                b"Received: theirs",
                b"Subject: first again",
                b"X: y",
                b"subject: two again",
            ],
        )

    def test_many_changes_of_many_fields_take_a_moment(self) -> None:
        """A client may send what a filter then removes, one after the other."""
        fields = [("Received", b"Received: ours"), *[("a", b"a:")] * 100_000]
        fields += [("X-Spam", b"X-Spam: no")] * 5_000
        before = time.process_time()
        found = edited(fields, [ChangeHeader(1, "X-Spam", "")] * 5_000, leading_space=False)
        self.assertEqual(len(found), 100_001)
        self.assertLess(time.process_time() - before, 5.0)


class Octets(unittest.TestCase):
    def test_octets_that_are_no_text_are_said_and_kept_all_the_same(self) -> None:
        """A reply is sent, a reason is written into the log and the spool."""
        (line,) = strings(b"5.7.1 caf\xe9 \xff\0", 1)
        self.assertEqual(Reply.received(550, (line,)).wire(), b"550 5.7.1 caf\r\n")
        self.assertEqual(printable(line), "5.7.1 caf")
