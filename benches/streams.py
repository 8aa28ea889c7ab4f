#!/usr/bin/env python3
"""How many live 720p30 H.264 streams with sound this machine holds.

Sends N streams as MPEG-TS over UDP on loopback (ffmpeg, copied, no encoding during the measurement), watches them with
`touchline run`, and prints per N: decision latency (median, p95), shed seconds, and the processor's share.

    cargo build --release
    python3 benches/streams.py [--streams 1 2 4] [--seconds 30] [--media CLIP]

A stream is held when p95 of the decision latency stays below the limit and nothing is shed. Needs ffmpeg. Without
--media the picture is a moving test pattern with noise, which is harder to decode than most broadcasts.
"""

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time

WARM_UP_SECONDS = 6


def free_ports(count):
    held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def make_media(path, source):
    if source:
        inputs = ["-stream_loop", "-1", "-t", "20", "-i", source, "-vf", "scale=1280:720,fps=30"]
    else:
        inputs = ["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30:duration=20",
                  "-f", "lavfi", "-i", "anoisesrc=color=pink:sample_rate=48000:duration=20",
                  "-vf", "noise=alls=12:allf=t"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, "-c:v", "libx264", "-preset", "veryfast", "-b:v", "4M",
                    "-g", "60", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ar", "48000", path], check=True)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def measure(program, media, count, seconds, directory):
    ports = free_ports(count)
    jsonl = os.path.join(directory, f"streams-{count}.jsonl")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    uris = [f"s{i}=udp://127.0.0.1:{port}" for i, port in enumerate(ports)]
    watcher = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--retry", "--jsonl", jsonl, *uris],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    senders = [subprocess.Popen(["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", media, "-c", "copy",
                                 "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"],
                                stdin=subprocess.DEVNULL) for port in ports]
    began = time.time()
    time.sleep(seconds + WARM_UP_SECONDS)
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(timeout=30)
    wall = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for sender in senders:
        sender.kill()
        sender.wait()
    records = [json.loads(line) for line in open(jsonl)]
    latencies, decided, gaps = [], 0, {}
    for record in records:
        if record["type"] == "second" and record["index"] >= WARM_UP_SECONDS:
            latencies.append(record["latency_ms"])
            decided += 1
        elif record["type"] == "gap":
            gaps[record["reason"]] = gaps.get(record["reason"], 0) + 1
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / wall / os.cpu_count()
    return latencies, decided, gaps, cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--program", default=os.path.join(target, "release", "touchline"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--limit-ms", type=float, default=1500)
    parser.add_argument("--media")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        media = os.path.join(directory, "media.ts")
        make_media(media, arguments.media)
        print("| streams | seconds decided | latency p50 ms | p95 ms | shed seconds | processor | held |")
        print("|---|---|---|---|---|---|---|")
        for count in arguments.streams:
            latencies, decided, gaps, cpu = measure(arguments.program, media, count, arguments.seconds, directory)
            p50, p95 = percentile(latencies, 0.5), percentile(latencies, 0.95)
            shed = gaps.get("overload", 0)
            held = decided > 0 and p95 < arguments.limit_ms and shed == 0
            print(f"| {count} | {decided} | {p50:.0f} | {p95:.0f} | {shed} | {cpu:.0%} | {'yes' if held else 'no'} |",
                  flush=True)


if __name__ == "__main__":
    main()
