"""The first five minutes: a relayd, a next hop that stores, and one message all the way."""
