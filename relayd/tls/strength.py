"""How strong TLS has to be: protocol versions and ciphers, for both roles."""

from __future__ import annotations

from OpenSSL import SSL

VERSIONS = {
    "1.0": SSL.TLS1_VERSION,
    "1.1": SSL.TLS1_1_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}
DEFAULT_MINIMUM = "1.2"

# Forward secrecy and authenticated encryption only (RFC 9325 section 4.2). TLS 1.3 has nothing
# else; what an opportunistic peer cannot do of this it has not been able to do since 2012 or so.
_MODERN = b"ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
# What TLS 1.0 and 1.1 know, and OpenSSL 3 calls too weak for its level 1
_OLD = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:RSA+AES:!aNULL:!eNULL:@SECLEVEL=0"
# To a next hop: better an old cipher than none. Level 1 still refuses what anybody can break.
_OUTBOUND = (
    b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:RSA+AES"
    b":!aNULL:!eNULL:@SECLEVEL=1"
)


def server_context(minimum: str = DEFAULT_MINIMUM) -> SSL.Context:
    """A context for sessions of ours, without certificates yet."""
    context = _context(SSL.TLS_SERVER_METHOD, minimum)
    context.set_cipher_list(_MODERN if minimum >= DEFAULT_MINIMUM else _OLD)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_options(SSL.OP_NO_RENEGOTIATION)  # type: ignore[attr-defined]  # stubs are older
    # several workers and no shared ticket keys: a ticket would be of no use (and live too long)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"relayd")  # wanted where client certificates are asked for
    return context


def client_context(minimum: str = DEFAULT_MINIMUM) -> SSL.Context:
    """A context for connections to next hops, without trust in anybody yet."""
    context = _context(SSL.TLS_CLIENT_METHOD, minimum)
    context.set_cipher_list(
        _OUTBOUND if minimum >= DEFAULT_MINIMUM else _OUTBOUND.replace(b"LEVEL=1", b"LEVEL=0")
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


def _context(method: int, minimum: str) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(VERSIONS[minimum])
    context.set_options(SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # or every idle session holds 34 kB
    return context
