#!/usr/bin/env python3
"""Prints the live decisions of a stream: a client for server-sent events, standard library only.

    touchline run court=rtsp://camera.example/live
    python3 src/serve/examples/live.py court
    TOUCHLINE_TOKEN=... python3 src/serve/examples/live.py court https://touchline.example

The connection starts with a `snapshot`. Then each `second`, `gap`, `event`, `state`, `incident` and `pack` follows as one event
whose data is a record (`/api/v1/schema`). A client that reads too slowly gets `lagged` and a new `snapshot`. The stream ends after
the state `removed`.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# The server sends a comment every 10 s. After this much silence, seconds, the connection is dead.
SILENCE = 30
# Pause before a reconnect, seconds.
RETRY = 2


def events(response):
    """Yields (event, data) of a response in the format of server-sent events."""
    event, data = "message", []
    for line in response:
        line = line.decode().rstrip("\r\n")
        if not line:
            if data:
                yield event, "\n".join(data)
            event, data = "message", []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                event = value
            elif field == "data":
                data.append(value)


def show(event, record):
    """Prints a record. Returns False after the last one of the stream."""
    if event == "snapshot":
        print(f"{record['id']}: {record['state']}")
    elif event == "second":
        decided, window = record["label"], record["window"]
        # With a vote stride above 1 the first seconds have no estimate yet.
        voted = f"{window['label']} {window['mean'][window['label']]:.0%}" if window["label"] else "no estimate yet"
        print(f"{record['index']:>6}  {voted:<28} this second: {decided} {record['probability']:.0%} by {record['decided_by']}")
    elif event == "gap":
        print(f"{record['index']:>6}  no decision: {record['reason']}")
    elif event == "event":
        print(f"{record['index']:>6}  {record['class']} {'on' if record['kind'] == 'onset' else 'off'} air")
    elif event == "state":
        print(f"{record['stream']}: {record['state']}" + (f" ({record['cause']})" if record["cause"] else ""))
        return record["state"] != "removed"
    elif event == "lagged":
        print(f"too slow: {record['skipped']} records were skipped", file=sys.stderr)
    return True


def follow(url, token):
    """Follows one connection. Returns False after the last record of the stream."""
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=SILENCE) as response:
        return all(show(event, json.loads(data)) for event, data in events(response))


def main():
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: live.py STREAM [URL]")
    server = sys.argv[2] if len(sys.argv) == 3 else "http://127.0.0.1:8080"
    url = f"{server.rstrip('/')}/api/v1/streams/{urllib.parse.quote(sys.argv[1], safe='')}/live"
    token = os.environ.get("TOUCHLINE_TOKEN")
    while True:
        try:
            if not follow(url, token):
                return
        except urllib.error.HTTPError as error:
            # 401, 403, 404: a retry would not help. 429 and 5xx may pass.
            if error.code != 429 and error.code < 500:
                sys.exit(f"{url}: {error.code} {error.read().decode()}")
            print(f"{url}: {error.code}; retrying", file=sys.stderr)
        except OSError as error:
            print(f"{url}: {error}; retrying", file=sys.stderr)
        time.sleep(RETRY)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
