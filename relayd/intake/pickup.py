"""Takes up the mail that local programs have left in the drop folder (see relayd/sendmail).

Nothing in the folder is trusted. Any local user may put files there, nobody but us may list or
read them: the folder is ours, mode 3733, so that files in it get our group and only we and who
made one may remove it. The kernel says who made it; all else a file says is parsed strictly.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.dns.hostname import LOCALHOST
from relayd.intake.deadlines import SessionPhase
from relayd.intake.dropfolder import FolderSurvey, Quota, Waiting, remove_abandoned
from relayd.intake.intake import Intake
from relayd.intake.limits import NORMAL
from relayd.intake.partlytaken import PartlyTaken
from relayd.intake.pending import Pending
from relayd.intake.reception import Reception
from relayd.intake.receptions import reception_of
from relayd.mail.address import AddressError, Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.content import BARE
from relayd.mail.envelope import Direction
from relayd.mail.plan import Destination, Plan, Verdict
from relayd.mail.reply import Reply, Severity, printable
from relayd.mail.value import dataclass
from relayd.reactor.coroutine import promise
from relayd.rules.evaluate import WELCOME, Facts, evaluate, examine
from relayd.rules.ruleset import Ruleset
from relayd.smtp import events

FOLDER = "drop"
SET_ASIDE = "drop-damaged"  # beside it; for inspection
PARTLY_TAKEN = "drop-taken"  # likewise: notes on files of which some recipients wait
OVER_QUOTA = "drop-over-quota"  # likewise: the users who have left too much, one a line
PERIOD = 1.0  # seconds between two looks
AFTER_TROUBLE = 10.0  # ... when all mail has to wait; and before a file has its next turn
LONGEST = 300.0  # ... after it was put off again and again
STUCK = 3600.0  # ... when it can be neither taken nor moved
BATCH = 200  # files taken up in one look
MOST_ASIDE = 1000  # files kept in SET_ASIDE
_REMEMBERED = 50_000  # files whose turn we remember; those beyond are tried with every look
_BETWEEN_SLICES = 0.02  # seconds for others while a large folder is looked through
_TURN = 0.02  # seconds after which others get a turn
_LINES = 20  # of the log, in a minute; the others are counted
_REMIND = 600.0  # seconds until trouble that stays is said again
MAX_ENVELOPE = 1 << 20  # octets
MAX_RECIPIENTS = 1000
_CHUNK = 1 << 16  # octets read at a time
_BREATH = 1 << 20  # octets after which others get a turn
_UNLIMITED = 1 << 30
_NAMES = {"relayd", "sender", "recipients", "body", "ret", "envid", "notify"}
_NOTIFY = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
_ENVID = re.compile(r"[ -~]{0,100}\Z")


class DamagedError(Exception):
    """The file cannot become a message, now or ever."""


class LaterError(Exception):
    """We cannot take it now."""


@dataclass(frozen=True, slots=True)
class Slip:
    """The envelope on the first line of a file."""

    sender: ReversePath
    recipients: tuple[str, ...]  # different ones; each is read when it has its turn
    params: events.MailParams
    notify: frozenset[str]


def read_slip(line: bytes, hostname: str) -> Slip:
    """The envelope as JSON; what has no domain gets `hostname`. Raises DamagedError."""
    try:
        found = json.loads(line)
        if not isinstance(found, dict) or not found.keys() <= _NAMES or found["relayd"] != 1:
            raise DamagedError("the first line is no envelope")
        sender, recipients = found["sender"], found["recipients"]
        texts = [found.get(name, "") for name in ("body", "ret", "envid")]
        notify = found.get("notify", [])
        if not isinstance(recipients, list) or not isinstance(notify, list):
            raise DamagedError("recipients or notify is no list")
        if not all(isinstance(each, str) for each in [sender, *recipients, *texts, *notify]):
            raise DamagedError("the envelope holds something else than text")
        different = dict.fromkeys(recipients)
        if not 0 < len(different) <= MAX_RECIPIENTS:
            raise DamagedError(f"{len(different)} recipients, expected 1 to {MAX_RECIPIENTS}")
        path = Mailbox.parse(_qualified(sender, hostname)) if sender else None
        qualified = tuple(_qualified(each, hostname) for each in different)
    except (ValueError, KeyError, RecursionError) as error:  # AddressError is a ValueError
        raise DamagedError(f"unreadable envelope: {error}") from None
    body, ret, envid = texts
    if body not in ("", "7BIT", "8BITMIME") or ret not in ("", "FULL", "HDRS"):
        raise DamagedError("unknown body or ret")
    if not set(notify) <= _NOTIFY or ("NEVER" in notify and len(set(notify)) > 1):
        raise DamagedError("unknown notify")
    if not _ENVID.match(envid):
        raise DamagedError("malformed envid")
    # RFC 6531 section 3.2; a domain in U-labels alone does not need it
    utf8 = any(not each.rpartition("@")[0].isascii() for each in qualified)
    utf8 = utf8 or (path is not None and path.needs_smtputf8)
    params = events.MailParams(body=body, ret=ret, envid=envid, smtputf8=utf8)
    return Slip(path, qualified, params, frozenset(notify))


def _qualified(text: str, hostname: str) -> str:
    text.encode()  # half of a surrogate pair, which JSON can spell, is a ValueError
    return text if "@" in text else f"{text}@{hostname}"


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The content from here on, ending in CRLF; raises DamagedError for other line ends."""
    held, last = b"", b""
    while chunk := file.read(_CHUNK):
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        if BARE.search(data):
            raise DamagedError("a bare CR, a bare LF or a NUL in the content")
        last = data[-2:] or last
        yield data
    if held:
        raise DamagedError("a bare CR at the end of the content")
    if last != b"\r\n":
        yield b"\r\n"


def admit(ruleset: Ruleset, facts: Facts) -> Plan:
    """As the rules decide; but there is no client to hear 5xx, so a report will tell the sender.

    The recipient is taken over with the refusal as its fate: it is written down in the same
    transaction as the message, and goes the way of every failed delivery.
    """
    plan = evaluate(ruleset, facts)
    if plan.verdict is not Verdict.REFUSE or plan.reply.severity is not Severity.PERMANENT:
        return plan
    return _failed(facts, plan.reply, plan)


def examined(ruleset: Ruleset, facts: Facts) -> Plan:
    """Likewise what the content decides for all: each recipient's plan will say it."""
    plan = examine(ruleset, facts)
    if plan.verdict is not Verdict.REFUSE or plan.reply.severity is not Severity.PERMANENT:
        return plan
    return _left_to_each(plan)


def _left_to_each(plan: Plan) -> Plan:
    return Plan(Verdict.ACCEPT, WELCOME, (), plan.trail)


def _failed(facts: Facts, reply: Reply, plan: Plan) -> Plan:
    """Taken over, only to be reported as failed with this reply."""
    nowhere = Destination(facts.recipient, str(Direction(refusal=reply)), facts.sender)
    return Plan(Verdict.ACCEPT, WELCOME, (nowhere,), plan.trail)


class Pickup:
    """Looks into the folder every second, and takes up one file after the other.

    A file goes after its message is committed: if we die in between it is taken up twice. One of
    which some recipients have to wait stays for them, with a note of those that are taken; when
    they have waited too long they fail as deliveries do, with a report to its sender.
    Each file stands for itself: one that cannot be taken now has its next turn later, and
    users have theirs one after the other, however much each has left.
    """

    def __init__(
        self, reactor: IReactorTime, spool: Path, intake: Intake, hostname: str, bounds: Quota
    ) -> None:
        self._reactor = reactor
        self._folder = spool / FOLDER
        self._aside = spool / SET_ASIDE
        self._over_quota = spool / OVER_QUOTA
        self._intake = replace(intake, decide=admit, examine=examined, cut_through=None)
        self.apply(intake, bounds)
        self._log = intake.log
        self._hostname = hostname
        self._turns: dict[str, _Turn] = {}  # of files that were put off
        self._taken: set[str] = set()  # committed, but the file could not be removed
        self._partly = PartlyTaken(spool / PARTLY_TAKEN)
        self._told: set[str] = set()  # damaged, which its sender knows, but it could not be moved
        self._turn_began = 0.0
        self._waiting = 0  # files at the last look
        self._over: frozenset[int] = frozenset()  # users who have left too much
        self._published: frozenset[int] | None = None  # ... as the sendmail command knows them
        self._strange = 0
        self._trouble = ""  # why nothing at all is taken
        self._said = -_REMIND
        self._minute = 0.0
        self._lines = 0
        self._call: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._asked: Deferred[Any] | None = None  # a verdict on the file in hand is pending
        self._stopping = False

    def apply(self, intake: Intake, bounds: Quota) -> None:
        """Other limits, and others to ask, from now on; the number of recipients has its own."""
        self._intake.limits = replace(intake.limits, recipients=_UNLIMITED, destinations=_UNLIMITED)
        self._intake.gatherer, self._intake.names = intake.gatherer, intake.names
        self._intake.desk = intake.desk
        self.bounds = bounds

    def start(self) -> None:
        """From now on. Without the folder (made by whoever installs us) there is nothing to do."""
        if self._folder.is_dir():
            self._partly.load(self._folder)
            self._call = self._reactor.callLater(0, self._look)

    async def stop(self) -> None:
        """The file in hand is finished, the others wait for the next start."""
        self._stopping = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._asked is not None:
            self._asked.cancel()
        if self._looking is not None:
            await self._looking

    def figures(self) -> dict[str, object]:
        """What `relayctl status` tells of the folder: what is not nothing."""
        found = {
            "drop_waiting": self._waiting,
            "drop_put_off": len(self._turns),
            "drop_set_aside": self._set_aside_already(),
            "drop_over_quota": len(self._over),
        }
        return {name: number for name, number in found.items() if number}

    def _look(self) -> None:
        self._looking = promise(self._take_all())
        self._looking.addErrback(lambda why: self._log.trouble("drop folder", why=str(why.value)))

    async def _take_all(self) -> None:
        pause = PERIOD
        try:
            survey = await self._survey()
            for number, each in enumerate(islice(survey.in_turn(), BATCH), 1):
                if self._stopping:
                    return
                self._demand_room()
                await self._take(each)
                await self._share()
                if number == BATCH:
                    pause = 0
            self._over_it()
        except (LaterError, OSError) as error:
            pause = AFTER_TROUBLE
            self._wait_as_a_whole(str(error))
        finally:
            if not self._stopping:
                self._call = self._reactor.callLater(pause, self._look)

    async def _survey(self) -> FolderSurvey:
        """All that is there, without keeping others waiting for it."""
        now = self._reactor.seconds()
        survey = FolderSurvey(
            self._folder, {name for name, turn in self._turns.items() if turn.at > now}
        )
        try:
            while survey.go_on() and not self._stopping:
                await self._after(_BETWEEN_SLICES)
        finally:
            survey.close()
        if not self._stopping:
            self._note(survey, now)
        return survey

    def _note(self, survey: FolderSurvey, now: float) -> None:
        before = self._turns
        self._turns = {
            name: turn for name, turn in before.items() if turn.at <= now or name in survey.later
        }
        for name in before.keys() - self._turns.keys():
            self._partly.forget(name)
        self._waiting = survey.files
        if survey.strange > self._strange:
            self._say(
                "drop folder", why="files with names that are none of ours", files=survey.strange
            )
        self._strange = survey.strange
        self._remove_abandoned(survey.old)
        over = survey.over(self.bounds, exempt=(0, os.geteuid()))
        for uid in over.keys() - self._over:
            files, octets = over[uid]
            self._say("drop quota", uid=uid, files=files, octets=octets)
        self._over = frozenset(over)
        if self._over != self._published:
            self._publish(self._over)
        self._tell_rest()

    def _remove_abandoned(self, names: Sequence[str]) -> None:
        """What a `sendmail` that was killed has left half-written, in this pass."""
        removed = 0
        for name in names[:BATCH]:
            with contextlib.suppress(OSError):  # a folder, say: it counts as long as it is there
                removed += remove_abandoned(self._folder / name)
        if removed:
            self._say("drop folder", why="unfinished and abandoned: removed", files=removed)

    def _publish(self, users: frozenset[int]) -> None:
        """For the sendmail command, which cannot see what waits: who may leave no more for now."""
        fresh = self._over_quota.with_suffix(".new")
        try:
            if users:
                fresh.write_text("".join(f"{uid}\n" for uid in sorted(users)))
                fresh.chmod(0o644)
                fresh.replace(self._over_quota)
            else:
                self._over_quota.unlink(missing_ok=True)
            self._published = users
        except OSError as error:
            self._say("drop quota", why=f"{fresh}: {error.strerror}")

    def _demand_room(self) -> None:
        """What concerns every file; raises LaterError."""
        spool = self._intake.spool
        if not spool.healthy:
            raise LaterError("the spool cannot record")
        if not spool.room(0):
            raise LaterError("no room in the spool")

    def _wait_as_a_whole(self, why: str) -> None:
        now = self._reactor.seconds()
        if why != self._trouble or now - self._said >= _REMIND:
            self._trouble, self._said = why, now
            self._log.trouble("drop folder", why=why, files=self._waiting)

    def _over_it(self) -> None:
        if self._trouble:
            self._trouble = ""
            self._log.notice("drop folder", why="mail is taken up again")

    async def _take(self, each: Waiting) -> None:
        path = self._folder / each.name
        try:
            if each.name not in self._taken:
                with self._opened(path, each) as file:
                    await self._receive(file, each.name)
                self._taken.add(each.name)
            path.unlink()
        except FileNotFoundError:
            pass  # its owner has thought better of it
        except DamagedError as error:
            self._set_aside(path, each, str(error))
            return
        except (LaterError, OSError) as error:
            self._put_off(each, str(error))
            return
        except Exception as error:  # a bug that one file brings out must not stop the others
            self._put_off(each, repr(error))
            return
        self._taken.discard(each.name)
        self._gone(each.name)

    def _gone(self, name: str) -> None:
        self._turns.pop(name, None)
        self._partly.forget(name)
        self._told.discard(name)

    def _put_off(self, each: Waiting, why: str, pause: float = 0.0) -> None:
        """Not now: the file has its next turn after a while, and the others theirs meanwhile."""
        before = self._turns.get(each.name)
        if not pause:
            pause = min(before.pause * 2, LONGEST) if before else AFTER_TROUBLE
        if before or len(self._turns) < _REMEMBERED:
            self._turns[each.name] = _Turn(self._reactor.seconds() + pause, pause)
        self._say("drop put off", file=each.name, uid=each.uid, again_in=int(pause), why=why)

    def _opened(self, path: Path, each: Waiting) -> BinaryIO:
        if not each.plain:
            raise DamagedError("no plain file that was made here")
        if each.size > self.bounds.size + MAX_ENVELOPE:
            raise DamagedError(f"larger than message-size ({self.bounds.size} octets)")
        if not self._intake.spool.room(each.size):
            raise LaterError(f"no room for {each.size} octets")
        try:
            # not through a link, and not waiting for the other end of a pipe
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.fdopen(os.open(path, flags), "rb")
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO):
                raise DamagedError(f"cannot be read: {error.strerror}") from None
            raise
        found = os.fstat(file.fileno())
        ours = found.st_gid == self._folder.stat().st_gid  # so it was made here, not linked
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not ours:
            file.close()
            raise DamagedError("no plain file that was made here")
        return file

    async def _receive(self, file: BinaryIO, name: str) -> None:
        """The message as any other, from this host; when it returns it is committed."""
        status = os.fstat(file.fileno())
        slip = read_slip(file.readline(MAX_ENVELOPE), self._hostname)
        helo = f"uid-{status.st_uid}.localhost"
        client = Client("127.0.0.1", listener=FOLDER, helo=helo, protocol="ESMTP", rdns=LOCALHOST)
        before = self._partly.recipients(name, status)
        intake, given_up = self._intake, list[str]()
        if name in self._turns and intake.clock() - status.st_ctime >= self.bounds.give_up:
            intake = replace(
                intake,
                decide=self._giving_up(given_up),
                examine=lambda ruleset, facts: _left_to_each(examine(ruleset, facts)),
            )
        reception = reception_of(intake, client)
        try:
            _check(await self._settled(reception.receive(events.Mail(slip.sender, slip.params))))
            taken, why = await self._recipients(reception, slip, before)
            if taken:
                await self._content(reception, file)
        except DamagedError as error:
            reception.rollback()
            await self._tell(client, slip, name, str(error))
            raise
        finally:
            reception.rollback()
            reception.leave()
        if given_up:
            self._say("drop given up", file=name, uid=status.st_uid, why=given_up[0])
        if why:
            if taken:
                self._partly.note(name, status, before | taken)
            raise LaterError(why)

    async def _settled(self, verdict: Reply | Pending[Any] | None) -> Reply | None:
        """The reply that it is or becomes."""
        while isinstance(verdict, Pending):
            if verdict.phase is SessionPhase.COMMIT:
                verdict = verdict.then(await verdict.coming)
                continue
            self._asked = promise(verdict.coming).addTimeout(NORMAL.examination, self._reactor)
            try:
                result = await self._asked
            except TimeoutError:
                result = verdict.late()
            except CancelledError:
                raise LaterError("stopping") from None
            finally:
                self._asked = None
            verdict = verdict.then(result)
        return verdict

    async def _recipients(
        self, reception: Reception, slip: Slip, before: frozenset[int]
    ) -> tuple[set[int], str]:
        """The numbers of those that are taken now; and why others have to wait, if any do."""
        taken: set[int] = set()
        later = ""
        for number, text in enumerate(slip.recipients):
            if number in before:
                continue
            if self._stopping:
                raise LaterError("stopping")
            try:
                mailbox = Mailbox.parse(text)
            except AddressError as error:
                raise DamagedError(f"unreadable envelope: {error}") from None
            rcpt = events.Rcpt(mailbox, events.RcptParams(slip.notify))
            reply = await self._settled(reception.receive(rcpt))
            if reply is not None and reply.severity is Severity.TRANSIENT:
                later = later or str(reply)
            else:
                _check(reply)
                taken.add(number)
            await self._share()
        return taken, later

    async def _content(self, reception: Reception, file: BinaryIO) -> None:
        _check(await self._settled(reception.receive(events.Data(bdat=False))))
        size = breath = 0
        for piece in pieces(file):
            reception.receive(events.Chunk(piece))
            size += len(piece)
            if size > self.bounds.size:
                raise DamagedError(f"larger than message-size ({self.bounds.size} octets)")
            if size - breath >= _BREATH:
                breath = size
                await self._after(0)
        _check(await self._settled(reception.end_of_content()))

    def _giving_up(self, given_up: list[str]) -> Callable[[Ruleset, Facts], Plan]:
        """As ever, but who would have to wait any longer fails; `given_up`: to be told why."""
        decide = self._intake.decide

        def decide_at_last(ruleset: Ruleset, facts: Facts) -> Plan:
            plan = decide(ruleset, facts)
            if plan.verdict is not Verdict.REFUSE:
                return plan
            given_up.append(f"{facts.recipient}: {plan.reply}")
            # delivery time expired (RFC 3463 section 3.5)
            return _failed(facts, Reply.of(554, "5.4.7", f"Waited too long: {plan.reply}"), plan)

        return decide_at_last

    async def _tell(self, client: Client, slip: Slip, name: str, why: str) -> None:
        """The sender hears of a file that is no mail as of any that fails, without its content."""
        if slip.sender is None or name in self._told:
            return
        reply = Reply.of(554, "5.6.0", printable(f"Not taken from the drop folder: {why}", 400))
        already = Plan(Verdict.REFUSE, reply, (), ())
        decide = lambda ruleset, facts: _failed(facts, reply, already)  # noqa: E731
        rules = self._envelope_rules
        intake = replace(self._intake, decide=decide, rules=rules, filters=None, desk=None)
        reception = Reception(intake, client)  # nobody is asked
        try:
            mail = events.Mail(slip.sender, replace(slip.params, ret="HDRS"))
            _check(await self._settled(reception.receive(mail)))
            readable = 0
            for text in slip.recipients:
                with contextlib.suppress(AddressError):
                    rcpt = events.Rcpt(Mailbox.parse(text), events.RcptParams(slip.notify))
                    _check(await self._settled(reception.receive(rcpt)))
                    readable += 1
                await self._share()
            if readable:
                _check(await self._settled(reception.receive(events.Data(bdat=False))))
                reception.receive(events.Chunk(b"\r\n"))
                _check(await self._settled(reception.end_of_content()))
        finally:
            reception.rollback()
        self._told.add(name)

    def _envelope_rules(self) -> Ruleset:
        """The rules without those about the content, which is not there."""
        ruleset = self._intake.rules()
        return ruleset.at_rcpt or ruleset

    async def _share(self) -> None:
        """Others have a turn when ours has been long enough."""
        if self._reactor.seconds() - self._turn_began >= _TURN:
            await self._after(0)

    async def _after(self, seconds: float) -> None:
        """Others have a turn."""
        turn: Deferred[None] = Deferred()
        self._reactor.callLater(seconds, turn.callback, None)
        await turn
        self._turn_began = self._reactor.seconds()

    def _set_aside(self, path: Path, each: Waiting, why: str) -> None:
        """Out of the way: kept for inspection, and said."""
        try:
            if self._set_aside_already() >= MOST_ASIDE:
                raise OSError(errno.ENOSPC, f"{SET_ASIDE} holds {MOST_ASIDE} files")
            self._aside.mkdir(mode=0o700, exist_ok=True)
            target = self._aside / each.name
            if os.path.lexists(target):  # nobody puts his file in the place of another one
                target = self._aside / f"{time.time_ns():x}{path.suffix}"
            path.rename(target)
        except FileNotFoundError:
            self._gone(each.name)  # its owner has thought better of it
        except OSError as error:  # another user's folder, say
            why = f"{why}; and it cannot be set aside: {error.strerror}"
            self._put_off(each, why, STUCK)
        else:
            self._gone(each.name)
            self._say("drop set aside", file=target.name, uid=each.uid, why=why)

    def _set_aside_already(self) -> int:
        """How many files there are in drop-damaged, as far as it matters."""
        try:
            with os.scandir(self._aside) as names:
                return sum(1 for _ in islice(names, MOST_ASIDE))
        except OSError:
            return 0

    def _say(self, event: str, **facts: object) -> None:
        """A line of trouble, unless files of somebody's have made too many of them."""
        self._tell_rest()
        self._lines += 1
        if self._lines <= _LINES:
            self._log.trouble(event, **facts)

    def _tell_rest(self) -> None:
        """A minute is over: how many lines there would have been."""
        now = self._reactor.seconds()
        if now - self._minute < 60:
            return
        if self._lines > _LINES:
            self._log.trouble("drop folder", why="more of these", lines=self._lines - _LINES)
        self._minute, self._lines = now, 0


@dataclass(frozen=True, slots=True)
class _Turn:
    """When a file that was put off is tried again."""

    at: float  # seconds of the reactor's clock
    pause: float  # that it had to wait


def _check(reply: Reply | None) -> None:
    if reply is None or reply.code < 400:
        return
    if reply.severity is Severity.PERMANENT:
        raise DamagedError(str(reply))
    raise LaterError(str(reply))
