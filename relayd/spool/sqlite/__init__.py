"""The store: SQLite in the spool directory, group-committed."""
