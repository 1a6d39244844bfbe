"""Content in files, and the disk they lie on."""
