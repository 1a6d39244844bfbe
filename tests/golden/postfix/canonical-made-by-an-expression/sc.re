/^(.*)@host[0-9]+\.example\.com$/ ${1}@example.com
