"""What the console asks about the files with the rules: look, check, replay, activate, go back.

Nothing is written that is not good as a whole, and nothing over what the writer has not seen. What
is written is in force at once, in all workers, or the file is again as it was.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredLock

from relayd.config import ConfigErrors, Settings
from relayd.config.editing import (
    EditConflictError,
    EditError,
    KeptSources,
    SourceText,
    read_octets,
    read_source,
    replace_source,
    version_of,
)
from relayd.mail.log import MailLog
from relayd.ops.answers import (
    RulesActivatedAnswer,
    RulesCheckAnswer,
    RulesFilesAnswer,
    RulesTextAnswer,
)
from relayd.ops.documents import (
    BusyError,
    ConflictError,
    Document,
    Request,
    RequestError,
    number_of,
    text_of,
)
from relayd.rules.language.source import Problem, did_you_mean

MOST_CHECKS = 4  # at a time, of all who type
LONGEST = 31 * 86400.0  # seconds that are looked back
USUAL = 86400.0
_OTHERS = "others are just doing that; try again in a moment"


class RulesDesk:
    """One for all of relayd: one process reads the files."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        rehearse: Callable[[Path, bytes], Awaitable[Settings]],
        reload: Callable[[], Awaitable[str]],
        refused: Callable[[], bool],
        replay: Callable[[Path, str, float], Awaitable[Document]],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        kept: KeptSources,
        log: MailLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`rehearse` reads all with a draft in the place of one file; it raises ConfigErrors.

        `reload` puts what is on disk in force, `refused`: whether it was not. `replay` asks the
        draft about so many seconds of mail; it raises RequestError.
        """
        self._settings = settings
        self._rehearse = rehearse
        self._reload = reload
        self._refused = refused
        self._replay = replay
        self._in_thread = in_thread
        self._kept = kept
        self._log = log
        self._clock = clock
        self._turn = DeferredLock()
        self._checks = 0
        self._replays = False
        self._actions: Mapping[str, Callable[[Request, str], Awaitable[Document]]] = {
            "list": self._list,
            "show": self._show,
            "check": self._check,
            "replay": self._try,
            "activate": self._activate,
            "back": self._back,
        }

    async def answer(self, request: Request, who: str) -> Document:
        """The answer to one request; raises RequestError."""
        action = self._actions.get(text_of(request, "action"))
        if action is None:
            raise RequestError(f"action: {', '.join(self._actions)} expected")
        try:
            return await action(request, who)
        except EditConflictError as error:
            raise ConflictError(f"{text_of(request, 'file')}: {error}; nothing was done") from None
        except EditError as error:
            raise RequestError(f"{text_of(request, 'file')}: {error}") from None

    async def _list(self, request: Request, who: str) -> Document:
        sources = self._settings().sources

        def look() -> list[Any]:
            return [self._told(name, path) for name, path in sources.items()]

        answer: RulesFilesAnswer = {"files": await self._in_thread(look)}
        return {**answer}

    def _told(self, name: str, path: Path) -> Document:
        last = next(self._kept.of(name), None)
        told = {"file": name, "octets": 0, "changed": 0.0, "trouble": ""}
        try:
            status = path.stat()
            told |= {"octets": status.st_size, "changed": status.st_mtime}
        except OSError as error:
            told["trouble"] = error.strerror or str(error)
        # who was the last to change it here, if nobody has elsewhere since
        return {**told, "by": last.by if last else "", "at": last.at if last else 0.0}

    async def _show(self, request: Request, who: str) -> Document:
        name, path = self._named(request)

        def look() -> RulesTextAnswer:
            there = read_source(path)
            kept = [
                {"id": each.ident, "at": each.at, "by": each.by, "version": each.version}
                for each in self._kept.of(name)
            ]
            ident = text_of(request, "kept")
            text = self._kept_text(name, ident) if ident else there.text
            answer: RulesTextAnswer = {"file": name, "text": text, "version": there.version,
                                       "kept": kept}  # type: ignore[typeddict-item]  # fmt: skip
            return answer

        return {**await self._in_thread(look)}

    async def _check(self, request: Request, who: str) -> Document:
        name, path = self._named(request)
        if self._checks >= MOST_CHECKS:
            raise BusyError(_OTHERS)
        self._checks += 1
        try:
            octets = await self._draft(path, request)
            return {**await self._checked(name, path, octets)}
        finally:
            self._checks -= 1

    async def _try(self, request: Request, who: str) -> Document:
        name, path = self._named(request)
        since = number_of(request, "since") or USUAL
        if not 60 <= since <= LONGEST:
            raise RequestError(f"since: from 60 to {LONGEST:.0f} seconds expected")
        if self._replays:
            raise BusyError(_OTHERS)
        self._replays = True
        try:
            octets = await self._draft(path, request)
            found = await self._checked(name, path, octets)
            if found["complaint"]:
                raise ConflictError(found["complaint"])
            self._log.notice("operator", command="rules replay", by=who, file=name)
            return await self._replay(path, octets.decode(), since)
        finally:
            self._replays = False

    async def _activate(self, request: Request, who: str) -> Document:
        name, path = self._named(request)

        def draft(there: SourceText) -> bytes:
            return there.octets(_text(request))

        return await self._put(name, path, text_of(request, "version"), draft, "activate", who)

    async def _back(self, request: Request, who: str) -> Document:
        name, path = self._named(request)

        def draft(there: SourceText) -> bytes:
            ident = text_of(request, "kept")
            if not ident:
                kept = next((e for e in self._kept.of(name) if e.version != there.version), None)
                if kept is None:
                    raise EditError("there is no version before")
                return there.octets(kept.text)
            return there.octets(self._kept_text(name, ident))

        return await self._put(name, path, text_of(request, "version"), draft, "back", who)

    async def _put(
        self, name: str, path: Path, version: str, draft: Callable[[SourceText], bytes],
        command: str, who: str,
    ) -> Document:  # fmt: skip
        if not version:
            raise RequestError("version: that of the text which is to be replaced expected")
        await self._turn.acquire()
        try:
            there: SourceText = await self._in_thread(partial(read_source, path))
            octets: bytes = await self._in_thread(partial(draft, there))
            if there.version != version:
                # whoever says the same again is told the same
                if there.version != version_of(octets):
                    raise EditConflictError(self._by_whom(name, there.version))
                return {**self._activated(name, there.version, [])}
            found = await self._checked(name, path, octets)
            if found["complaint"]:
                raise ConflictError(found["complaint"])
            after = version_of(octets)
            if after != version:
                await self._in_thread(partial(self._replace, name, path, version, octets, who))
            self._log.notice(
                "operator",
                command=f"rules {command}",
                by=who,
                file=name,
                before=version[:16],
                after=after[:16],
            )
            said = await self._reload()
            if said and self._refused():
                if after != version:
                    before = there.octets(there.text)
                    await self._in_thread(partial(replace_source, path, after, before))
                    await self._reload()
                    self._log.notice("operator", command="rules undone", by=who, file=name)
                raise ConflictError(f"nothing was done: {said}")
            return {**self._activated(name, after, [said] if said else found["warnings"])}
        finally:
            self._turn.release()

    def _replace(self, name: str, path: Path, version: str, octets: bytes, who: str) -> None:
        before = read_octets(path)
        if version_of(before) != version:  # so nothing is kept of what is not replaced
            raise EditConflictError("it has been changed meanwhile")
        self._kept.keep(name, before, self._clock(), who, version_of(octets))
        replace_source(path, version, octets)

    def _activated(self, name: str, version: str, warnings: list[str]) -> RulesActivatedAnswer:
        restart = list(self._settings().waiting)
        return {"file": name, "version": version, "warnings": warnings, "restart": restart}

    def _by_whom(self, name: str, version: str) -> str:
        last = next(self._kept.of(name), None)
        who = f" by {last.by}" if last is not None and last.after == version else ""
        return f"it has been changed{who} since you have opened it"

    async def _draft(self, path: Path, request: Request) -> bytes:
        there: SourceText = await self._in_thread(partial(read_source, path))
        return there.octets(_text(request))

    async def _checked(self, name: str, path: Path, octets: bytes) -> RulesCheckAnswer:
        try:
            settings = await self._rehearse(path, octets)
        except ConfigErrors as errors:
            problems = [_problem(each) for each in errors.problems]
            return {"file": name, "complaint": str(errors), "problems": problems,  # type: ignore[typeddict-item]
                    "warnings": []}  # fmt: skip
        warnings = [str(each) for each in settings.warnings]
        return {"file": name, "complaint": "", "problems": [], "warnings": warnings}

    def _named(self, request: Request) -> tuple[str, Path]:
        """One of those that are in force: no other file is looked at."""
        name, sources = text_of(request, "file"), self._settings().sources
        if name not in sources:
            hint = did_you_mean(name, sources) or f"there are {', '.join(sources)}"
            raise RequestError(f"no file {name!r} with rules; {hint}")
        return name, sources[name]

    def _kept_text(self, name: str, ident: str) -> str:
        for each in self._kept.of(name):
            if each.ident == ident:
                return each.text
        raise EditError(f"no version {ident!r} of it is kept")


def _text(request: Request) -> str:
    """Unlike other fields it may be long, and empty."""
    text = request.get("text")
    if not isinstance(text, str):
        raise RequestError("text: the whole file expected")
    return text


def _problem(problem: Problem) -> Document:
    place = problem.place
    return {
        "file": place.source.name,
        "line": place.line if place.source.lines else 0,
        "column": place.column,
        "width": place.width,
        "what": problem.what,
        "expected": problem.expected,
    }
