"""The words of smtpd's restriction lists: which lists there are, and what is known of each word."""

from __future__ import annotations

LISTS = {
    "smtpd_client_restrictions": "client",
    "smtpd_helo_restrictions": "helo",
    "smtpd_sender_restrictions": "sender",
    "smtpd_relay_restrictions": "recipient",
    "smtpd_recipient_restrictions": "recipient",
    "smtpd_data_restrictions": "recipient",
    "smtpd_end_of_data_restrictions": "recipient",
}
"""In the order in which they count, each with what an access map in it is asked about."""
RELAYING = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
UNAUTH = ("reject_unauth_destination", "defer_unauth_destination", "check_relay_domains")
ENDS = ("reject", "defer", "defer_if_permit", *UNAUTH)
OLD = "permit_mynetworks, reject_unauth_destination"  # what Postfix 2 did where nothing was said
_ARGUMENT = (
    "check_",
    "reject_rbl",
    "reject_rhsbl",
    "permit_dnswl",
    "permit_rhswl",
    "sleep",
    "reject_plaintext_session_",
)
_NO_ARGUMENT = ("check_relay_domains", "check_recipient_maps")

# Filters against unwanted mail that ask strangers (DNS, other servers), or look at how a client
# speaks. They say nothing of who may relay and where mail goes, so without them the rest stands.
_PTR = "relayd takes a client's name only where it leads back to him: `rdns none` asks more of him"
_FORM = "relayd does not look at the form of that name"
_NO_NAME = (
    r"^[0-9.]+$",
    r"^[^\[].*[^a-z0-9._-]",
    r"^[.-]|-$|\.\.|-\.|\.-",
    r"^\[(?!(?:\d{1,3}\.){3}\d{1,3}\]$|ipv6:[0-9a-f:.]+\]$)",
)
HELO_FORMS = {
    "reject_invalid_helo_hostname": _NO_NAME[1:],
    "reject_non_fqdn_helo_hostname": (r"^[^\[.][^.]*\.?$", *_NO_NAME),
}
"""Names that Postfix takes for none, or for no whole one."""
SAME = {
    "reject_invalid_hostname": "reject_invalid_helo_hostname",
    "reject_non_fqdn_hostname": "reject_non_fqdn_helo_hostname",
    "reject_unknown_client": "reject_unknown_client_hostname",
    "reject_unknown_hostname": "reject_unknown_helo_hostname",
    "reject_unknown_address": "reject_unknown_sender_domain",
}
"""Names of Postfix 2."""
RECORDS = (
    "reject_unknown_sender_domain",
    "reject_unknown_recipient_domain",
    "reject_unknown_helo_hostname",
    "reject_unknown_reverse_client_hostname",
)
"""They look up whether mail could go to a name, or whether an address has one."""
BY_NAME = {
    "reject_rhsbl_client": ("rdns", "client host"),
    "reject_rhsbl_reverse_client": ("ptr", "unverified client host"),
    "reject_rhsbl_helo": ("helo", "helo command"),
    "reject_rhsbl_sender": ("sender", "sender address"),
    "reject_rhsbl_recipient": ("recipient", "recipient address"),
}
"""Lists of names: by which name they are asked, and what is blocked."""
_ZONE = "its zone, or the answers that count, are not understood"
_PROBE = "relayd does not ask for a sender's mailbox where his mail would go"
FILTERS = {
    "reject_rbl_client": _ZONE,
    **dict.fromkeys(BY_NAME, _ZONE),
    "reject_maps_rbl": "maps_rbl_domains names no list",
    "reject_unknown_forward_client_hostname": _PTR,
    "reject_unverified_recipient": "write `reject to @... when unknown at NEXT-HOP` for these",
    "reject_unverified_sender": _PROBE,
    "reject_unverified_address": _PROBE,
}
"""Known, and left out: the report names each."""
ANYWAY = {
    "reject_unauth_pipelining": "a client out of step is refused anyway",
    "reject_unlisted_recipient": "unknown recipients are refused at RCPT in any case",
    "check_recipient_maps": "unknown recipients are refused at RCPT in any case",
    "reject_multi_recipient_bounce": "a report with many recipients is decided for each",
    "sleep": "a pause decides nothing",
    "check_etrn_access": "relayd has no ETRN",
}
PERHAPS = {
    "permit_tls_clientcerts": ("tls", "relayd has not those certificates' fingerprints"),
    "permit_tls_all_clientcerts": ("tls", "relayd has not those certificates' authorities"),
    "permit_mx_backup": ("", "relayd does not ask whose MX this host is"),
    "permit_dnswl_client": ("", _ZONE),
    "permit_rhswl_client": ("", _ZONE),
    "permit_naked_ip_address": ("", _FORM),
    "defer_if_reject": ("", "what would be refused is asked to come later"),
}
"""Who passes by them cannot be told: what the list refuses behind them is asked to come later."""


def takes_argument(word: str) -> bool:
    """Whether the next word of the list belongs to this one."""
    return word not in _NO_ARGUMENT and word.startswith(_ARGUMENT)
