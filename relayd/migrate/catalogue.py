"""Parameters of Postfix that become no statement, each with the reason, and what to do if any."""

from __future__ import annotations

import re

_TLS = "relayd has no such switch; what it has: docs/migrate-postfix.md"
_SASL = "logins are set up by hand, see docs/migrate-postfix.md"
_FILTER = "have its milter asked (`milter NAME ...`, `ask NAME`), or rspamd, or clamd"
_OWN_PROCESSES = "about Postfix's own programs and files"
_STORE = "about mailboxes on this machine, of which relayd has none"
_DELIVERY = "relayd finds its own pace: it starts with few deliveries and works its way up"
_PACE = "relayd finds the pace of each destination; write `pace` for those that are to have less"
_TABLES = "about how Postfix reads tables; relayd loads text"
_HEADERS = "relayd looks at header fields only to remove, add, replace or rewrite them by rules"
_WIRE = "relayd keeps the RFCs here, and has no such switch"

UNNEEDED = {
    "alias_database": "which tables newaliases(1) compiles; relayd reads the text",
    "biff": _STORE,
    "compatibility_level": "it chose the defaults that were translated",
    "append_at_myorigin": "the addresses in the tables were completed as it says",
    "append_dot_mydomain": "the addresses in the tables were completed as it says",
    "default_database_type": _TABLES,
    "home_mailbox": _STORE,
    "html_directory": _OWN_PROCESSES,
    "local_transport": _STORE,
    "mail_name": "relayd's greeting names relayd",
    "mailbox_size_limit": _STORE,
    "mynetworks_style": "mynetworks is given, or was made of it",
    "parent_domain_matches_subdomains": "the lists and tables were read as it says",
    "proxy_interfaces": "relayd knows itself by its listeners; a next hop that it is is refused",
    "queue_directory": "relayd's spool is its own; what waits in Postfix's queue is Postfix's to"
    " deliver: postqueue -f, and stop it when mailq is empty",
    "queue_run_delay": "relayd has no queue runs: each message has its own moment",
    "readme_directory": _OWN_PROCESSES,
    "smtpd_banner": "relayd's greeting is its host name",
    "smtpd_helo_required": "relayd takes mail without EHLO or HELO, too",
    "disable_vrfy_command": "VRFY tells nothing",
    "smtpd_delay_reject": "rules are always decided at RCPT",
    "strict_rfc821_envelopes": "relayd takes what Postfix takes, and makes it RFC 5321",
    "smtputf8_enable": "SMTPUTF8 is always offered",
    "respectful_logging": _OWN_PROCESSES,
    "smtpd_relay_before_recipient_restrictions": "a recipient has to pass both lists in any case",
    "smtpd_soft_error_limit": "relayd counts errors, and ends the session at errors-per-session",
    "header_size_limit": "relayd refuses a header section above header-size (1MiB)",
    "bounce_size_limit": "reports bring the header section, or all where RET=FULL asks for it",
    "propagate_unmatched_extensions": "a tag that found no entry of its own is carried on",
    "smtpd_restriction_classes": "its classes were read where a list or an entry names them",
    "smtpd_discard_ehlo_keywords": _WIRE,
    "notify_classes": "the log has all of it",
    "unknown_local_recipient_reject_code": "550",
}
"""By name."""

LOST = {
    "address_verify_map": "what next hops say of mailboxes is kept in the spool",
    "allow_percent_hack": "% and ! in a local part have no meaning",
    "always_bcc": "write `copy` rules: copy any to archive@example.com",
    "body_checks": _FILTER,
    "content_filter": _FILTER,
    "luser_relay": "write a catch-all: forward @example.com -> somebody@example.com",
    "mailbox_command": _STORE + ": let the store do it behind LMTP",
    "mailbox_transport_maps": "write `route to ... via` rules",
    "fallback_transport_maps": "write `route to ... via` rules",
    "recipient_bcc_maps": "write `copy` rules: copy to info@example.com to archive@example.com",
    "sender_bcc_maps": "write `copy` rules: copy sender ann@example.com to archive@example.com",
    "relay_clientcerts": "write `accept certificate SHA-256` for each of them",
    "smtp_bind_address": "only mail that goes by MX leaves from an address of its own",
    "smtp_bind_address6": "only mail that goes by MX leaves from an address of its own",
    "smtp_fallback_relay": "name two next hops in a route: route any via first, second",
    "fallback_relay": "name two next hops in a route: route any via first, second",
    "smtp_generic_maps": "write `rewrite sender` and `rewrite header` rules; they are for all mail",
    "smtp_helo_name": "relayd says its hostname",
    "smtpd_milters": "no listener asks them",
    "non_smtpd_milters": "write `ask` rules",
    "smtpd_milter_maps": "write `ask NAME when not from ...` for clients that are not asked about",
    "smtpd_etrn_restrictions": "relayd has no ETRN",
    "smtpd_client_message_rate_limit": "relayd limits sessions, not messages",
    "smtpd_client_recipient_rate_limit": "relayd limits sessions, not recipients",
    "swap_bangpath": "% and ! in a local part have no meaning",
    "undisclosed_recipients_header": "relayd adds no To field",
    "virtual_alias_expansion_limit": "at most 2000 addresses, 50 levels",
    "virtual_alias_recursion_limit": "at most 2000 addresses, 50 levels",
    "authorized_submit_users": "mail comes in by SMTP only",
    "default_privs": _STORE,
}
"""By name."""

_OFF = re.compile(r".*(_enable|_use_tls|_enforce_tls|_security_level|_wrappermode|_auth_only)\Z")
_FAMILIES: tuple[tuple[str, bool, str], ...] = (
    (
        r"smtpd?_tls_|lmtp_tls_|tls_|tlsproxy_|openssl_|smtp_use_tls|smtpd_use_tls|smtp_enforce_tls"
        r"|smtpd_enforce_tls",
        True,
        _TLS,
    ),
    (
        r"smtpd?_sasl_|lmtp_sasl_|cyrus_sasl_|broken_sasl_|send_cyrus_|smtp_sender_dependent_auth"
        r"|smtpd_sender_login_maps|smtpd_sasl",
        True,
        _SASL,
    ),
    (
        r"milter_.*(_timeout|macros|protocol|macro_.*)\Z|milter_command|milter_macro",
        False,
        "relayd and a milter agree on that by themselves",
    ),
    (r"milter_|non_smtpd_|internal_mail_filter", True, _FILTER),
    (
        r"postscreen_|dnsblog_|psc_|smtpd_policy_|address_verify_|unverified_",
        True,
        "relayd does not test how clients speak, and asks next hops and services in its own way",
    ),
    (r".*(header|body|mime)_checks\Z", True, _HEADERS),
    (r".*_generic_maps\Z|.*_bcc_maps\Z", True, "write rewrite or forward rules"),
    (
        r"virtual_(mailbox_base|mailbox_limit|uid_maps|gid_maps|minimum_uid|mailbox_lock)|mailbox_"
        r"|local_|deliver_|forward_path|mail_spool|recipient_delimiter_|allow_mail_to|export_env"
        r"|command_|biff|home_|sun_|dovecot_",
        False,
        _STORE,
    ),
    (
        r".*_destination_recipient_limit\Z",
        True,
        "not carried over: one transaction has up to 100 recipients",
    ),
    (
        r".*_(destination_(concurrency_limit|rate_delay)|transport_rate_delay"
        r"|initial_destination_concurrency)\Z|initial_destination_concurrency\Z",
        True,
        _PACE,
    ),
    (
        r".*_(delivery_slot_|destination_|minimum_delivery|recipient_(limit|refill)|extra_recipient"
        r"|initial_destination|transport_rate|time_limit\Z)",
        False,
        _DELIVERY,
    ),
    (
        r"(smtp|relay|lmtp|local|virtual|default|initial)_(destination|transport)_"
        r"|default_(process|recipient|delivery)|qmgr_|initial_|in_flow_|minimum_delivery|transport_retry"
        r"|defer_transports|smtp_connection_cache|smtp_connection_reuse|max_(idle|use)",
        False,
        _DELIVERY,
    ),
    (
        r"smtp_(helo|mail|rcpt|data|quit|rset|xforward|starttls)_timeout|smtp_mx_|smtp_.*timeout"
        r"|smtpd_.*timeout|smtpd_.*delay|smtpd_.*sleep",
        False,
        "relayd's own time-outs: RFC 5321 section 4.5.3.2",
    ),
    (
        r"(access_map|invalid_hostname|maps_rbl|multi_recipient|non_fqdn|plaintext_reject|reject|relay"
        r"_domains|unknown_(address|client|hostname|virtual|relay)|unverified)_.*code",
        False,
        "replies stand in the rules",
    ),
    (
        r".*_(directory|program|service|service_name|logfile|facility)\Z|mail_owner\Z|setgid_group\Z"
        r"|syslog_|maillog_|debug(ger|_)|daemon_|ipc_|fork_|stale_|trigger_|multi_|import_env|master_"
        r"|process_id|hash_queue|flush_|fast_flush|anvil_|application_event|sendmail_|shlib|meta_|proxy_"
        r"|berkeley|lmdb_|nis_|enable_(original|long)|mail_release|mail_version|backwards_|helpful_"
        r"|newaliases_|mailq_|manpage_|sample_|config_|data_|tcp_window|postlog|smtpd_log|log_",
        False,
        _OWN_PROCESSES,
    ),
    (r"(smtp|smtpd|lmtp)_", True, "relayd has no such switch; see docs/migrate-postfix.md"),
)


def about(name: str, value: str = "") -> tuple[bool, str] | None:
    """Whether something is lost, and the reason; None: nothing is known of the parameter."""
    if value.lower() in ("no", "none") and _OFF.match(name):
        return False, "it is switched off"
    if name in UNNEEDED:
        return False, UNNEEDED[name]
    if name in LOST:
        return True, LOST[name]
    for family, lost, why in _FAMILIES:
        if re.match(f"(?:{family})", name):
            return lost, why
    return None
