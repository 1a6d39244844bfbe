"""Whole relayds between real mail servers, seen only from outside."""
