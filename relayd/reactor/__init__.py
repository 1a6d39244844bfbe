"""What relayd does to Twisted: the lean reactor, writes, coroutines, the pipe to a worker."""
