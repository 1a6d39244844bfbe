"""Filters: milters, policy services, rspamd, clamd. Cores without sockets, and who connects them."""
