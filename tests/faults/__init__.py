"""The proof of the promises: relayd is broken on purpose, and an oracle counts the mail."""
