"""Who vouches for a message: SPF, DKIM, DMARC and how it is written down. No socket, no clock."""
