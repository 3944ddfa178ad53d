#!/bin/bash
# The user that the nodes connect as, with the rights that they need and no others. MySQL's image runs this once, after
# it has made the database. More arguments are the client's.
set -euo pipefail

# In a quoted text of MySQL's these two would not stand for themselves.
case $MYSQL_CHAT_PASSWORD in
*[\'\\]*) echo "MYSQL_CHAT_PASSWORD: no quotes and no backslashes" >&2 && exit 1 ;;
esac

MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql --user=root "$@" <<SQL
CREATE USER 'chat'@'%' IDENTIFIED BY '$MYSQL_CHAT_PASSWORD';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES ON chat.* TO 'chat'@'%';
SQL
