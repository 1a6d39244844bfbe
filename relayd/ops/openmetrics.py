"""The figures as text, in OpenMetrics 1.0 and in Prometheus's older form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from relayd.ops.answers import FiguresAnswer, HookStatusAnswer

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
    ("relayd_reports_kept", "counter", "Reports that strangers did not get."),
    (
        "relayd_forecasts",
        "counter",
        "Copies of which was foreseen how they fare, by who was right.",
    ),
    ("relayd_commit_writes", "counter", "Requests that the spool has committed."),
    ("relayd_troubles", "counter", "Lines of trouble in the log, by their event."),
    ("relayd_hook_events", "counter", "Events for webhooks, by what became of them."),
    ("relayd_hook_retries", "counter", "Requests to a webhook's receiver that were in vain."),
    ("relayd_log_dropped", "counter", "Lines of the log that nobody read in time."),
    ("relayd_reloads", "counter", "Configurations put in force while running."),
    ("relayd_accept_seconds", "histogram", "From the final dot to 250."),
    ("relayd_commit_seconds", "histogram", "What a commit of the spool takes, with its fsync."),
    ("relayd_delivery_seconds", "histogram", "From 250 to the next hop's 250, of a recipient."),
    ("relayd_waiting_messages", "gauge", "Messages that wait."),
    ("relayd_waiting_bytes", "gauge", "Their content."),
    ("relayd_oldest_seconds", "gauge", "Age of the oldest message that waits, by its next hop."),
    ("relayd_provider_oldest_seconds", "gauge", "Age of the oldest message for a provider."),
    ("relayd_provider_rate", "gauge", "Messages a second for a provider; none: as they come."),
    ("relayd_provider_slowed", "gauge", "1 while a provider has asked for less."),
    ("relayd_provider_blocked", "gauge", "1 while a provider takes nothing of ours."),
    ("relayd_open_sessions", "gauge", "Sessions of clients now."),
    ("relayd_deliveries", "gauge", "Deliveries under way now."),
    ("relayd_spool_healthy", "gauge", "1 while every shard of the spool can record."),
    ("relayd_disk_free_bytes", "gauge", "Room left where the spool is."),
    ("relayd_hook_waiting", "gauge", "Events that wait for a webhook's receiver."),
    ("relayd_hook_oldest_seconds", "gauge", "Age of the one that waits longest."),
    ("relayd_hook_failing", "gauge", "1 while a receiver does not take them."),
    ("relayd_configuration_refused", "gauge", "1 while what is on disk is not in force."),
    ("relayd_configuration_time_seconds", "gauge", "Since when it is in force, since the epoch."),
    ("relayd_rules_info", "gauge", "1, with the hash of the rules in force."),
    ("relayd_certificate_expiry_seconds", "gauge", "When it is over, since the epoch."),
    ("relayd_workers", "gauge", "Processes that move mail, as configured."),
    ("relayd_workers_ready", "gauge", "Those that serve."),
    ("relayd_start_time_seconds", "gauge", "When relayd was started, since the epoch."),
    ("relayd_build_info", "gauge", "1, with the version."),
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_MOST_HOPS = 100
_MOST_PROVIDERS = 40
_MOST_HOOKS = 40
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
        label = label_value(name)
        gauges[f'relayd_oldest_seconds{{next_hop="{label}"}}'] = round(max(now - received, 0.0), 3)
    for name, each in sorted(figures["providers"].items())[:_MOST_PROVIDERS]:
        label = f'{{provider="{label_value(name)}"}}'
        if each["oldest"]:
            age = round(max(now - each["oldest"], 0.0), 3)
            gauges[f"relayd_provider_oldest_seconds{label}"] = age
        if each["rate"]:
            gauges[f"relayd_provider_rate{label}"] = round(each["rate"], 4)
        gauges[f"relayd_provider_slowed{label}"] = float(each["slowed"])
        gauges[f"relayd_provider_blocked{label}"] = float(each["blocked"])
    return gauges


def hook_figures(hooks: Sequence[HookStatusAnswer], now: float) -> dict[str, float]:
    """What is known of webhooks, as samples; their counters last longer than relayd runs."""
    samples: dict[str, float] = {}
    for each in hooks[:_MOST_HOOKS]:
        name = f'hook="{label_value(each["name"])}"'
        samples[f'relayd_hook_events_total{{{name},result="sent"}}'] = float(each["sent"])
        samples[f'relayd_hook_events_total{{{name},result="dropped"}}'] = float(each["dropped"])
        samples[f"relayd_hook_retries_total{{{name}}}"] = float(each["retries"])
        samples[f"relayd_hook_waiting{{{name}}}"] = float(each["waiting"])
        age = round(max(now - each["oldest"], 0.0), 3) if each["oldest"] else 0.0
        samples[f"relayd_hook_oldest_seconds{{{name}}}"] = age
        samples[f"relayd_hook_failing{{{name}}}"] = float(bool(each["trouble"]))
    return samples


def label_value(text: str) -> str:
    """As it stands between the quotes of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


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
