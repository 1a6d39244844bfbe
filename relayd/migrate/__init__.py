"""`relayctl import postfix`: a Postfix configuration becomes ours; each setting's fate is told."""
