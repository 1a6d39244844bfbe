"""The spool: what is on disk, and so what relayd has promised."""
