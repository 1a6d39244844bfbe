"""Root, when it works in a folder that is another user's."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator


@contextlib.contextmanager
def rights_of(owner: os.stat_result, *, groups: bool = False) -> Iterator[None]:
    """With the rights of a folder's owner and no others, if we have root's.

    What he may have put into it, links above all, leads root nowhere. `groups`: also with those of
    the groups that he is in.
    """
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    ours, his = os.getgroups(), []
    if groups:
        with contextlib.suppress(KeyError):  # a number without a name is in none
            his = os.getgrouplist(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    os.setgroups(his)
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(os.getgid())
        os.setgroups(ours)
