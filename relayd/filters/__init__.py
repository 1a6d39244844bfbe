"""Filters: their protocols as cores without sockets, and the connections that carry them."""
