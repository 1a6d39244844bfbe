"""The relay manager: what is due goes to its next hop, and one outcome per recipient comes back."""
