"""The figures as text, in OpenMetrics 1.0 and in Prometheus's older form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from relayd.ops.answers import FiguresAnswer

# name, kind, what it says. Counters without the ending of their samples, "_total".
FAMILIES = (
    ("relayd_accepted_messages", "counter", "Messages on stable storage, for which 250 was said."),
    ("relayd_accepted_recipients", "counter", "Their recipients."),
    ("relayd_accepted_bytes", "counter", "Their content."),
    ("relayd_refused", "counter", "Commands of clients that were refused, by the reply."),
    ("relayd_sessions", "counter", "Sessions of clients, by how they ended."),
    ("relayd_attempts", "counter", "Recipients tried or ended, by what became of them."),
    ("relayd_sent", "counter", "Recipients that a next hop took, by the TLS they went with."),
    ("relayd_reports", "counter", "Reports queued, by their kind."),
    ("relayd_troubles", "counter", "Lines of trouble in the log, by their event."),
    ("relayd_reloads", "counter", "Configurations put in force while running."),
    ("relayd_accept_seconds", "histogram", "From the final dot to 250."),
    ("relayd_delivery_seconds", "histogram", "From 250 to the next hop's 250, of a recipient."),
    ("relayd_waiting_messages", "gauge", "Messages that wait."),
    ("relayd_waiting_bytes", "gauge", "Their content."),
    ("relayd_oldest_seconds", "gauge", "Age of the oldest message that waits, by its next hop."),
    ("relayd_open_sessions", "gauge", "Sessions of clients now."),
    ("relayd_deliveries", "gauge", "Deliveries under way now."),
    ("relayd_spool_healthy", "gauge", "1 while every shard of the spool can record."),
    ("relayd_disk_free_bytes", "gauge", "Room left where the spool is."),
    ("relayd_configuration_refused", "gauge", "1 while what is on disk is not in force."),
    ("relayd_workers", "gauge", "Processes that move mail, as configured."),
    ("relayd_workers_ready", "gauge", "Those that serve."),
    ("relayd_start_time_seconds", "gauge", "When relayd was started, since the epoch."),
    ("relayd_build_info", "gauge", "1, with the version."),
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_MOST_HOPS = 100
_NAME = re.compile(r"([a-z_]+?)(_total|_bucket|_sum)?(\{.*)?\Z")


def text_of_metrics(
    counted: Mapping[str, float], gauges: Mapping[str, float], *, openmetrics: bool
) -> str:
    """All samples, by their names with labels."""
    samples: dict[str, dict[str, float]] = {}
    for name, value in (*counted.items(), *gauges.items()):
        match = _NAME.match(name)
        if match is not None:
            samples.setdefault(match[1], {})[name] = value
    lines = list(_lines(samples, openmetrics=openmetrics))
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def gauges_of(figures: FiguresAnswer, now: float) -> dict[str, float]:
    """What the stores and sessions of all processes say, as samples."""
    gauges = {
        "relayd_waiting_messages": float(figures["messages"]),
        "relayd_waiting_bytes": float(figures["octets"]),
        "relayd_open_sessions": float(figures["sessions"]),
        "relayd_deliveries": float(figures["deliveries"]),
        "relayd_spool_healthy": float(figures["healthy"]),
    }
    for name, received in sorted(figures["oldest"].items())[:_MOST_HOPS]:
        label = name.replace("\\", "\\\\").replace('"', '\\"')
        gauges[f'relayd_oldest_seconds{{next_hop="{label}"}}'] = round(max(now - received, 0.0), 3)
    return gauges


def _lines(samples: Mapping[str, Mapping[str, float]], *, openmetrics: bool) -> Iterator[str]:
    for family, kind, about in FAMILIES:
        found = samples.get(family)
        if not found:
            continue
        name = f"{family}_total" if kind == "counter" and not openmetrics else family
        yield f"# HELP {name} {about}"
        yield f"# TYPE {name} {kind}"
        if kind == "histogram":
            yield from _buckets(family, found)
        else:
            for sample, value in found.items():
                yield f"{sample} {_number(value)}"


def _buckets(family: str, found: Mapping[str, float]) -> Iterator[str]:
    """Each bucket holds those below it, too."""
    total = 0.0
    for sample, value in found.items():
        if "_bucket" in sample:
            total += value
            yield f"{sample} {_number(total)}"
    yield f"{family}_sum {_number(found.get(f'{family}_sum', 0.0))}"
    yield f"{family}_count {_number(total)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
