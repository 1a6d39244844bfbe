"""Seeing and steering a running relayd: the mail log, the control socket, relayctl."""
