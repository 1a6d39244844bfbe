"""The parts of a message (RFC 2045, RFC 2046): where they are, and how they are put in 7 bits."""
