"""Directories that tables are read from: databases, LDAP, HTTP; each by a process of its own."""
