"""The mail log of a running relayd, told in lines that a newcomer can read."""

from __future__ import annotations

import re

from relayd.demo.nexthop import Stored

_EVENT = re.compile(r"\b(session|refused|accepted|attempt|report|trouble)\b (?=[a-z-]+=)")
_FACT = re.compile(r'([a-z_-]+)=("(?:[^"\\]|\\.)*"|\S+)')
_STATUS = re.compile(r" status=(\w+) \((.*)\)\s*$")
_ANY_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{12}\b")
_TRACE_ID = re.compile(rb"\bid ([0-9A-HJKMNP-TV-Z]{12})\b")


def say(word: str, text: str) -> None:
    """One line: what happened, and with what."""
    print(f"{word:>9}  {text}", flush=True)


class Story:
    """Tells what it hears, each message's steps in their order.

    Log, client and next hop speak through pipes of their own: what the client heard and what
    the next hop stored waits here until the log has told the step before.
    """

    def __init__(self) -> None:
        self._accepted: set[str] = set()  # told as accepted, not yet as queued
        self._relayed: set[str] = set()
        self._replies: dict[str, str] = {}
        self._stored: dict[str, str] = {}

    def replied(self, reply: str) -> None:
        """The client's side: relayd's reply to the final dot."""
        match = _ANY_ID.search(reply)
        if match is not None:
            self._replies[match.group()] = reply

    def log_line(self, line: str) -> None:
        """A line of relayd's log; most of them are of no interest here."""
        event = _EVENT.search(line)
        if event is None:
            return
        facts = {name: value.strip('"') for name, value in _FACT.findall(line, event.end())}
        status = _STATUS.search(line)
        word, reply = status.groups() if status else ("", "")
        match event.group(1):
            case "accepted":
                self._take(facts)
            case "attempt":
                self._attempt(facts, word, reply)
            case "refused":
                say("refused", f"{facts.get('command')}: {facts.get('reply')}")
            case "report":
                say("report", f"{facts.get('report')} ({facts.get('kind')}) to {facts.get('to')}")
            case "trouble":
                say("trouble", line[event.end() :])

    def received(self, stored: Stored, what: str) -> None:
        """The next hop stored a message."""
        match = _TRACE_ID.search(stored.content)
        ident = match.group(1).decode() if match else ""
        text = f"by the next hop for {', '.join(f'<{r}>' for r in stored.recipients)}: {what}"
        if ident and ident not in self._relayed:
            self._stored[ident] = text
        else:
            say("received", text)

    def flush(self) -> None:
        """Tell what still waits for its turn."""
        for ident in sorted(self._accepted):
            self._queued(ident)
        for text in self._stored.values():
            say("received", text)
        self._stored.clear()

    def _take(self, facts: dict[str, str]) -> None:
        ident = facts.get("id", "?")
        client = f"{facts.get('client')}, {facts.get('proto')}"
        say("accepted", f"{ident} from {facts.get('from')}, {facts.get('size')} octets ({client})")
        self._accepted.add(ident)

    def _attempt(self, facts: dict[str, str], status: str, reply: str) -> None:
        ident = facts.get("id", "?")
        if "orig_to" in facts and facts.get("attempts") == "1":
            say("forwarded", f"{ident} by a rule: {facts['orig_to']} -> {facts.get('to')}")
        self._queued(ident)
        word = "relayed" if status == "sent" else status
        say(word, f"{ident} to {facts.get('to')} at {facts.get('relay')}: {reply}")
        self._relayed.add(ident)
        stored = self._stored.pop(ident, None)
        if stored:
            say("received", stored)

    def _queued(self, ident: str) -> None:
        if ident in self._accepted:
            self._accepted.discard(ident)
            reply = self._replies.pop(ident, f"250 2.0.0 queued as {ident}")
            say("queued", f"{ident} on stable storage, then the client heard: {reply}")
