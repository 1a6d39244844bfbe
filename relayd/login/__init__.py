"""Login: SASL mechanisms for both roles, stored credentials, and the pace of failed tries."""
