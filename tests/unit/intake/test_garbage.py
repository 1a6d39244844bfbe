"""A session that is over is gone at once: nothing of it waits for the garbage collector.

Sessions that refer to themselves would be collected later, too; but until then the next ones are
made in memory that no cache holds, which cost a third of a message's CPU (docs/performance.md).
"""

from __future__ import annotations

import gc
import unittest
import weakref
from typing import Any

from tests.unit.intake.scene import CONTENT, Scene, message


class Gone(unittest.TestCase):
    def setUp(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

    def test_after_a_message_and_quit(self) -> None:
        scene = Scene()
        scene.spool.slow = True
        peer = scene.greeted()
        session: Any = peer.protocol
        parts = [weakref.ref(each) for each in (session, session._server, session._reception)]
        del session
        peer.say(*message())
        peer.say(*CONTENT)
        scene.spool.finish()
        self.assertEqual(peer.replies()[0][:3], "250")
        peer.say("QUIT")
        peer.leave()
        vars(peer.transport).clear()  # a real one forgets us; this one and the peer have a circle
        del peer
        self.assertEqual([part() for part in parts], [None, None, None])
