"""The nouns of mail: immutable values that every other package speaks in (no I/O, no clock)."""
