"""The mail log of a running relayd, told in lines that a newcomer can read."""

from __future__ import annotations

import re

from relayd.demo.nexthop import Stored

_EVENT = re.compile(r"\b(session|refused|accepted|attempt|report|trouble)\b (?=[a-z-]+=)")
_FACT = re.compile(r'([a-z_-]+)=("(?:[^"\\]|\\.)*"|\S+)')
_STATUS = re.compile(r" status=(\w+) \((.*)\)\s*$")
_OWN_ID = re.compile(rb"\bid ([0-9A-Z]{12})\b")


def say(word: str, text: str) -> None:
    """One line: what happened, and with what."""
    print(f"{word:>9}  {text}", flush=True)


class Story:
    """Tells what it hears, each message's steps in their order.

    The next hop and relayd's log speak through different pipes: "received" waits for "relayed".
    """

    def __init__(self) -> None:
        self._relayed: set[str] = set()
        self._early: dict[str, str] = {}

    def replied(self, reply: str) -> None:
        """The client's side: the reply to the final dot."""
        say("queued", f"on stable storage, so the client heard: {reply}")

    def log_line(self, line: str) -> None:
        """A line of relayd's log; most of them are of no interest here."""
        event = _EVENT.search(line)
        if event is None:
            return
        facts = {name: value.strip('"') for name, value in _FACT.findall(line, event.end())}
        tell = getattr(self, f"_{event.group(1)}", None)
        if tell is not None:
            tell(facts, _STATUS.search(line))

    def received(self, stored: Stored, what: str) -> None:
        """The next hop stored a message."""
        match = _OWN_ID.search(stored.content)
        ident = match.group(1).decode() if match else ""
        text = f"by the next hop for {', '.join(f'<{r}>' for r in stored.recipients)}: {what}"
        if ident and ident not in self._relayed:
            self._early[ident] = text
        else:
            say("received", text)

    def flush(self) -> None:
        """Tell what still waits for its turn."""
        for text in self._early.values():
            say("received", text)
        self._early.clear()

    def _accepted(self, facts: dict[str, str], status: re.Match[str] | None) -> None:
        ident, size = facts.get("id", "?"), facts.get("size", "?")
        say("accepted", f"{ident} from {facts.get('from')}, {size} octets, {facts.get('proto')}")

    def _attempt(self, facts: dict[str, str], status: re.Match[str] | None) -> None:
        ident = facts.get("id", "?")
        if "orig_to" in facts:
            say("forwarded", f"{ident} {facts['orig_to']} -> {facts.get('to')}")
        word, reply = status.groups() if status else ("?", "")
        word = {"sent": "relayed"}.get(word, word)
        say(word, f"{ident} to {facts.get('to')} at {facts.get('relay')}: {reply}")
        self._relayed.add(ident)
        early = self._early.pop(ident, None)
        if early:
            say("received", early)

    def _refused(self, facts: dict[str, str], status: re.Match[str] | None) -> None:
        say("refused", f"{facts.get('command')}: {facts.get('reply')}")

    def _report(self, facts: dict[str, str], status: re.Match[str] | None) -> None:
        say("report", f"{facts.get('report')} ({facts.get('kind')}) to {facts.get('to')}")

    def _trouble(self, facts: dict[str, str], status: re.Match[str] | None) -> None:
        say("trouble", " ".join(f"{name}={value}" for name, value in facts.items()))
