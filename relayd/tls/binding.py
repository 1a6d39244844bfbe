"""Channel bindings of a TLS connection, for SCRAM's -PLUS (RFC 5929, RFC 9266)."""

from __future__ import annotations

from typing import Any

_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 section 4.2
_SIZE = 32  # octets


def channel_bindings(connection: Any) -> dict[str, bytes]:  # noqa: ANN401  # a pyOpenSSL one
    """What both ends can compute, by name; empty where nothing of it is safe.

    tls-exporter only: it is unique by itself in TLS 1.3. Below, it would need the extended master
    secret, of which pyOpenSSL does not tell, and so would tls-unique.
    """
    if connection.get_protocol_version_name() != "TLSv1.3":
        return {}
    material = connection.export_keying_material(_LABEL, _SIZE, b"")
    return {"tls-exporter": bytes(material)}
