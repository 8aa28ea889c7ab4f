#!/usr/bin/env python3
"""What the wall costs: the server's processor time for its viewers, bytes a second of a viewer, and the processor time of a browser.

Starts `touchline run` with N test streams that it draws itself, and viewers that do what the page does: one event stream of all streams, and
the pictures of all tiles in one answer, as often as the page asks for them. Times with and without viewers alternate, so that what else
the machine does is in both. The time of the program comes from /proc. Then a headless Chromium shows the wall.

The streams are colour bars, which are not classified: inference would take a core, and its variation is larger than what is measured. With
--source 'testsrc://?width=320&height=180&fps=2&audio=0' they are classified.

    cargo build --release
    python3 benches/wall.py [--streams 64] [--viewers 10] [--pairs 6] [--seconds 20] [--parts events,pictures] [--no-browser]

The limit is 2 % of a core for ten viewers. Needs chromedriver for the browser.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

# As src/serve/http/page/feed.js and pictures.js.
KINDS = "stream,estimate,state,incident,expectation"
PER_TILE_S = 0.075
WIDTH = 160
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pid):
    """Processor time of a process with all its threads."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def server_seconds(pid):
    """Processor time of the threads that serve HTTP. Those of the streams vary more than what is measured."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            name, rest = open(f"/proc/{pid}/task/{task}/stat").read().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name.startswith("tokio"):
            fields = rest.split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def tree(root):
    """The processes below `root`, with it."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(name)] = int(open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, more = {root}, True
    while more:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
    return found


def viewer(port, ids, parts, stop, counts):
    """One page: reads events and asks for pictures until `stop` is set. Adds the bytes of both to `counts`."""

    def events():
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(0.5)
            connection.sendall(f"GET /api/v1/live?type={KINDS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while not stop.is_set():
                try:
                    data = connection.recv(1 << 16)
                except TimeoutError:
                    continue
                if not data:
                    raise SystemExit("the event stream ended")
                with counts.get_lock():
                    counts[0] += len(data)

    reader = threading.Thread(target=events if "events" in parts else stop.wait)
    reader.start()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not stop.is_set():
        if "pictures" not in parts:
            break
        began = time.monotonic()
        connection.request("GET", f"/api/v1/preview?stream={','.join(ids)}&width={WIDTH}")
        answer = connection.getresponse()
        body = answer.read()
        with counts.get_lock():
            counts[1] += len(body)
            counts[2] += 1
        stop.wait(max(0.0, max(1.0, len(ids) * PER_TILE_S) - (time.monotonic() - began)))
    reader.join()


def measured(pid, seconds):
    """Shares of a core that the program takes, and of it the threads that serve HTTP."""
    before, began = (cpu_seconds(pid), server_seconds(pid)), time.monotonic()
    time.sleep(seconds)
    after, passed = (cpu_seconds(pid), server_seconds(pid)), time.monotonic() - began
    return [(end - begin) / passed for begin, end in zip(before, after)]


def with_viewers(pid, port, ids, parts, count, seconds, settle):
    """The same with viewers, and the bytes a second of one: events, pictures, answers with pictures."""
    stop, counts = multiprocessing.Event(), multiprocessing.Array("d", 3)
    pages = [multiprocessing.Process(target=viewer, args=(port, ids, parts, stop, counts)) for _ in range(count)]
    for page in pages:
        page.start()
    # The snapshot at the begin of each event stream is not what a wall costs.
    time.sleep(settle)
    before, began = list(counts), time.monotonic()
    share = measured(pid, seconds)
    passed = time.monotonic() - began
    rates = [(after - first) / passed / count for first, after in zip(before, list(counts))]
    stop.set()
    for page in pages:
        page.join()
    return share, rates


def browser(port, seconds):
    """Share of a core that a headless Chromium takes on the wall, at 1920×1080."""
    driver_port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={driver_port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def call(method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{driver_port}{path}", data, {"Content-Type": "application/json"}, method=method)
        return json.load(urllib.request.urlopen(request, timeout=60))["value"]

    try:
        for _ in range(100):
            try:
                call("GET", "/status")
                break
            except OSError:
                time.sleep(0.1)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1920,1080"]
        options = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}}
        session = call("POST", "/session", options)["sessionId"]
        call("POST", f"/session/{session}/url", {"url": f"http://127.0.0.1:{port}/"})
        time.sleep(10)
        tiles = call("POST", f"/session/{session}/execute/sync", {"script": "return document.querySelectorAll('.tile').length", "args": []})
        total = lambda: sum(cpu_seconds(pid) for pid in tree(driver.pid) if os.path.exists(f"/proc/{pid}/stat"))
        before, began = total(), time.monotonic()
        time.sleep(seconds)
        share = (total() - before) / (time.monotonic() - began)
        call("DELETE", f"/session/{session}")
        return share, tiles
    finally:
        driver.terminate()
        driver.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/touchline")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--source", default="testsrc://?width=320&height=180&fps=2&audio=0&pattern=bars")
    parser.add_argument("--parts", default="events,pictures", help="what viewers ask for")
    parser.add_argument("--no-browser", action="store_true")
    arguments = parser.parse_args()
    program = shutil.which(arguments.program) or sys.exit(f"{arguments.program}: no program; run cargo build --release")
    port, ids = free_port(), [f"s{number:02}" for number in range(arguments.streams)]
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+") as log:
        command = [program, "run", "--quiet", "--linger", "--listen", f"127.0.0.1:{port}", f"--max-streams={arguments.streams}"]
        command += [f"{name}={arguments.source}" for name in ids]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            for _ in range(600):
                try:
                    streams = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/streams"))["streams"]
                    if sum(stream["state"] == "playing" for stream in streams) == arguments.streams:
                        break
                except (OSError, ValueError):
                    pass
                if running.poll() is not None:
                    log.seek(0)
                    sys.exit(f"the program ended: {log.read()}")
                time.sleep(0.2)
            else:
                sys.exit("not all streams play")
            time.sleep(15)
            costs, served, bases, rates = [], [], [], []
            for pair in range(arguments.pairs):
                # The order alternates too.
                halves = {}
                for half in ("without", "with") if pair % 2 == 0 else ("with", "without"):
                    if half == "without":
                        time.sleep(5)
                        halves[half] = measured(running.pid, arguments.seconds)
                    else:
                        halves[half], rate = with_viewers(running.pid, port, ids, arguments.parts, arguments.viewers, arguments.seconds, 5)
                        rates.append(rate)
                cost, serving = (1000 * (a - b) / arguments.viewers for a, b in zip(halves["with"], halves["without"]))
                costs.append(cost)
                served.append(serving)
                bases.append(100 * halves["without"][0])
                print(f"pair {pair + 1}: {100 * halves['without'][0]:.2f} % of a core without viewers, {100 * halves['with'][0]:.2f} % with"
                      f" {arguments.viewers}: {costs[-1]:+.2f} % for ten viewers", flush=True)
            error = statistics.stdev(costs) / len(costs) ** 0.5 if len(costs) > 1 else float("nan")
            events, pictures, polls = (statistics.mean(rate[i] for rate in rates) for i in range(3))
            print(f"{arguments.streams} streams: {statistics.mean(bases):.1f} % of a core without viewers")
            print(f"ten viewers: {statistics.mean(costs):.2f} ± {error:.2f} % of a core (limit 2 %), of it {statistics.mean(served):.2f} % in the threads that serve HTTP")
            print(f"a viewer: {events / 1000:.1f} kB/s of events, {pictures / 1000:.1f} kB/s of pictures in {polls:.2f} answers/s")
            if not arguments.no_browser and shutil.which("chromedriver"):
                share, tiles = browser(port, arguments.seconds)
                print(f"Chromium, headless, 1920×1080, {tiles} tiles: {100 * share:.0f} % of a core")
        finally:
            running.terminate()
            running.wait()


if __name__ == "__main__":
    main()
