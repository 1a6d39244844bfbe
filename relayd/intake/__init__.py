"""Intake: listeners, sessions, and the reception that says 250 only after the commit."""
