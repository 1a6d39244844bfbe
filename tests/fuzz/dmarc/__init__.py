"""DMARC beside others: each reads cases from its input, a line each, and writes what it says."""
