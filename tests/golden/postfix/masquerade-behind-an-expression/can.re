/^(.*)@host([0-9]+)\.example\.com$/ $1.h$2@lab.example.com
/^admin@lab\.example\.com$/ admins@lab.example.com
