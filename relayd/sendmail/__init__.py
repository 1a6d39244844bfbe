"""The sendmail command, and the writing side of the drop folder."""
