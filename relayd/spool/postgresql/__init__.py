"""The spool in PostgreSQL: one queue for several gateways."""
