"""Holds values to JSON Schemas: a line {"schema": …, "value": …} in, a line with the list of what is wrong out.

A schema is sent once, and after that its number in the order of coming.
"""

import json
import sys

import jsonschema_rs

validators = []
for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked["schema"], int):
        validator = validators[asked["schema"]]
    else:
        validator = jsonschema_rs.validator_for(asked["schema"])
        validators.append(validator)
    wrong = [
        "/".join(map(str, ["", *error.instance_path])) + ": " + error.message
        for value in asked["values"]
        for error in validator.iter_errors(value)
    ]
    print(json.dumps([validator.is_valid(value) for value in asked["values"]] if asked.get("brief") else wrong), flush=True)
