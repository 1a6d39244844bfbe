"""relayctl, and what it runs."""
