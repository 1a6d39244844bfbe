/^[^@]*\.[^@]*@mb\.example$/ ok
/^postmaster@/ ok
