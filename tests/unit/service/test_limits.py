"""What the settings mean for a worker; and that a default is one number wherever it is needed."""

from __future__ import annotations

import sys
import unittest
from dataclasses import replace
from pathlib import Path

from relayd.config import load_text
from relayd.intake.dropfolder import Quota
from relayd.intake.intake import ReceptionLimits
from relayd.intake.limits import Deadlines, SessionLimits
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import RetryPolicy
from relayd.sendmail.drop import Site
from relayd.service import limits
from relayd.smtp.exchange import ServerLimits
from relayd.spool.sqlite import store
from relayd.tls.strength import DEFAULT_MINIMUM


class DefaultsTest(unittest.TestCase):
    """Settings have the defaults; parts that also stand alone, as in tests, have the same ones."""

    def setUp(self) -> None:
        self.settings = load_text("hostname x.example\n", Path("/"))

    def test_of_what_comes_in(self) -> None:
        settings, server = self.settings, ServerLimits()
        received = replace(limits.reception_limits(settings), message_size=sys.maxsize)
        self.assertEqual(received, ReceptionLimits())
        self.assertEqual(limits.deadlines(settings), Deadlines())
        self.assertEqual(limits.drop(settings), Quota(settings.message_size))
        sessions = SessionLimits()
        self.assertEqual(
            (settings.sessions, settings.sessions_per_client, settings.new_sessions_per_minute),
            (sessions.in_all, sessions.per_client, sessions.new_per_minute),
        )
        self.assertEqual(
            (settings.command_length, settings.recipients, settings.errors_per_session),
            (server.line, server.recipients, server.errors),
        )
        self.assertEqual(settings.tls_minimum, DEFAULT_MINIMUM)

    def test_of_what_goes_out(self) -> None:
        self.assertEqual(limits.retry_policy(self.settings), RetryPolicy())
        self.assertEqual(limits.relay_limits(self.settings, 1), RelayLimits())

    def test_of_the_spool(self) -> None:
        settings = self.settings
        self.assertEqual(
            (settings.content_in_memory, settings.free_space, settings.free_inodes),
            (store.MEMORY_THRESHOLD, store.FLOOR_OCTETS, store.FLOOR_INODES),
        )
        self.assertEqual(settings.ledger, store.LEDGER_DAYS * 86400)

    def test_of_the_sendmail_command(self) -> None:
        settings, site = self.settings, Site("", "", "", "")
        self.assertEqual(
            (settings.message_size, settings.header_size, settings.free_space),
            (site.message_size, site.header_size, site.free_space),
        )
