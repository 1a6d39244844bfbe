"""The SMTP and LMTP protocol core: bytes in, events and bytes out; no socket and no clock."""
