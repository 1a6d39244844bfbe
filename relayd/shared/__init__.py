"""Memory that all workers see: counters, session counts, sliding windows."""
