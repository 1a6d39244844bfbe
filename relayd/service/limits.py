"""What the settings mean for a worker: its part of each limit, and its deadlines."""

from __future__ import annotations

import resource

from relayd.config import Settings
from relayd.intake.dropfolder import Quota
from relayd.intake.intake import ReceptionLimits
from relayd.intake.limits import NORMAL, Deadlines, SessionLimits
from relayd.intake.trace import LoopLimits
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import RetryPolicy


def reception_limits(settings: Settings) -> ReceptionLimits:
    """What one transaction may hold."""
    return ReceptionLimits(
        recipients=settings.recipients,
        header_size=settings.header_size,
        message_size=settings.message_size,
        loop=LoopLimits(hops=settings.hops),
    )


def drop(settings: Settings) -> Quota:
    """What the drop folder may take, and how long it may wait."""
    return Quota(settings.message_size, settings.drop_files, settings.drop_size, settings.give_up)


def retry_policy(settings: Settings) -> RetryPolicy:
    """When to try again, when to warn and when to give up."""
    return RetryPolicy(settings.schedule, settings.warn_after, settings.give_up)


def relay_limits(settings: Settings, workers: int) -> RelayLimits:
    """A worker's part of what may go out: the parts add up to what the settings allow."""
    return RelayLimits(
        deliveries=max(settings.deliveries // workers, 1),
        window=max(settings.deliveries_per_destination // workers, 1),
        connection_messages=settings.connection_messages,
        connect=settings.connect_timeout,
    )


def session_limits(settings: Settings, workers: int) -> SessionLimits:
    """A worker's part of the sessions in all; the limit per client holds over all workers."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SessionLimits(
        in_all=-(-settings.sessions // workers),
        per_client=settings.sessions_per_client,
        new_per_minute=settings.new_sessions_per_minute,
    ).within(descriptors)


def cut_through(settings: Settings, workers: int) -> int:
    """How many of a worker's sessions may wait for a first attempt at a time."""
    share = settings.cut_through_share
    return -(-session_limits(settings, workers).in_all * share // 100)


def deadlines(settings: Settings) -> Deadlines:
    """How long a session may take, while there is no rush."""
    return Deadlines(
        command=settings.command_timeout,
        barren=settings.session_timeout,
        content=settings.content_timeout,
        content_rate=NORMAL.content_rate,
    )
