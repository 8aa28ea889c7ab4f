#!/usr/bin/env python3
"""Prints the live decisions of a stream, with the client in deploy/clients/python.

    touchline run court=rtsp://camera.example/live
    python3 src/serve/examples/live.py court
    TOUCHLINE_TOKEN=... python3 src/serve/examples/live.py court https://touchline.example
"""

import os
import pathlib
import sys

# Not needed where the client is installed: pip install deploy/clients/python
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "deploy/clients/python"))

from touchline_client import ApiError, Client, LiveItem  # noqa: E402


def show(item: LiveItem) -> None:
    if item["type"] == "snapshot":
        print(f"{item['stream']}: {item['detail']['state']}")
    elif item["type"] == "second":
        window = item["window"]
        # With a vote stride above 1 the first seconds have no estimate yet.
        voted = f"{window['label']} {window['mean'][window['label']]:.0%}" if window["label"] else "no estimate yet"
        decided = f"{item['label']} {item['probability']:.0%} by {item['decided_by']}"
        print(f"{item['index']:>6}  {voted:<28} this second: {decided}")
    elif item["type"] == "gap":
        print(f"{item['index']:>6}  no decision: {item['reason']}")
    elif item["type"] == "event":
        print(f"{item['index']:>6}  {item['class']} {'on' if item['kind'] == 'onset' else 'off'} air")
    elif item["type"] == "state":
        print(f"{item['stream']}: {item['state']}" + (f" ({item['cause']})" if item["cause"] else ""))
    elif item["type"] == "lagged":
        print(f"too slow: {item['skipped']} records were skipped", file=sys.stderr)


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: live.py STREAM [URL]")
    url = sys.argv[2] if len(sys.argv) == 3 else "http://127.0.0.1:8080"
    client = Client(url, token=os.environ.get("TOUCHLINE_TOKEN"))
    try:
        for item in client.live(sys.argv[1]):
            show(item)
    except ApiError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
