"""What a client hears of trouble and want that are ours, wherever in a transaction it is."""

from __future__ import annotations

from relayd.mail.reply import Reply
from relayd.spool.errors import SpoolError, SpoolFull

LATE = Reply.of(451, "4.3.0", "It took too long to decide, try again later")
TROUBLE = Reply.of(451, "4.3.0", "Local trouble, try again later")
FULL = Reply.of(452, "4.3.1", "Insufficient system storage, try again later")
NO_MEMORY = Reply.of(452, "4.3.1", "Too much mail at once, try again later")
TOO_MANY = Reply.of(452, "4.5.3", "Too many recipients")


def spool_reply(error: SpoolError) -> Reply:
    """Trouble of our own is never the sender's fault (promise 4): 4xx."""
    return FULL if isinstance(error, SpoolFull) else TROUBLE
