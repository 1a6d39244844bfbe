"""Makes `twistd relayd` known."""

from twisted.application.service import ServiceMaker

relayd = ServiceMaker(
    "relayd", "relayd.service.app", "A mail forwarder and relay appliance.", "relayd"
)
