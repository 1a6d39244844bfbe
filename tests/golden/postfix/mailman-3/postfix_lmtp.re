/^x-list@/ lmtp:foo
