"""Names to addresses: dnspython's resolver on Twisted, cached and coalesced."""
