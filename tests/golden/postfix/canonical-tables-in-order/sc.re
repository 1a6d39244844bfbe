/^(.*)@h[0-9]\.example$/ $1@hosts.example
/^root@/ ops@hosts.example
/^x(.*)@swap\.example$/ y$1@hosts.example
