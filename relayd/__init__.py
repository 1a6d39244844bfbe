"""relayd: a mail forwarder and relay appliance on Twisted."""

__version__ = "0.1.0"
