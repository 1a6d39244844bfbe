"""Connections to filters: kept, bounded, waited for in turn; milters told of what has happened."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport

from relayd.filters import lines as module
from relayd.filters.line import MOST_UNREAD, FilterLine, FilterPlace, FilterTroubleError
from relayd.filters.lines import IDLE_SECONDS, FilterLines
from relayd.filters.milter import FilterVerdict, Word
from relayd.filters.milteredits import InsertHeader, section_fields
from relayd.filters.miltertalk import Happening, MilterLine, MilterTalk, milter_line
from relayd.filters.milterwire import Event, packet
from relayd.reactor.coroutine import promise
from tests.support import TestCase

PLACE = FilterPlace(unix="/nowhere")


class Wire(StringTransport):
    """A transport that knows when it was cut, and what was written together."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def abortConnection(self) -> None:
        self.disconnecting = True


class Net:
    """Stands in for dial(): every connection is made at once, and remembered."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.made: list[FilterLine] = []

    async def dial(self, reactor: object, place: FilterPlace, patience: float) -> FilterLine:
        line = FilterLine(self.clock)
        line.makeConnection(Wire())
        self.made.append(line)
        return line


class Filled(Connection):
    """A connection whose socket takes so many octets; the rest is the reactor's."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.socket: Any = self
        self.connected = True
        self.sent = b""
        self.buffered = b""

    def send(self, data: bytes) -> int:
        taken, self.room = data[: self.room], self.room - len(data[: self.room])
        self.sent += taken
        return len(taken)

    def write(self, data: bytes) -> None:
        self.buffered += data

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """It is told when there is room."""


class LineTests(TestCase):
    def test_what_the_socket_takes_leaves_at_once_and_nothing_overtakes_the_rest(self) -> None:
        line, transport = FilterLine(Clock()), Filled(8)
        line.makeConnection(transport)
        for piece in (b"first ", b"second ", b"third"):
            line.write(piece)
        line.dataReceived(b"an answer says nothing of what waits")
        line.write(b" fourth")
        self.assertEqual((transport.sent, transport.buffered), (b"first se", b"cond third fourth"))
        transport.room = 100
        line.resumeProducing()
        line.write(b" fifth")
        self.assertEqual(transport.sent, b"first se fifth")


class LinesCase(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.net = Net(self.clock)
        self.patch(module, "dial", self.net.dial)

    def lines(self, most: int = 2) -> FilterLines[Any]:
        return FilterLines(self.clock, PLACE, milter_line, most)

    def take(self, lines: FilterLines[Any]) -> Deferred[tuple[MilterLine, bool]]:
        return promise(lines.take(30.0))


class PoolTests(LinesCase):
    def test_one_that_was_given_back_is_used_again_unless_it_spoke_or_ended(self) -> None:
        lines = self.lines()
        first, used = self.successResultOf(self.take(lines))
        self.assertFalse(used)
        lines.give_back(first)
        again, used = self.successResultOf(self.take(lines))
        self.assertIs(again, first)
        self.assertTrue(used)
        lines.give_back(first)
        first.line.dataReceived(b"unasked")
        other, used = self.successResultOf(self.take(lines))
        self.assertFalse(used)
        lines.give_back(other)
        other.line.connectionLost()
        self.assertFalse(self.successResultOf(self.take(lines))[1])
        self.assertEqual((len(self.net.made), lines.open), (3, 1))

    def test_who_finds_all_taken_waits_in_turn_and_not_for_ever(self) -> None:
        lines = self.lines(1)
        first, _ = self.successResultOf(self.take(lines))
        second, third = self.take(lines), self.take(lines)
        self.assertNoResult(second)
        lines.give_back(first)
        self.assertIs(self.successResultOf(second)[0], first)
        self.clock.advance(30)
        self.failureResultOf(third, FilterTroubleError)
        fourth = self.take(lines)
        fourth.addErrback(lambda _: None)
        fourth.cancel()
        lines.drop(first)
        self.assertFalse(self.successResultOf(self.take(lines))[1])

    def test_nobody_is_kept_for_ever_or_after_the_end(self) -> None:
        lines = self.lines()
        first, _ = self.successResultOf(self.take(lines))
        lines.give_back(first)
        self.clock.advance(IDLE_SECONDS + 1)
        self.assertIsNot(self.successResultOf(self.take(lines))[0], first)
        lines.close()
        lines.give_back(self.successResultOf(self.take(lines))[0])
        self.assertEqual(lines.open, 1)  # the one that is still in use

    def test_a_babbling_filter_is_cut(self) -> None:
        line = self.successResultOf(self.take(self.lines()))[0].line
        line.dataReceived(b"x" * (MOST_UNREAD + 1))
        self.failureResultOf(promise(line.read(1)), FilterTroubleError)

    def test_places(self) -> None:
        for text in ("unix:/run/x", "127.0.0.1:10", "[::1]:10"):
            self.assertEqual(str(FilterPlace.parse(text)), text)
        self.assertEqual(str(FilterPlace.parse("http://[::1]:10")), "[::1]:10")


CONNECT = Happening(Event.CONNECT, b"c\0U", {"j": "gw"})
HELO = Happening(Event.HELO, b"h\0", {})
MAIL = Happening(Event.MAIL, b"<a@b>\0", {})
RCPT = Happening(Event.RCPT, b"<c@d>\0", {})


class TalkTests(LinesCase):
    def setUp(self) -> None:
        super().setUp()
        self.talk = MilterTalk(self.lines(), 30.0, 300.0)

    def hear(self, *replies: bytes, line: int = -1) -> None:
        for each in replies:
            self.net.made[line].dataReceived(each)

    def letters(self, line: int = -1) -> str:
        """What it was told, its macros apart, since it was looked at last."""
        wire = self.net.made[line].transport
        octets, found = wire.value(), ""
        wire.clear()
        while octets:
            (length,) = struct.unpack_from("!I", octets)
            found += octets[4:5].decode()
            octets = octets[4 + length :]
        return found.replace("D", "")

    def told(self, happened: list[Happening], *replies: bytes) -> FilterVerdict:
        telling = promise(self.talk.tell(happened))
        for each in replies:
            self.hear(each)
        return self.successResultOf(telling)

    def agreed(self, steps: int = 0) -> bytes:
        return packet(b"O", struct.pack("!III", 6, 0x1FF, steps))

    def test_who_is_asked_late_is_told_all_and_once(self) -> None:
        go_on = packet(b"c")
        self.told([CONNECT, HELO, MAIL], self.agreed(), go_on, go_on, go_on)
        self.assertEqual(self.letters(), "OCHM")
        self.told([CONNECT, HELO, MAIL, RCPT], go_on)
        self.assertEqual(self.letters(), "R")

    def test_a_transaction_that_is_over_is_taken_back(self) -> None:
        go_on = packet(b"c")
        self.told([CONNECT, MAIL, RCPT], self.agreed(), go_on, go_on, go_on)
        self.letters()
        again = Happening(Event.MAIL, b"<x@y>\0", {})
        self.told([CONNECT, again], go_on)
        self.assertEqual(self.letters(), "AM")

    def test_another_client_has_a_connection_of_his_own(self) -> None:
        self.told([CONNECT, MAIL], self.agreed(), packet(b"c"), packet(b"c"))
        other = Happening(Event.CONNECT, b"d\0U", {})
        self.told([other], self.agreed(), packet(b"c"))
        self.assertEqual(len(self.net.made), 2)
        self.assertEqual(self.letters(0)[-1], "Q")

    def test_who_refuses_a_client_does_so_at_each_command(self) -> None:
        verdict = self.told([CONNECT], self.agreed(), packet(b"r"))
        self.assertIs(verdict.word, Word.REJECT)
        self.assertIs(self.told([CONNECT, HELO]).word, Word.REJECT)

    def test_who_babbles_after_refusing_a_client_has_refused_him(self) -> None:
        self.told([CONNECT], self.agreed(), packet(b"r"))
        self.hear(packet(b"c"))
        self.assertIs(self.told([CONNECT, HELO]).word, Word.REJECT)

    def test_what_it_says_unasked_is_trouble_at_the_next_event(self) -> None:
        self.told([CONNECT], self.agreed(), packet(b"c"))
        self.hear(packet(b"c"))
        self.told([CONNECT])
        telling = promise(self.talk.tell([CONNECT, HELO]))
        self.failureResultOf(telling, FilterTroubleError)

    def test_who_has_accepted_is_told_no_more(self) -> None:
        self.told([CONNECT, MAIL], self.agreed(), packet(b"c"), packet(b"a"))
        self.letters()
        self.told([CONNECT, MAIL, RCPT])
        self.assertEqual(self.letters(), "")

    def test_a_refused_recipient_is_no_part_of_what_others_are_told(self) -> None:
        refused = Happening(Event.RCPT, b"<no@d>\0", {})
        refused.refused = True
        self.told([CONNECT, MAIL, refused, RCPT], self.agreed(), *[packet(b"c")] * 3)
        self.assertEqual(self.letters(), "OCMR")

    def test_what_breaks_off_is_trouble_and_then_begun_anew(self) -> None:
        telling = promise(self.talk.tell([CONNECT]))
        self.hear(self.agreed())
        self.net.made[0].connectionLost()
        self.failureResultOf(telling, FilterTroubleError)
        self.told([CONNECT, MAIL], self.agreed(), packet(b"c"), packet(b"c"))
        self.assertEqual(self.letters(), "OCM")

    def test_silence_and_answers_that_nobody_asked_for_are_trouble(self) -> None:
        telling = promise(self.talk.tell([CONNECT]))
        self.clock.advance(30)
        self.failureResultOf(telling, FilterTroubleError)
        telling = promise(self.talk.tell([CONNECT]))
        self.hear(self.agreed(), packet(b"c") + packet(b"c"))
        self.failureResultOf(telling, FilterTroubleError)

    def test_edits_and_a_new_body_come_at_the_end(self) -> None:
        self.told([CONNECT, MAIL], self.agreed(0x80 | 0x80000), packet(b"c"), packet(b"c"))
        self.letters()
        pieces: list[bytes] = []
        fields = [("Subject", b" x"), ("To", b" a,\r\n b")]
        body = [b"y" * 65535, b"z"]
        looking = promise(self.talk.examine(fields, lambda: iter(body), {"i": "1"}, pieces.append))
        self.hear(packet(b"c"))  # to the end of the header section
        self.assertEqual(self.letters(), "LLNBBE")
        self.hear(packet(b"b", b"new"), packet(b"i", struct.pack("!I", 1) + b"X\0y\0"))
        self.hear(packet(b"p"), packet(b"b", b"er"), packet(b"a"))
        verdict = self.successResultOf(looking)
        self.assertEqual((verdict.word, b"".join(pieces)), (Word.ACCEPT, b"newer"))
        self.assertEqual(verdict.edits, (InsertHeader(1, "X", "y"),))

    def test_what_is_not_answered_leaves_together_and_at_once(self) -> None:
        silent = sum(each.silent for each in Event)
        self.told([CONNECT, HELO, MAIL, RCPT], self.agreed(silent))
        writes = self.net.made[0].transport.writes
        self.assertEqual((len(writes), self.letters()), (2, "OCHMR"))
        fields = [("Subject", b" x"), ("To", b" a")]
        looking = promise(self.talk.examine(fields, lambda: iter([b"y"]), {}, lambda _: None))
        self.assertEqual((len(writes), self.letters()), (3, "LLNBE"))
        self.hear(packet(b"c"))
        self.assertIs(self.successResultOf(looking).word, Word.CONTINUE)

    def test_a_large_body_that_is_not_answered_waits_for_room(self) -> None:
        silent = sum(each.silent for each in Event)
        self.told([CONNECT, MAIL], self.agreed(silent))
        line, body = self.net.made[0], [b"y" * 65535] * 3
        for speaks in (False, True):
            self.letters()
            line.pauseProducing()
            looking = promise(self.talk.examine([], lambda: iter(body), {}, lambda _: None))
            self.assertEqual(self.letters(), "NB")
            if not speaks:
                self.clock.advance(299)
                line.resumeProducing()
                self.assertEqual(self.letters(), "BBE")
                self.hear(packet(b"c"))
                self.successResultOf(looking)
            else:
                self.hear(packet(b"c"))
                self.failureResultOf(looking, FilterTroubleError)

    def test_who_never_takes_what_is_written_is_trouble(self) -> None:
        self.told([CONNECT, MAIL], self.agreed(sum(each.silent for each in Event)))
        self.net.made[0].pauseProducing()
        body = [b"y" * 65535] * 3
        looking = promise(self.talk.examine([], lambda: iter(body), {}, lambda _: None))
        self.clock.advance(300)
        error = self.failureResultOf(looking, FilterTroubleError)
        self.assertIn("does not read within 300 seconds", str(error.value))

    def test_what_it_does_not_want_to_hear_costs_no_write(self) -> None:
        off = sum(each.off for each in (Event.CONNECT, Event.HELO, Event.MAIL))
        self.told([CONNECT, HELO, MAIL], self.agreed(off))
        self.assertEqual(self.letters(), "O")

    def test_one_timer_watches_all_that_is_waited_for(self) -> None:
        telling = promise(self.talk.tell([CONNECT, HELO, MAIL, RCPT]))
        self.hear(self.agreed())
        for _ in range(3):
            self.clock.advance(29)  # each answer has its own time
            self.hear(packet(b"c"))
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertNoResult(telling)
        self.clock.advance(29)
        self.assertNoResult(telling)
        self.clock.advance(1)
        error = self.failureResultOf(telling, FilterTroubleError)
        self.assertIn("does not answer within 30 seconds", str(error.value))

    def test_the_time_for_a_command_is_its_own_after_that_for_a_content(self) -> None:
        self.told([CONNECT, MAIL], self.agreed(), *[packet(b"c")] * 2)
        looking = promise(self.talk.examine([], lambda: iter([]), {}, lambda _: None))
        self.hear(packet(b"p"))  # it is at it: from here on it has its 300 seconds
        self.clock.advance(200)
        self.hear(packet(b"c"), packet(b"c"))
        self.successResultOf(looking)
        telling = promise(self.talk.tell([CONNECT, Happening(Event.MAIL, b"<x@y>\0", {})]))
        self.clock.advance(29)
        self.assertNoResult(telling)
        self.clock.advance(1)
        self.failureResultOf(telling, FilterTroubleError)

    def test_a_line_that_is_over_leaves_no_timer(self) -> None:
        self.told([CONNECT], self.agreed(), packet(b"c"))
        self.net.made[0].connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_is_given_up_in_the_middle_is_cut(self) -> None:
        telling = promise(self.talk.tell([CONNECT]))
        self.hear(self.agreed())
        telling.cancel()
        self.failureResultOf(telling, CancelledError)
        self.assertTrue(self.net.made[0].transport.disconnecting)
        self.hear(packet(b"c"))  # too late for anybody
        self.told([CONNECT], self.agreed(), packet(b"c"))
        self.assertEqual(len(self.net.made), 2)

    def test_an_answer_may_come_in_pieces(self) -> None:
        telling = promise(self.talk.tell([CONNECT, HELO]))
        for each in self.agreed() + packet(b"c"):
            self.hear(bytes([each]))
        self.assertNoResult(telling)
        self.hear(packet(b"c")[:3], packet(b"c")[3:])
        self.assertIs(self.successResultOf(telling).word, Word.CONTINUE)


class SectionTests(TestCase):
    def test_fields_are_what_they_were(self) -> None:
        section = b"A: 1\r\nB:2\r\n\t3\r\nno field\r\nC : x\r\n\r\n"
        fields = section_fields(section)
        self.assertEqual([name for name, _ in fields], ["A", "B", "", "C"])
        self.assertEqual(b"".join(raw + b"\r\n" for _, raw in fields) + b"\r\n", section)
        self.assertEqual(section_fields(b"\r\n"), [])
