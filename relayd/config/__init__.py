"""Configuration: relayd.conf and its rule files as one frozen Settings, or all errors at once."""

from relayd.config.contents import contents
from relayd.config.default import DEFAULT, embedded
from relayd.config.load import ConfigErrors, load, load_text, statements
from relayd.config.settings import Listener, Settings

__all__ = [
    "DEFAULT",
    "ConfigErrors",
    "Listener",
    "Settings",
    "contents",
    "embedded",
    "load",
    "load_text",
    "statements",
]
