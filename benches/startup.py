#!/usr/bin/env python3
"""How long after its start the program publishes the first decision, and how much memory each stream takes.

    cargo build --release
    python3 benches/startup.py [--program target/release/touchline] [--rounds 5] [--rtsp URI]

The first decision is measured from the start of the process: for a recording that the program reads as fast as it can, for one that plays at
its own pace, and for the RTSP server of --rtsp, whose second has to pass first. Memory is proportional (PSS), of
the program with one stream and with several, without data and with live 720p30 streams (tier `lean`). Needs ffmpeg and Linux.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time

from streams import free_ports, make_media, send_udp, usage


def first_decision(program, arguments):
    """Seconds from the start of the process to its first record of a second."""
    began = time.monotonic()
    process = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--jsonl", "-", *arguments], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    for line in process.stdout:
        if json.loads(line)["type"] == "second":
            break
    passed = time.monotonic() - began
    process.kill()
    process.wait()
    return passed


def memory(program, uris, senders, settle):
    """kB of the program `settle` seconds after its start."""
    watcher = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--retry", "--max-streams", "64", "--tier", "lean", *uris],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    senders = [subprocess.Popen(sender, stdin=subprocess.DEVNULL) for sender in senders]
    time.sleep(settle)
    kilobytes = usage(watcher.pid)["resident"]
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(timeout=60)
    for sender in senders:
        sender.kill()
        sender.wait()
    return kilobytes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "touchline"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rtsp", help="a running server, such as rtsp://127.0.0.1:8554/live")
    arguments = parser.parse_args()
    program = arguments.program
    with tempfile.TemporaryDirectory() as directory:
        media = os.path.join(directory, "media.ts")
        make_media(media, None)
        sources = {"a recording": [media], "a recording at its own pace": ["--realtime", media]}
        if arguments.rtsp:
            sources["RTSP"] = [arguments.rtsp]
        print("| first decision | median, s | least to most, s |\n|---|---|---|")
        for name, source in sources.items():
            times = [first_decision(program, source) for _ in range(arguments.rounds)]
            print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} to {max(times):.2f} |", flush=True)
        print("\n| streams | MB | MB for each beyond the first |\n|---|---|---|")
        for name, most, settle in (("without data", 33, 12), ("live 720p30", 5, 20)):
            sizes = {}
            for count in (1, most):
                if name == "live 720p30":
                    uris, senders = send_udp(media, count)
                else:
                    uris, senders = [f"s{i}=udp://127.0.0.1:{port}" for i, port in enumerate(free_ports(count))], []
                sizes[count] = memory(program, uris, senders, settle) / 1024
            each = (sizes[most] - sizes[1]) / (most - 1)
            print(f"| 1 and {most}, {name} | {sizes[1]:.0f} and {sizes[most]:.0f} | {each:.1f} |", flush=True)


if __name__ == "__main__":
    main()
