#!/bin/bash
# guard.sh FOLDER [PID_FILE COMMAND…]: ends what a test run has started when the test process ends, however it ends.
#
# Stdin is a pipe from the test process; it reaches its end when that process is gone, also after kill -9.
# With a COMMAND: runs it, writes its pid to PID_FILE, and exits with its exit code (128 + n after signal n).
#   At the end of stdin it stops the command: TERM, then KILL after five seconds.
# Without: removes FOLDER at the end of stdin, once no command runs in it (each guard holds a shared lock on it).
set -euo pipefail
folder=$1
shift
exec 9<"$folder"

if (($# == 0)); then
  while read -r _; do :; done
  flock --exclusive 9
  exec rm -rf -- "$folder"
fi

pid_file=$1
shift
flock --shared 9
"$@" </dev/null 9<&- &
command=$!
echo "$command" >"$pid_file"
# From here on the output belongs to the command alone.
exec >/dev/null 2>&1
(while read -r _; do :; done) <&0 9<&- &
end_of_test=$!

code=0
wait -n -p first "$command" "$end_of_test" || code=$?
if [[ $first == "$command" ]]; then
  kill "$end_of_test"
  exit "$code"
fi
kill -TERM "$command"
kill -CONT "$command"
sleep 5 9<&- &
timer=$!
wait -n -p first "$command" "$timer" || true
[[ $first == "$command" ]] || kill -KILL "$command"
kill "$timer" || true
wait "$command" || true
