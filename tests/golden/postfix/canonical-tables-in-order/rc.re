/^(.*)@old\.r\.example$/ $1@r.example
/^(.*)@older\.r\.example$/ $1@old.r.example
