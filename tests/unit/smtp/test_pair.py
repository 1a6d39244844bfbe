"""Our client and our server back to back: content arrives as it was sent, to whom it was sent."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.reply import Reply
from relayd.smtp.client import SmtpClient, Transaction
from relayd.smtp.events import End, Ready, SendContent, TransactionDone, TransactionStage
from relayd.smtp.server import SmtpServer
from tests.unit.smtp.house import House
from tests.unit.smtp.strategies import BOUNDED, clean_content, cuts_of

# how each recipient fares in the house
FATES = {
    Mailbox("a", "example.com"): (250, TransactionStage.END),
    Mailbox("b", "example.com"): (250, TransactionStage.END),
    Mailbox("later", "example.com"): (451, TransactionStage.RCPT),
    Mailbox("x", "elsewhere.example"): (550, TransactionStage.RCPT),
}


class Pair:
    """Both cores and a wire between them that cuts what it carries."""

    def __init__(self, settings: dict[str, str], data: st.DataObject) -> None:
        self.house = House(settings)
        self.client = SmtpClient("client.example")
        self.done: list[TransactionDone] = []
        self.chunks: list[bytes] = []
        self._data = data

    def pump(self) -> None:
        """Carry octets until both are silent."""
        while True:
            heard, said = self.house.receive(), self.client.data_to_send()
            if not heard and not said:
                return
            for piece in self._data.draw(cuts_of(heard)):
                self.client.receive_data(piece)
                self._run()
            for piece in self._data.draw(cuts_of(said)):
                self.house.send(piece)

    def _run(self) -> None:
        while (event := self.client.next_event()) is not None:
            if isinstance(event, SendContent):
                for chunk in self.chunks:
                    self.client.send_content(chunk)
                self.client.end_content()
            elif isinstance(event, TransactionDone):
                self.done.append(event)
            else:
                assert isinstance(event, Ready), event

    def deliver(self, content: bytes, mailboxes: list[Mailbox]) -> TransactionDone:
        self.chunks = self._data.draw(cuts_of(content))
        self.client.send(
            Transaction(
                Mailbox("s", "example.org"),
                tuple(Recipient(mailbox, mailbox) for mailbox in mailboxes),
                size=len(content),
                eight_bit=not content.isascii(),
                ends_with_crlf=not content or content.endswith(b"\r\n"),
            )
        )
        self._run()
        self.pump()
        return self.done.pop()


class TestPair(unittest.TestCase):
    @given(
        st.lists(
            st.tuples(clean_content, st.lists(st.sampled_from(sorted(FATES, key=str)), min_size=1)),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
        st.data(),
    )
    @BOUNDED
    def test_content_arrives_byte_for_byte(
        self,
        messages: list[tuple[bytes, list[Mailbox]]],
        chunking: bool,
        data: st.DataObject,
    ) -> None:
        pair = Pair({} if chunking else {"no-chunking": ""}, data)
        pair.pump()
        expected = []
        for content, mailboxes in messages:
            done = pair.deliver(content, mailboxes)
            self.assertTrue(done.reusable, done.trouble)
            self.assertEqual(
                [
                    (reply.code, stage)
                    for reply, stage in zip(done.replies, done.stages, strict=True)
                ],
                [FATES[mailbox] for mailbox in mailboxes],
            )
            if any(FATES[mailbox][0] == 250 for mailbox in mailboxes):
                complete = chunking or not content or content.endswith(b"\r\n")
                expected.append(content if complete else content + b"\r\n")
        pair.client.quit()
        pair.pump()
        self.assertEqual(pair.house.messages, expected)
        self.assertTrue(pair.client.closed)
        self.assertTrue(pair.house.closed)

    @given(st.data())
    @BOUNDED
    def test_over_size_content_leaves_both_in_step(self, data: st.DataObject) -> None:
        pair = Pair({"size": "10"}, data)
        pair.pump()
        [mailbox, *_] = FATES
        done = pair.deliver(b"0123456789\r\n", [mailbox])
        self.assertEqual((done.replies[0].code, done.stages[0]), (552, TransactionStage.OFFER))
        done = pair.deliver(b"01234567\r\n", [mailbox])
        self.assertEqual((done.replies[0].code, done.stages[0]), (250, TransactionStage.END))

    def test_server_in_trouble(self) -> None:
        client = SmtpClient("client.example")
        house = House()
        server: SmtpServer = house.server
        client.receive_data(house.receive())
        client.next_event()
        house.send(client.data_to_send())
        client.receive_data(house.receive())
        self.assertIsInstance(client.next_event(), Ready)
        client.send(
            Transaction(
                None, (Recipient(Mailbox("a", "example.com"), Mailbox("a", "example.com")),), size=3
            )
        )
        server.fail(Reply.of(421, "4.3.2", "Shutting down"))
        house.send(client.data_to_send())
        client.receive_data(house.receive())
        done = client.next_event()
        assert isinstance(done, TransactionDone)
        self.assertIs(done.end, End.SHUT_DOWN)
        self.assertEqual(done.last, Reply.of(421, "4.3.2", "Shutting down"))
