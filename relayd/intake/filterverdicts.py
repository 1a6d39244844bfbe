"""What filters have said of one message, folded into what becomes of it.

Each adds to what those before it wanted; what refuses is an objection, and ends the asking. Where a
rule looks at what a filter says, its own word does not count: the rule's does.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.filters.milter import CONTINUE, FilterVerdict, Word
from relayd.filters.milteredits import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeaders,
    DeleteRecipient,
    HeaderChange,
    InsertHeader,
    Quarantine,
)
from relayd.filters.policy import PolicyAction
from relayd.filters.rspamd import RspamdReport
from relayd.intake.checks import Objection
from relayd.intake.editedcontent import prepended
from relayd.intake.examination import Filtered
from relayd.intake.filterdesk import AskedFilter, FilterDesk
from relayd.intake.wanted import Wanted, done
from relayd.mail.address import AddressError, Mailbox, ReversePath, parse_path_text
from relayd.mail.plan import Step, Verdict
from relayd.mail.reply import Reply, printable
from relayd.rules.conditions.filtering import said_of
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset

_LATER = Reply.of(451, "4.7.1", "Service unavailable - try again later")
_NOT_NOW = Reply.of(550, "5.7.1", "Service unavailable")
_REJECTED = Reply.of(550, "5.7.1", "Command rejected")
_CLOSING = Reply.of(421, "4.7.0", "Server closing connection")
_GREYLISTED = Reply.of(451, "4.7.1", "Try again later")
REFUSING = {Word.REJECT, Word.TEMPFAIL, Word.REPLY, Word.SHUT_DOWN}
_NO_PATH = ""
MOST_RECIPIENTS = 1000  # that filters may add to a message
_EDITS: dict[type[HeaderChange], str] = {
    AddHeader: "added a header field",
    InsertHeader: "added a header field",
    ChangeHeader: "changed a header field",
    DeleteHeaders: "removed header fields",
}


class FilterVerdicts:
    """What was said in one session: of the message of the moment, if there is one."""

    def __init__(self, desk: FilterDesk, ruleset: Ruleset) -> None:
        self.ruleset = ruleset
        self.wanted = Wanted()
        self.facts: dict[Fact, object] = {}  # what rules may look at, once the content is there
        self.why = ""  # who objected last
        self.failed: dict[str, Objection] = {}  # who did not say, in this transaction
        self.in_transaction = False
        self._desk = desk

    def reset(self) -> None:
        """The transaction is over."""
        self.in_transaction = False
        self.wanted = Wanted()
        self.facts = {}
        self.failed.clear()

    def filtered(self, objection: Objection) -> Filtered:
        """All of it together; see relayd.intake.examination."""
        if objection is not None:
            return Filtered(objection, trail=(Step("ask", "", self.why),))
        wanted, verdict, steps = self.wanted, Verdict.ACCEPT, [*self.wanted.steps]
        if wanted.discard:
            verdict = Verdict.DISCARD
            steps.append(done(self.ruleset, "discard", wanted.discard))
        elif wanted.hold:
            verdict = Verdict.HOLD
            steps.append(done(self.ruleset, "hold", wanted.hold))
        return Filtered(None, verdict, self.facts, tuple(steps), wanted)

    # what each kind of filter says

    def milter(
        self,
        asked: AskedFilter,
        verdict: FilterVerdict,
        *,
        live: bool = False,
        replaced: bool = False,
    ) -> Objection:
        """A milter's verdict: `live`, on the session as it goes; `replaced`, with another body."""
        if verdict is CONTINUE and not replaced:
            return None
        name, word = asked.definition.name, verdict.word
        if word in REFUSING:
            reply = _reply(verdict)
            said = "reject" if reply.code >= 500 else "defer"
            self.why = f"milter {name}"
            if live or self.note(asked, said):
                return reply
            self._say(asked, str(reply))
            return None
        if word is Word.DISCARD:
            if self.in_transaction:
                self.wanted.discard = f"{name}: discard"
                self._say(asked, "discard")
            return None
        done = dict.fromkeys(_EDITS[type(e)] for e in verdict.edits if isinstance(e, HeaderChange))
        if replaced:
            done["replaced the body"] = None
        for edit in verdict.edits:
            if isinstance(edit, Quarantine):
                reason = printable(edit.reason, 200)
                if self.note(asked, "quarantine"):
                    self.wanted.hold = f"{name}: {reason}"
                done[f"quarantine: {reason}"] = None
            elif isinstance(edit, AddRecipient):
                self._add(edit.path, name)
                done[f"added <{printable(edit.path.strip('<>'))}>"] = None
            elif isinstance(edit, DeleteRecipient):
                self._throw_away(edit.path, name)
            elif isinstance(edit, ChangeSender):
                path = self._parsed(edit.path, name, "a sender")
                if path != _NO_PATH:
                    self.wanted.sender = path
                    done[f"made <{path or ''}> the sender"] = None
        if done:
            self._say(asked, "; ".join(done))
        return None

    def rspamd(self, asked: AskedFilter, report: RspamdReport) -> Objection:
        """A report; its changes to the content are not done here."""
        name = asked.definition.name
        decides = self.note(asked, report.word, report.score, report.symbols)
        said = f"{report.action}, score {report.score:g}"
        self._say(asked, said)
        if decides and report.word in ("reject", "defer"):
            self.why = f"rspamd {name}: {said}"
            text = report.message or "The message was rejected by a filter"
            code, status = (554, "5.7.1") if report.word == "reject" else (451, "4.7.1")
            return Reply.of(code, status, text)
        if decides and report.word == "quarantine":
            self.wanted.hold = f"{name}: {said}"
        return None

    def clamd(self, asked: AskedFilter, virus: str) -> Objection:
        """The name of what was found; empty: nothing."""
        decides = self.note(asked, "reject" if virus else "")
        if not virus:
            return None
        found = printable(virus, 100)
        self._say(asked, f"found {found}")
        if not decides:
            return None
        self.why = f"clamd {asked.definition.name}: {found}"
        return Reply.of(554, "5.7.1", f"The message is infected: {found}")

    def policy_on_recipient(
        self, asked: AskedFilter, action: PolicyAction, mailbox: Mailbox
    ) -> Objection:
        """A policy service's action about one recipient. ValueError: it cannot be done."""
        name, wanted = asked.definition.name, self.wanted
        if action.word == "PREPEND":
            fresh = prepended(action.text)
            if fresh not in wanted.above:
                wanted.above.append(fresh)
        elif action.word == "HOLD":
            wanted.held[mailbox] = f"{name}: {action.text or 'hold'}"
        elif action.word == "DISCARD":
            wanted.throw_away(mailbox, f"{name}: {action.text or 'discard'}")
        return self._acted(asked, action, [mailbox])

    def policy_on_message(
        self, asked: AskedFilter, action: PolicyAction, recipients: Sequence[Mailbox]
    ) -> Objection:
        """... about all of the message. What it puts in front of the content is not done here."""
        said = f"{asked.definition.name}: {action.text or action.word}"
        if action.word == "HOLD":
            self.wanted.hold = said
        elif action.word == "DISCARD":
            self.wanted.discard = said
        return self._acted(asked, action, recipients)

    def _acted(
        self, asked: AskedFilter, action: PolicyAction, about: Sequence[Mailbox]
    ) -> Objection:
        """What is left of a policy service's action."""
        name, word = asked.definition.name, action.word
        if word in ("REJECT", "DEFER", "DEFER_IF_PERMIT"):
            self.why = f"policy {name}: {word}"
            return action.reply or _GREYLISTED
        if word in ("WARN", "INFO"):
            self._desk.log.notice("policy", policy=name, says=action.text)
        elif word in ("BCC", "REDIRECT"):
            if word == "REDIRECT":
                for each in about:
                    self.wanted.throw_away(each, f"{name}: redirected")
            self._add(action.text, name)
        elif word == "FILTER":
            raise ValueError("the action FILTER, which relayd does not do")
        if word not in ("OK", "DUNNO", "DEFER_IF_REJECT"):
            self._say(asked, f"{word} {action.text}".strip())
        return None

    def heard(self, asked: AskedFilter) -> None:
        """It was asked, and may have had nothing to say: the trail tells that, too."""
        who = _who(asked)
        if not any(step.rule == who for step in self.wanted.steps):
            self._say(asked, "")

    def trouble(self, asked: AskedFilter, why: str) -> Objection:
        """It does not say: its failure word counts, for all of this transaction."""
        self._desk.troubled(asked, why)
        if not self.in_transaction:
            return None  # MAIL tries again
        name, on_failure = asked.definition.name, asked.on_failure
        objection: Objection = None
        if on_failure == "hold":
            self.wanted.hold = self.wanted.hold or f"{name}: {printable(why, 100)}"
        elif on_failure in ("defer", "reject"):
            objection = _LATER if on_failure == "defer" else _NOT_NOW
        self.why = f"{_who(asked)}: {why}"
        self._say(asked, f"{why}, on failure {on_failure}")
        self.failed[name] = objection
        return objection

    def note(
        self,
        asked: AskedFilter,
        word: str = "",
        score: float | None = None,
        symbols: frozenset[str] = frozenset(),
    ) -> bool:
        """For the rules that look at it; whether there are none, and its own word counts."""
        said = said_of(self.ruleset.needs, asked.definition.name, word, score, symbols)
        self.facts.update(said)
        return not said

    def _say(self, asked: AskedFilter, what: str) -> None:
        step = Step("ask", str(asked.definition.place), _who(asked), what)
        self.wanted.steps.append(step)

    def _add(self, path: str, name: str) -> None:
        mailbox = self._parsed(path, name, "a recipient")
        if not isinstance(mailbox, Mailbox):
            return
        if len(self.wanted.added) >= MOST_RECIPIENTS:
            self._desk.log.trouble("filter", filter=name, why="too many recipients", path=path)
        else:
            self.wanted.add(mailbox, name)

    def _throw_away(self, path: str, name: str) -> None:
        mailbox = self._parsed(path, name, "a recipient")
        if isinstance(mailbox, Mailbox):
            self.wanted.throw_away(mailbox, f"{name}: deleted")

    def _parsed(self, path: str, name: str, what: str) -> ReversePath | str:
        """A path as filters write it; _NO_PATH, and trouble, where it is none."""
        try:
            return parse_path_text(path.strip().removeprefix("<").removesuffix(">"))
        except AddressError:
            why = f"{what} that is none"
            self._desk.log.trouble("filter", filter=name, why=why, path=path)
            return _NO_PATH


def _who(asked: AskedFilter) -> str:
    return f"{asked.definition.kind} {asked.definition.name}"


def _reply(verdict: FilterVerdict) -> Reply:
    if verdict.reply is not None:
        return verdict.reply
    if verdict.word is Word.SHUT_DOWN:
        return _CLOSING
    return _REJECTED if verdict.word is Word.REJECT else _LATER
