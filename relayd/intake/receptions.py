"""Which reception a session has: the plain one, where nobody is to be asked."""

from __future__ import annotations

from relayd.intake.asking import AskingReception
from relayd.intake.filtered import FilteringReception
from relayd.intake.intake import Intake
from relayd.intake.policy import RELAY, ListenerPolicy
from relayd.intake.reception import Reception
from relayd.intake.sessionfilters import SessionFilters
from relayd.mail.client import Client


def reception_of(intake: Intake, client: Client, policy: ListenerPolicy = RELAY) -> Reception:
    """The reception of one session."""
    if intake.checks is not None:
        return AskingReception(intake, client, policy, intake.checks)
    desk = intake.desk
    if desk is not None:
        return FilteringReception(intake, client, policy, SessionFilters(desk, intake.rules()))
    return Reception(intake, client, policy)
