/^(.*)@(www\.)?brand([0-9]+)\.example$/ brand$3+$1@far.example
/^(info|sales)@old\.test$/ $1@new.example ${1}-copy@far.example
