"""The admin's language: settings and rules as text, as values, and as decisions (no I/O)."""
