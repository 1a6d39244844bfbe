"""Processes and wiring: from the command line to the running service."""
