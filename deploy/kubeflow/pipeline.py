"""The training of a model pack as a Kubeflow pipeline (KFP v2).

    prepare ─► split ─┬─► train rgb ───┐
                      ├─► train flow ──┼─► build ─► evaluate ─┬─► promote, if the pack is better than the running one
                      ├─► train audio ─┘               ▲      └─► report, otherwise
                      └─► evaluate the running pack ───┘

Every step is the container image with one `touchline` subcommand. Steps pass folders as artifacts, with their SHA-256 as metadata.
Metrics and HTML reports of trainings and evaluations appear at the steps in the pipelines' interface.

    python pipeline.py compile -o pipeline.yaml --image REGISTRY/touchline-kubeflow:0.1.0 --volume recordings
    python pipeline.py run --local FOLDER --arguments arguments.json
"""

import argparse
import json
import os
from functools import partial
from typing import List

from kfp import compiler, dsl, local


def touchline(*arguments: str) -> None:
    """Runs a subcommand. What it prints is the log of the step; a failure ends the step with the program's message."""
    import subprocess
    import sys

    ran = subprocess.run(["touchline", *arguments], stderr=subprocess.PIPE, text=True)
    sys.stderr.write(ran.stderr)
    if ran.returncode != 0:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"touchline {' '.join(arguments[:2])} ended with code {ran.returncode}: {last}")


def digest(folder: str) -> str:
    """SHA-256 over the names and contents of all files below a folder but caches."""
    import hashlib
    import pathlib

    total = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] != "cache":
            total.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
    return total.hexdigest()


step = partial(
    dsl.component,
    base_image=os.environ.get("TOUCHLINE_IMAGE", "touchline-kubeflow:0.1.0"),
    # The image has it.
    install_kfp_package=False,
    additional_funcs=[touchline, digest],
)


@step
def prepare(material: str, options: List[str], dataset: dsl.Output[dsl.Dataset]):
    """Cuts labelled recordings into seconds."""
    touchline("dataset", "build", material, "-o", dataset.path, *options)
    dataset.metadata["sha256"] = digest(dataset.path)


@step
def split(seconds: dsl.Input[dsl.Dataset], dataset: dsl.Output[dsl.Dataset]):
    """Divides the sources into sides for training, validation and the test."""
    import shutil

    shutil.copytree(seconds.path, dataset.path)
    touchline("dataset", "split", dataset.path)
    dataset.metadata["sha256"] = digest(dataset.path)


@step
def train(
    modality: str,
    modalities: List[str],
    options: List[str],
    dataset: dsl.Input[dsl.Dataset],
    run: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
):
    """Trains the model of one modality, unless the pipeline leaves it out. A training rule may end it early."""
    import json
    import pathlib
    import shutil
    import tempfile

    folder = pathlib.Path(run.path)
    folder.mkdir(parents=True)
    if modality not in modalities:
        pathlib.Path(report.path).write_text(f"<p>{modality} is not trained.</p>")
        return
    with tempfile.TemporaryDirectory() as cache:
        arguments = ["--cache", cache, "--on-rule", "stop", *options]
        touchline("train", modality, dataset.path, "-o", str(folder), *arguments)
    shutil.copy(folder / "report.html", report.path)
    lines = [json.loads(line) for line in (folder / modality / "log.jsonl").read_text().splitlines()]
    end = next(line for line in reversed(lines) if line["kind"] == "end")
    run.metadata["end"] = end["cause"]
    for epoch in (line for line in lines if line["kind"] == "epoch" and line["best"]):
        metrics.log_metric("training loss", epoch["train_loss"])
        for name, value in (epoch["validation"] or {}).items():
            metrics.log_metric(f"validation {name}", value)
    metrics.log_metric("steps", end["step"])
    run.metadata["sha256"] = digest(run.path)


@step
def build(
    name: str,
    material: str,
    running: str,
    dataset: dsl.Input[dsl.Dataset],
    rgb: dsl.Input[dsl.Model],
    flow: dsl.Input[dsl.Model],
    audio: dsl.Input[dsl.Model],
    pack: dsl.Output[dsl.Model],
):
    """Builds a pack of the trained models. Models that were not trained are those of the running pack."""
    import os

    runs = [run.path for run in (rgb, flow, audio) if os.listdir(run.path)]
    arguments = ["--dataset", dataset.path, "-o", pack.path, "--name", name, "--material", material]
    touchline("pack", "build", *runs, *arguments, *(["--keep", running] if len(runs) < 3 else []))
    pack.metadata["sha256"] = digest(pack.path)


@step
def evaluate_running(
    running: str, dataset: dsl.Input[dsl.Dataset], figures: dsl.Output[dsl.Artifact], report: dsl.Output[dsl.HTML]
):
    """Measures the running pack on the test side."""
    touchline("evaluate", running, dataset.path, "--json", figures.path, "--report", report.path)


@step
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    pack: dsl.Input[dsl.Model],
    against: dsl.Input[dsl.Artifact],
    figures: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Measures the new pack on the test side, and compares it with the running one by intervals over sources. Returns the verdict:
    better, worse or undecided."""
    import json

    files = ["--json", figures.path, "--report", report.path]
    touchline("evaluate", pack.path, dataset.path, "--against", against.path, *files)
    with open(figures.path) as file:
        measured = json.load(file)
    for kind in measured["kinds"]:
        if kind["predictor"] == "table":
            metrics.log_metric(f"{kind['kind']} right, mean over sources", kind["by_source"]["value"])
    for kind in measured["comparison"]["kinds"]:
        metrics.log_metric(f"{kind['kind']} difference", kind["difference"]["value"])
    return measured["comparison"]["verdict"]


@step
def promote(pack: dsl.Input[dsl.Model], packs: str, server: str, token_file: str, promoted: dsl.Output[dsl.Model]) -> str:
    """Copies the pack to the folder of packs under a new name, and requests the running programs to swap to it. Returns its path."""
    import json
    import os
    import pathlib
    import shutil
    import urllib.error
    import urllib.request

    target = pathlib.Path(packs, f"{pack.metadata['sha256'][:16]}")
    partial = target.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(pack.path, partial)
    if not target.exists():
        os.rename(partial, target)
    if server:
        headers = {"Content-Type": "application/json"}
        if token_file:
            headers["Authorization"] = f"Bearer {pathlib.Path(token_file).read_text().strip()}"
        body = json.dumps({"path": str(target)}).encode()
        request = urllib.request.Request(f"{server}/api/v1/pack", body, headers, method="POST")
        try:
            urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{server} refused the pack with status {error.code}: {error.read().decode(errors='replace')}")
    promoted.uri = pack.uri
    promoted.metadata["path"] = str(target)
    return str(target)


@step
def report(verdict: str, evaluation: dsl.Input[dsl.Artifact], summary: dsl.Output[dsl.Markdown]):
    """Writes the differences that kept the pack from being promoted."""
    import json

    with open(evaluation.path) as file:
        comparison = json.load(file)["comparison"]
    lines = [f"# The new pack was not promoted: {verdict}", "", "| kind | sources | difference | 95 % interval | |", "|---|---|---|---|---|"]
    for kind in comparison["kinds"]:
        low, high = kind["difference"]["low"], kind["difference"]["high"]
        interval = "none, one source" if low is None else f"{low:+.3f} to {high:+.3f}"
        lines.append(f"| {kind['kind']} | {kind['sources']} | {kind['difference']['value']:+.3f} | {interval} | {kind['verdict']} |")
    with open(summary.path, "w") as file:
        file.write("\n".join(lines) + "\n")


def pipeline(volume: str = "", mount: str = "/material"):
    """Returns the pipeline. With `volume`, the steps that read recordings and packs have that persistent volume claim at `mount`."""

    @dsl.pipeline(name="touchline-training", description="Trains a model pack and promotes it if it is better than the running one.")
    def touchline_training(
        material: str,
        running: str,
        packs: str,
        name: str = "trained",
        origin: str = "origin not stated",
        modalities: List[str] = ["rgb", "flow", "audio"],
        dataset_options: List[str] = [],
        train_options: List[str] = [],
        server: str = "",
        token_file: str = "",
    ):
        def mounted(task):
            if volume:
                from kfp import kubernetes

                kubernetes.mount_pvc(task, pvc_name=volume, mount_path=mount)
            return task

        seconds = mounted(prepare(material=material, options=dataset_options))
        dataset = split(seconds=seconds.outputs["dataset"]).outputs["dataset"]
        runs = {}
        for modality in ("rgb", "flow", "audio"):
            task = train(modality=modality, modalities=modalities, options=train_options, dataset=dataset)
            runs[modality] = mounted(task.set_display_name(f"train {modality}")).outputs["run"]
        pack = mounted(build(name=name, material=origin, running=running, dataset=dataset, **runs)).outputs["pack"]
        before = mounted(evaluate_running(running=running, dataset=dataset))
        measured = evaluate(dataset=dataset, pack=pack, against=before.outputs["figures"])
        verdict = measured.outputs["Output"]
        with dsl.If(verdict == "better", name="better"):
            mounted(promote(pack=pack, packs=packs, server=server, token_file=token_file))
        with dsl.If(verdict != "better", name="not better"):
            report(verdict=verdict, evaluation=measured.outputs["figures"])

    return touchline_training


def main():
    parser = argparse.ArgumentParser(description="Compiles the training pipeline, or runs it on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    compiling = commands.add_parser("compile", help="write the pipeline as YAML, for the interface or the client of KFP")
    compiling.add_argument("-o", "--out", default="pipeline.yaml", help="the file to write [default: pipeline.yaml]")
    compiling.add_argument("--volume", default="", help="persistent volume claim with recordings, packs and first weights")
    compiling.add_argument("--mount", default="/material", help="where steps see the volume [default: /material]")
    running = commands.add_parser("run", help="run all steps as processes of this machine; `touchline` must be on the PATH")
    running.add_argument("--local", required=True, metavar="FOLDER", help="folder for artifacts")
    running.add_argument("--arguments", required=True, metavar="FILE", help="JSON object with the pipeline's parameters")
    given = parser.parse_args()
    if given.command == "compile":
        compiler.Compiler().compile(pipeline(given.volume, given.mount), given.out)
        return
    with open(given.arguments) as file:
        parameters = json.load(file)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=given.local)
    pipeline()(**parameters)


if __name__ == "__main__":
    main()
