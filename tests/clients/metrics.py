"""Reads the text of /metrics from stdin with Prometheus' own parser, and once more as OpenMetrics, which is strict about
what the older form lets pass. Prints the families as JSON."""

import json
import re
import sys

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()
families = [
    {
        "name": family.name,
        "type": family.type,
        "help": family.documentation,
        "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
    }
    for family in text_string_to_metric_families(text)
]

# OpenMetrics names a counter's family without `_total`, writes the bounds of buckets as floats, knows no empty lines, and
# has an end.
strict, counters = [], set()
for line in text.splitlines():
    words = line.split(" ", 3)
    if words[:2] == ["#", "TYPE"] and words[3] == "counter":
        counters.add(words[2])
for line in filter(None, text.splitlines()):
    words = line.split(" ", 3)
    if words[0] == "#" and words[2] in counters:
        words[2] = words[2].removesuffix("_total")
    strict.append(re.sub(r'le="(\d+)"', r'le="\1.0"', " ".join(words)))
list(openmetrics.text_string_to_metric_families("\n".join([*strict, "# EOF\n"])))

json.dump(families, sys.stdout)
