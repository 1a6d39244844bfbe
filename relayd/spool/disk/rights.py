"""Root, when it works in a folder that is another user's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def rights_of(owner: os.stat_result) -> Iterator[None]:
    """With the rights of a folder's owner and no others, if we have root's.

    What he may have put into it, links above all, leads root nowhere.
    """
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(os.getgid())
        os.setgroups(groups)
