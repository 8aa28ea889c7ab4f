#!/usr/bin/env python3
"""What `touchline score` of a recording costs at each tier, against FFmpeg decoding it whole with one thread to nothing.

    cargo build --release
    python3 benches/recordings.py [RECORDING] [--rounds 3] [--program target/release/touchline]

All of them run in turn, `--rounds` times; the figures are medians of the processor time (user and system).
Without RECORDING a pattern with noise is encoded: 60 s of 720p30, H.264 with B-pictures
at 4 Mbit/s, AAC. Needs ffmpeg.
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile


def spent(command):
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "touchline"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        recording = arguments.recording or os.path.join(directory, "recording.mp4")
        if not arguments.recording:
            subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30:duration=60",
                            "-f", "lavfi", "-i", "anoisesrc=color=pink:sample_rate=48000:duration=60", "-vf", "noise=alls=12:allf=t",
                            "-c:v", "libx264", "-preset", "medium", "-b:v", "4M", "-bf", "3", "-g", "60", "-pix_fmt", "yuv420p",
                            "-c:a", "aac", recording], check=True)
        commands = {"ffmpeg": ["ffmpeg", "-v", "error", "-threads", "1", "-i", recording, "-f", "null", "-"]}
        for tier in ("full", "lean", "sparse", "key"):
            commands[tier] = [arguments.program, "score", "--tier", tier, recording]
        times = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                times[name].append(spent(command))
        peer = statistics.median(times["ffmpeg"])
        print("| | processor time, s | against FFmpeg |\n|---|---|---|")
        for name, all_times in times.items():
            print(f"| {name} | {statistics.median(all_times):.2f} ({min(all_times):.2f} to {max(all_times):.2f}) "
                  f"| {statistics.median(all_times) / peer:.2f} |")


if __name__ == "__main__":
    main()
