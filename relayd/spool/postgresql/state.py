"""How a shared spool is: its nodes, what each of them has, and what slows the database down."""

from __future__ import annotations

from typing import Any

from relayd.spool.postgresql.schema import VERSION
from relayd.spool.postgresql.session import DatabaseSession, plain

DIFFERENT = 60.0  # seconds for which rule sets may differ before it is worth a warning
_LONG = 60.0  # seconds for which a transaction may be open before it is

# One that has been silent for a lease is gone: by the database's clock, for the eye alone.
_NODES = """
    SELECT n.id, n.name, n.epoch, n.beat = '-infinity',
        CASE WHEN n.beat = '-infinity' THEN NULL
            ELSE extract(epoch FROM clock_timestamp() - n.beat)::float END,
        n.written_by, n.rules, extract(epoch FROM clock_timestamp() - n.rules_since)::float,
        coalesce(r.queued, 0), coalesce(r.held, 0)
    FROM node AS n LEFT JOIN (
        SELECT owner, count(*) FILTER (WHERE state = 0) AS queued,
            count(*) FILTER (WHERE state = 1) AS held FROM recipient GROUP BY owner) AS r
    ON r.owner = n.id ORDER BY n.name"""
_STANDBYS = """
    SELECT application_name, state, sync_state, extract(epoch FROM flush_lag)::float,
        pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint
    FROM pg_stat_replication ORDER BY application_name"""
_OLDEST = """
    SELECT extract(epoch FROM clock_timestamp() - xact_start)::float, pid,
        coalesce(usename::text, ''), coalesce(application_name, ''), coalesce(state, '')
    FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()
    ORDER BY xact_start LIMIT 1"""
_TABLES = """
    SELECT relname::text, n_live_tup, n_dead_tup FROM pg_stat_user_tables
    WHERE schemaname = 'relayd' AND relname IN ('message', 'recipient', 'batch', 'node')
    ORDER BY relname"""
_FACTS = """
    SELECT current_setting('server_version'), current_setting('synchronous_commit'),
        current_setting('synchronous_standby_names')"""


def state_of(session: DatabaseSession, ours: int, lease: float) -> dict[str, Any]:
    """As `relayctl cluster` shows it."""
    nodes = [_node(row, ours, lease) for row in session.ask(_NODES)]
    version = session.ask("SELECT value FROM meta WHERE name = 'version'").fetchone()
    assert version is not None
    late = session.ask("SELECT count(*) FROM late").fetchone()
    assert late is not None
    trouble: list[str] = []
    facts = _rows(session, _FACTS, trouble)
    found: dict[str, Any] = {
        "nodes": nodes,
        "lease": lease,
        "late": late[0],
        "database": {
            "version": facts[0][0] if facts else "",
            "synchronous_commit": facts[0][1] if facts else "",
            "synchronous_standby_names": facts[0][2] if facts else "",
            "spool_version": int(version[0]),
            "relayd_version": VERSION,
            "standbys": [
                dict(zip(("name", "state", "sync", "lag", "behind"), row, strict=True))
                for row in _rows(session, _STANDBYS, trouble)
            ],
            "oldest_transaction": next(
                (
                    dict(zip(("seconds", "pid", "user", "of", "state"), row, strict=True))
                    for row in _rows(session, _OLDEST, trouble)
                ),
                None,
            ),
            "tables": [
                dict(zip(("table", "rows", "dead"), row, strict=True))
                for row in _rows(session, _TABLES, trouble)
            ],
            "unknown": trouble,
        },
    }
    found["warnings"] = _warnings(found)
    return found


def _node(row: tuple[Any, ...], ours: int, lease: float) -> dict[str, Any]:
    number, name, epoch, left, silent, written_by, rules, since, queued, held = row
    state = "left" if left else "alive" if silent <= lease else "silent"
    return {
        "node": name,
        "number": number,
        "epoch": epoch,
        "state": state,
        "silent": silent,
        "relayd": written_by or "",
        "rules": rules or "",
        "rules_since": since,
        "queued": queued,
        "held": held,
        "here": number == ours,
    }


def _rows(session: DatabaseSession, text: str, trouble: list[str]) -> list[tuple[Any, ...]]:
    """What not every database tells, nor everybody; the question is asked within a transaction."""
    session.ask("SAVEPOINT here")
    try:
        found = session.ask(text).fetchall()
    except Exception as error:
        session.ask("ROLLBACK TO SAVEPOINT here")
        trouble.append(plain(error))
        return []
    session.ask("RELEASE SAVEPOINT here")
    return found


def _warnings(found: dict[str, Any]) -> list[str]:
    said = []
    alive = [each for each in found["nodes"] if each["state"] == "alive" and each["rules"]]
    lasting = {each["rules"] for each in alive if (each["rules_since"] or 0.0) > DIFFERENT}
    if len({each["rules"] for each in alive}) > 1 and lasting:
        told = ", ".join(f"{each['node']} {each['rules']}" for each in alive)
        said.append(f"rule sets differ: {told}")
    said += [
        f"node {each['node']} is silent, and {each['queued']:,} recipients are its own still"
        for each in found["nodes"]
        if each["state"] != "alive" and each["queued"]
    ]
    oldest = found["database"]["oldest_transaction"]
    if oldest is not None and oldest["seconds"] > _LONG:
        who = oldest["of"] or f"process {oldest['pid']}"
        said.append(
            f"a transaction of {oldest['user']} ({who}) is open for {round(oldest['seconds'])} s: "
            "nothing is cleared away meanwhile"
        )
    return said
