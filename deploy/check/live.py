"""Asks a running Prometheus every expression of the rules and dashboards. Argument: its address.

live.sh runs it, from the root of the project, on a Prometheus that has scraped two drawn streams, one source that cannot be
reached, and a shadow.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

from check import dashboards, expressions, walk_json

# Series that such a run does not have: no class comes on air, no pack is updated, no incident happens.
MAY_BE_EMPTY = [
    "touchline_events_total",
    "touchline_pack_updates_total",
    "touchline_runs_started_total",
    "touchline_source_incidents_total",
]


def ask(address, expression):
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        return json.load(error)["error"]


def main():
    address = sys.argv[1]
    boards = {path.name for path in dashboards()}
    failed, empty, asked = [], [], 0
    for place, expression in expressions():
        # The window is as short as the run. What a stream that is well has not, the one that cannot be reached has.
        expression = expression.replace('=~"any"', '=~".*"').replace("[5m]", "[1m]")
        result = []
        for stream in ("pattern", "away"):
            result = result or ask(address, expression.replace('stream="any"', f'stream="{stream}"'))
        asked += 1
        if isinstance(result, str):
            failed.append(f"{place}: {result}: {expression}")
        # An alert's expression without data is an alert that is silent.
        elif not result and place in boards and not any(name in expression for name in MAY_BE_EMPTY):
            empty.append(f"{place}: {expression}")
    for alert in ask(address, "ALERTS"):
        labels = alert["metric"]
        print(f"  {labels['alertstate']}: {labels['alertname']} {labels.get('stream', '')}")
    for text in failed:
        print(f"  WRONG {text}", file=sys.stderr)
    for text in empty:
        print(f"  NO DATA {text}", file=sys.stderr)
    print(f"  {asked} expressions asked, {len(failed)} refused, {len(empty)} without data that should have some")
    return 1 if failed or empty else 0


if __name__ == "__main__":
    sys.exit(main())
