"""Reports to senders about what became of their mail: when they are owed, and how they read."""
