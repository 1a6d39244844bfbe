"""Tables: named lists and maps, and the files that they are read from."""
