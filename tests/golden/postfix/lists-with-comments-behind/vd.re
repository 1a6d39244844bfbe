/^(www\.)?brand[0-9]+\.example$/ ok
/^old\.test$/ ok
