"""Filter protocols as cores without sockets: milters, policy services, rspamd, clamd."""
