"""The screen Rules: what it asks of the desk that changes the files, and the pages of it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from relayd.config.editing import unprintable
from relayd.ops.commands import Operations
from relayd.web import rulespages
from relayd.web.catalogue import find_call
from relayd.web.exchange import HTML, TurnedAwayError, WebAnswer, redirect
from relayd.web.markup import Markup, link
from relayd.web.operations import carried_out
from relayd.web.pages import PageView
from relayd.web.rulespages import RULES, RulesDraft


class RulesScreen:
    """One for all who look at it."""

    def __init__(self, commands: Operations) -> None:
        self._commands = commands

    async def shown(self, view: PageView) -> bytes:
        """The files, or one of them."""
        name = view.fields.get("file", "")
        if not name:
            return rulespages.files(view, await self._ask(view, "GET", RULES))
        return rulespages.edited(view, await self._draft(view, name, None), None)

    async def checked(self, view: PageView, form: Mapping[str, str]) -> WebAnswer:
        """What the page asks while somebody types: a piece of it."""
        said = {"file": form.get("file", ""), "text": _text(form)}
        try:
            found = rulespages.checked(await self._ask(view, "POST", f"{RULES}/check", **said))
        except TurnedAwayError as error:
            if error.status == HTTPStatus.FORBIDDEN:
                raise
            found = rulespages.refused(str(error))
        return WebAnswer(HTTPStatus.OK, HTML, str(found).encode())

    async def done(self, view: PageView, form: Mapping[str, str]) -> WebAnswer:
        """A button was pressed."""
        command, name = form.get("command", ""), form.get("file", "")
        asked = {"file": name, "text": _text(form), "version": form.get("version", "")}
        if command == "back":
            asked = {"file": name, "version": asked["version"], "kept": form.get("kept", "")}
        elif why := unprintable(asked["text"]):
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, f"nothing was done: {why}")
        status, since = int(HTTPStatus.OK), form.get("since", "86400")
        try:
            if command in ("activate", "back"):
                await self._ask(view, "POST", f"{RULES}/{command}", **asked)
                return redirect(link(RULES, file=name, done=command))
            draft = await self._draft(view, name, asked["text"])
            said = await self._found_out(view, command, draft, since)
        except TurnedAwayError as error:
            if error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                raise
            status, said = error.status, rulespages.refused(str(error))
            draft = await self._draft(view, name, None if command == "back" else asked["text"])
        if command != "back":  # it is what he has seen that he replaces, not what is there by now
            draft = RulesDraft(draft.file, draft.text, asked["version"], draft.kept)
        return WebAnswer(status, HTML, rulespages.edited(view, draft, said, since))

    async def _found_out(
        self, view: PageView, command: str, draft: RulesDraft, since: str
    ) -> Markup:
        asked: dict[str, object] = {"file": draft.file, "text": draft.text}
        if command == "check":
            return rulespages.checked(await self._ask(view, "POST", f"{RULES}/check", **asked))
        if command == "replay" and since in rulespages.DAYS:
            asked["since"] = int(since)
            found = await self._ask(view, "POST", f"{RULES}/replay", **asked)
            return rulespages.replayed(draft, found)
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "there is no such action")

    async def _draft(self, view: PageView, name: str, text: str | None) -> RulesDraft:
        asked = {"file": name}
        if text is None and (kept := view.fields.get("kept", "")):
            asked["kept"] = kept
        found = await self._ask(view, "GET", f"{RULES}/text", **asked)
        return RulesDraft(
            name, found["text"] if text is None else text, found["version"], tuple(found["kept"])
        )

    async def _ask(self, view: PageView, method: str, path: str, **said: object) -> dict[str, Any]:
        call, _ = find_call(method, path)
        if view.person.role < call.role:
            why = f"nothing was done: that is for {call.role}, and you are {view.person.role}"
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, why)
        request: dict[str, object] = {**said, **dict(call.fixed), "command": call.command}
        return await carried_out(self._commands, call, request, view.person.name)


def _text(form: Mapping[str, str]) -> str:
    """As it was before a browser sent it."""
    return form.get("text", "").replace("\r\n", "\n")
