#!/bin/bash
# TOKEN=… chat.sh http://127.0.0.1:3000 send USER TEXT    sends, and prints the message once it is durable
# TOKEN=… chat.sh http://127.0.0.1:3000 follow [CURSOR]   prints what happens, a name and JSON a line; misses nothing
url=$1 bearer="Authorization: Bearer $TOKEN"

# Without an answer, or with one that says "later", the same key goes again: it is recorded once.
send() {
  local text=$2 answer key=$(</proc/sys/kernel/random/uuid)
  text=${text//\\/\\\\} text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\t'/\\t}
  until answer=$(curl -sS --max-time 30 --fail-with-body -H "$bearer" -H "Idempotency-Key: $key" \
    -H 'Content-Type: application/json' -d "{\"receiver_id\":\"$1\",\"text\":\"$text\"}" "$url/v1/messages"); do
    [[ $answer != *'"status":4'* ]] || { echo "$answer" >&2; return 1; }
    sleep 1
  done
  echo "$answer"
}

follow() {
  local chain=$1 line event id data status=0
  while ((status != 22)); do # curl's exit code for an answer that refuses: a token, a parameter
    event='' id='' data=''
    while IFS= read -r line; do
      case $line in
        event:*) event=${line#event: } ;;
        id:*) id=${line#id: } ;;
        data:*) data=${line#data: } ;;
        '') # Each delivery names the one before it; if not, back to the last one. Ignore what you do not know.
          [[ ${event:-heartbeat} == heartbeat && $data && $data != *"\"prev\":\"$chain\""* ]] && echo lost && break
          [[ $id ]] && chain=$id
          [[ $data && $event != heartbeat ]] && echo "${event:-event} $data"
          event='' id='' data='' ;;
      esac
    done < <(curl -sSNf --speed-limit 1 --speed-time 45 -H "$bearer" -H 'Accept: text/event-stream' \
      ${chain:+-H "Last-Event-ID: $chain"} "$url/v1/events") # a heartbeat every 15 s: a silent stream is dead
    kill $! 2>/dev/null; wait $!; status=$?
    sleep 2
  done
  return 1
}
"${@:2}"
