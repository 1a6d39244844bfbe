"""What is to be read, or asked, of directories: the tables of the settings in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relayd.config.settings import Settings
from relayd.directories.live import LiveDirectories
from relayd.directories.source import TableOrder
from relayd.mail.log import MailLog
from relayd.rules.language.model import TableDef
from relayd.rules.tables.live import LiveTable
from relayd.rules.tables.snapshot import FOLDER as SNAPSHOTS
from relayd.rules.tables.snapshot import SnapshotTable
from relayd.service.configuration import Configuration


def snapshot_orders(settings: Settings) -> list[TableOrder]:
    """The tables that are read from directories."""
    return [order for order in _orders(settings) if not order.directory.live]


def live_orders(settings: Settings) -> list[TableOrder]:
    """The tables of which directories are asked for each address."""
    return [order for order in _orders(settings) if order.directory.live]


def live_directories_of(
    reactor: Any,  # noqa: ANN401  # several interfaces
    configuration: Configuration,
    log: MailLog,
) -> LiveDirectories:
    """Those that the process asks for the rules in force, whichever they are by then."""
    live = LiveDirectories(reactor, log)
    configuration.keep_up(lambda fresh: live.apply(live_orders(fresh), fresh.ruleset.tables))
    return live


def _orders(settings: Settings) -> list[TableOrder]:
    spool = settings.spool.absolute()
    authorities = "" if settings.tls_authorities is None else str(settings.tls_authorities)
    beside = [] if settings.path is None else [str(settings.path.absolute().parent)]
    orders: list[TableOrder] = []
    tables = settings.ruleset.tables
    if not any(isinstance(each, SnapshotTable | LiveTable) for each in tables.values()):
        return orders  # files of many people, which have none, are many statements
    for item in settings.ruleset.items:
        if isinstance(item, TableDef) and item.directory is not None:
            folder = str(Path(item.place.source.path).absolute().parent)
            path = str(spool / SNAPSHOTS / item.name)
            folders = (folder, *beside)
            orders.append(TableOrder(item.name, item.directory, folders, path, authorities))
    return orders
