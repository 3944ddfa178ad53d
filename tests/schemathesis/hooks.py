"""What no schema can say of a right request: which messages and cursors there are, and that a key is used once.

Only requests that follow the document are touched, so that most of them are about something; those that are wrong on
purpose go out as they were made. CHAT_TEST_DATA holds the ids of messages between alice, whose the token is, and bob, and
cursors of the log.
"""

import itertools
import json
import os

import schemathesis

DATA = json.loads(os.environ["CHAT_TEST_DATA"])
NUMBERS = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    number = next(NUMBERS)
    operation = case.operation.definition.raw["operationId"]
    headers, query, body = case.headers or {}, case.query or {}, case.body
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"{headers['Idempotency-Key'][:40]}-{number}"
    # What a service sends as another is not its own to read, so the next step would look for it in vain.
    if "Act-As" in headers and case.meta.phase.name.value == "stateful":
        headers["Act-As"] = "alice"
    # A query names one place to go on after.
    if "after" in query:
        query.pop("last_event_id", None)
    # Every fourth is left to chance: what there is not, and whoever there is not.
    if number % 4 == 3:
        return
    if operation == "get_message":
        case.path_parameters["_id"] = DATA["messages"][number % len(DATA["messages"])]
    if operation == "send_receipt":
        if "Act-As" in headers:
            headers["Act-As"] = ["alice", "bob"][number % 2]
        body["up_to"] = DATA["messages"][number % len(DATA["messages"])]
    if operation == "stream_events":
        cursor = DATA["cursors"][number % len(DATA["cursors"])]
        if headers.get("Last-Event-ID"):
            headers["Last-Event-ID"] = cursor
        for name in ("after", "last_event_id"):
            if query.get(name):
                query[name] = cursor


@schemathesis.hook
def map_query(context, query):
    """A poll that waits makes the run long, and shows nothing else. What is not within the bounds stays."""
    if context.operation.definition.raw["operationId"] == "stream_events" and query is not None:
        query.setdefault("wait", 0)
        if query["wait"] in range(1, 61):
            query["wait"] = 0
    return query
