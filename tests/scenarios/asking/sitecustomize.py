"""A relayd that asks somebody at each place, who takes his time and changes the content."""

from __future__ import annotations

import sys
from typing import Any

from relayd.intake import asking, receptions
from relayd.intake.checks import Objection, ReceivedContent
from relayd.mail.reply import Reply

PAUSE = 0.2  # seconds
AGES = 600.0


async def _later(seconds: float) -> None:
    reactor: Any = sys.modules["twisted.internet.reactor"]  # by now there is one
    from twisted.internet.task import deferLater

    await deferLater(reactor, seconds, lambda: None)


class Others:
    """Whoever says `no` is refused, whoever says `slow` waits for very long."""

    async def connection(self, client: object) -> Objection:
        await _later(PAUSE)
        return None

    async def mail(self, client: object, envelope: Any) -> Objection:  # noqa: ANN401
        return await self._about(envelope.reverse_path)

    async def recipient(self, client: object, envelope: object, mailbox: Any) -> Objection:  # noqa: ANN401
        return await self._about(mailbox)

    async def content(
        self, client: object, envelope: object, content: ReceivedContent
    ) -> Objection:
        await _later(PAUSE)
        body = content.new_body()
        body.write(b"Looked at.\r\n")
        for piece in content.body():
            body.write(piece)
        if b"X-Slow:" in content.section:
            await _later(AGES)
        await content.rewrite(b"X-Looked-At: yes\r\n" + content.section, body)
        return None

    async def _about(self, mailbox: Any) -> Objection:  # noqa: ANN401
        await _later(AGES if mailbox.local == "slow" else PAUSE)
        return Reply.of(550, "5.7.1", "Not him") if mailbox.local == "no" else None


def _reception(intake: Any, client: Any, policy: Any) -> asking.AskingReception:  # noqa: ANN401
    return asking.AskingReception(intake, client, policy, Others())


receptions.reception_of = _reception  # type: ignore[assignment]
