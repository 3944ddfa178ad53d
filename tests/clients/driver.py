"""The tests' hand on python-socketio: `driver.mjs` with another client, told the same things in the same words.

python driver.py PORT    connects to the test at PORT
"""

import base64
import json
import os
import socket
import sys
import threading

import socketio

test = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
lines = test.makefile("r", encoding="utf-8", newline="\n")
telling = threading.Lock()
clients = {}


def tell(line):
    with telling:
        test.sendall(json.dumps(line).encode() + b"\n")


def outward(value):
    if isinstance(value, (bytes, bytearray)):
        return {"$binary": base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [outward(item) for item in value]
    if isinstance(value, dict):
        return {name: outward(field) for name, field in value.items()}
    return value


def inward(value):
    if isinstance(value, list):
        return [inward(item) for item in value]
    if isinstance(value, dict):
        if isinstance(value.get("$binary"), str):
            return base64.b64decode(value["$binary"])
        return {name: inward(field) for name, field in value.items()}
    return value


def connect(name, port, auth, options):
    client = socketio.Client(reconnection_delay=0.5, reconnection_delay_max=2)
    state = clients[name] = {"client": client, "auth": auth, "cursor": None}
    # Its transport starts a thread for each message, and threads overtake each other. Here they are told in order.
    trigger = client.eio._trigger_event
    client.eio._trigger_event = lambda event, *args, **how: trigger(event, *args, **{**how, "run_async": False})

    def happened(event, *args):
        tell({"name": name, "event": event, "args": outward(args)})

    state["happened"] = happened

    def give():
        after = {"after": state["cursor"]} if options.get("follow") and state["cursor"] else {}
        return {**state["auth"], **after}

    @client.on("*")
    def any_event(event, *args):
        if args and isinstance(args[0], dict):
            state["cursor"] = args[0].get("cursor", state["cursor"])
        happened(event, *args)

    @client.on("connect")
    def connected():
        happened("$connect")

    @client.on("disconnect")
    def disconnected(reason=None):
        happened("$disconnect", {"reason": reason})

    @client.on("connect_error")
    def refused(problem=None):
        problem = problem if isinstance(problem, dict) else {"message": str(problem)}
        happened("$connect_error", problem)

    def run():
        try:
            # It upgrades by itself where websocket is among the transports.
            client.connect(f"http://127.0.0.1:{port}", auth=give, transports=options.get("transports"), retry=True)
        except socketio.exceptions.ConnectionError as error:
            happened("$gave_up", str(error))

    threading.Thread(target=run, daemon=True).start()


def emit(id, name, event, payloads):
    """All in this order; the answer is the acks."""
    client = clients[name]["client"]
    acks = [None] * len(payloads)
    missing = [len(payloads)]
    counting = threading.Lock()

    def acked(number):
        def one(*args):
            clients[name]["happened"]("$acked", event, *args)
            acks[number] = outward(args)
            with counting:
                missing[0] -= 1
                last = missing[0] == 0
            if last:
                tell({"id": id, "answer": acks})

        return one

    for number, payload in enumerate(payloads):
        client.emit(event, inward(payload), callback=acked(number))


for line in lines:
    command = json.loads(line)
    id, do, name = command["id"], command["do"], command["name"]
    answer = None
    if do == "connect":
        connect(name, command["port"], command["auth"], command["options"])
    elif do == "auth":
        clients[name]["auth"] = command["auth"]
    elif do == "emit":
        emit(id, name, command["event"], command["payloads"])
        continue
    elif do == "transport":
        answer = clients[name]["client"].transport()
    elif do == "connected":
        answer = clients[name]["client"].connected
    elif do == "disconnect":
        clients[name]["client"].disconnect()
    tell({"id": id, "answer": answer})
# The test has ended; threads that wait for a server do not hold this up.
os._exit(0)
