"""TLS in both roles: contexts, certificates that renew themselves, and what a peer must prove."""
