#!/usr/bin/env python3
"""Counts the instructions of the stages that decode nothing, and compares them with the baseline, benches/instructions.toml.

    python3 benches/instructions.py             fails if a stage takes more than 3 % more than in the baseline
    python3 benches/instructions.py --record    writes the baseline, when more is wanted or a stage has become faster

Needs valgrind. Unlike times, the counts do not depend on the load of the machine. They do not depend on its processor either: valgrind
shows programs a processor with AVX2 and without AVX-512, the networks' level is fixed, one thread computes, and only the functions in the
program itself count, because the C library chooses its own by processor. They do depend on the compiler and on valgrind. With other
versions than those in the baseline, or without AVX2, nothing is compared, and the output says so. Release builds execute fewer: they
inline across the units of a crate, and compile the server with optimisation.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches" / "instructions.toml"
# More than this is a regression, in percent.
LIMIT = 3.0


def output(*command, environment=None):
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def build():
    """Builds the stages as the gate builds tests, so that nothing is compiled twice there. Returns the program."""
    # Incremental builds are divided into more units, and inline less.
    environment = {**os.environ, "CARGO_INCREMENTAL": "0"}
    lines = output("cargo", "test", "--locked", "--workspace", "--features", "kafka", "--no-run", "--bench", "instructions",
                   "--message-format", "json", environment=environment)
    for message in map(json.loads, lines.splitlines()):
        if message.get("executable") and message["target"]["name"] == "instructions":
            return message["executable"]
    sys.exit("cargo did not build the stages")


def count(program, stage):
    """The instructions that a stage executes in the program itself."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "out")
        environment = {**os.environ, "TOUCHLINE_CPU_LEVEL": "avx2", "RAYON_NUM_THREADS": "1"}
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--quiet", "--collect-atstart=no", "--toggle-collect=*instructions*measured*",
             f"--callgrind-out-file={path}", program, stage],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if run.returncode != 0:
            sys.exit(f"{stage} failed under valgrind:\n{run.stderr}")
        lines = open(path).read().splitlines()
    names, is_ours, is_call, total = {}, False, False, 0
    for line in lines:
        # `ob=(2) /path` names an object, `ob=(2)` repeats it; `cob=` is the object of a called function.
        if match := re.fullmatch(r"ob=(\(\d+\))(?: (.*))?", line):
            number, name = match.groups()
            is_ours = os.path.samefile(names.setdefault(number, name), program)
        elif match := re.fullmatch(r"cob=(\(\d+\)) (.*)", line):
            names.setdefault(*match.groups())
        elif line.startswith("calls="):
            is_call = True
        elif re.match(r"[+*\-\d]", line):
            # After `calls=` comes the cost of the called function, which is counted where that function is.
            if is_ours and not is_call:
                total += int(line.split()[1])
            is_call = False
    if total == 0:
        sys.exit(f"{stage}: callgrind counted nothing; is `measured` still a function of its own?")
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write a new baseline")
    arguments = parser.parse_args()
    if "avx2" not in open("/proc/cpuinfo").read().split():
        return print("instructions: not compared, because this processor has no AVX2")
    versions = {"rustc": output("rustc", "--version").split()[1], "valgrind": output("valgrind", "--version").strip()}
    baseline = {} if arguments.record else tomllib.loads(BASELINE.read_text())
    others = [f"{name} {baseline[name]}" for name in versions if baseline and baseline[name] != versions[name]]
    if others:
        return print(f"instructions: not compared, because the baseline was made with {' and '.join(others)}, and here is "
                     f"{versions}; renew it: python3 benches/instructions.py --record")
    program = build()
    counts = {stage: count(program, stage) for stage in output(program).split()}
    if arguments.record:
        lines = ["# Instructions of each stage: written by `python3 benches/instructions.py --record`."]
        lines += [f'{name} = "{version}"' for name, version in versions.items()]
        lines += ["", "[stages]"] + [f"{stage} = {number}" for stage, number in counts.items()]
        BASELINE.write_text("\n".join(lines) + "\n")
        return print("\n".join(lines))
    if set(counts) != set(baseline["stages"]):
        sys.exit("the stages are not those of the baseline: record a new one (python3 benches/instructions.py --record)")
    worse = []
    for stage, number in counts.items():
        percent = 100.0 * (number / baseline["stages"][stage] - 1)
        print(f"{stage:<8} {number:>12} instructions, {percent:+.2f} %")
        if percent > LIMIT:
            worse.append(stage)
    if worse:
        sys.exit(f"{', '.join(worse)}: more than {LIMIT:g} % above the baseline; make it cheaper, or record the new cost "
                 "(python3 benches/instructions.py --record) and give the reason in the commit")


if __name__ == "__main__":
    main()
