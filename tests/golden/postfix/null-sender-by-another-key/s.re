/^NOBODY$/ REJECT re
/^<>$/ REJECT re2
