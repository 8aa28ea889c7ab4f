"""Checks that the files under deploy/ agree with the program and with each other.

Names of metrics, labels and their values in rules and dashboards against src/serve/metrics; flags and keys of the configuration against
src/cli and src/serve/config; alerts against their tests and their sections in the guide; the guide's error messages against the
source; the rendered manifests against their requirements. check.sh runs it, from the root of the project.
"""

import json
import pathlib
import re
import sys
import tomllib

import promql_parser
import yaml
from compose_spec import PyCompose

SRC = pathlib.Path("src")
DEPLOY = pathlib.Path("deploy")
GUIDE = DEPLOY / "OPERATING.md"

# Flags of other programs in the guide.
FOREIGN_FLAGS = {"--build-arg", "--features", "--format", "--gpus", "--release"}

# The library's, of the process.
PROCESS_METRICS = ["process_open_fds", "process_max_fds", "process_threads", "process_resident_memory_bytes",
                   "process_virtual_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"]
# Prometheus' own, and the labels it sets.
OWN_METRICS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity", "job", "instance", "stream"}}
TARGET_LABELS = {"job", "instance"}

problems = []


def problem(place, text):
    problems.append(f"{place}: {text}")


def source(path):
    """A file of Rust without comments and tests, its continued strings on one line."""
    text = path.read_text()
    text = re.split(r"#\[cfg\(test\)\]\s*mod tests \{", text)[0]
    text = re.sub(r"^\s*//.*$", "", text, flags=re.M)
    return re.sub(r"\\\n\s*", "", text)


def sources(folder=SRC):
    """What the program is made of: no tests and no examples."""
    files = [path for path in sorted(folder.rglob("*.rs")) if not {"tests", "examples"} & set(path.parts)]
    return {path: source(path) for path in files if not path.stem.endswith("tests")}


# ---------------------------------------------------------------- metrics


def exported():
    """Every series name the program exports, with its labels."""
    text = "\n".join(sources(SRC / "serve" / "metrics").values())
    constants = {
        name: set(re.findall(r'"(\w+)"', body))
        for name, body in re.findall(r"const (\w+): \[&str; \w+\] =\s*\[([^\]]*)\]", text)
    }
    found = {}
    # kind(registry, "name", "help" or a name for it, &["label", …] or &CONSTANT, …)
    call = r'\b(counters|gauges|int_gauges|histograms)\(\s*\w+,\s*"(touchline_\w+)",\s*(?:"(?:[^"\\]|\\.)*"|\w+),\s*&(\[[^\]]*\]|\w+)'
    for kind, name, labels in re.findall(call, text):
        labels = constants[labels] if labels in constants else set(re.findall(r'"(\w+)"', labels))
        if kind == "histograms":
            found |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": labels | {"le"}}
        else:
            found[name] = labels
    in_text = set(re.findall(r'"(touchline_\w+)"', text))
    bases = {re.sub(r"_(sum|count|bucket)$", "", name) for name in found} | set(found)
    if missed := in_text - bases:
        problem("src/serve/metrics", f"names that this check does not understand: {sorted(missed)}")
    if "ProcessCollector" in text:
        # What the library says of the process; a test of the program's counts them.
        found |= {name: set() for name in PROCESS_METRICS}
    return found


def selectors(expression, place):
    try:
        parsed = promql_parser.parse(expression)
    except ValueError as error:
        problem(place, f"{error}: {expression}")
        return []
    seen = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            seen.append(node)

    promql_parser.walk(parsed, pre_visit=visit)
    if len(seen) < len(set(re.findall(r"\b(?:touchline_\w+|ALERTS|up(?=[{ ]))", expression))):
        problem(place, f"this check does not see every selector: {expression}")
    return seen


def check_expression(expression, place, metrics, literals):
    for selector in selectors(expression, place):
        name = selector.name
        known = metrics.get(name, OWN_METRICS.get(name))
        if known is None:
            problem(place, f"the program exports no {name}")
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in known | TARGET_LABELS:
                problem(place, f"{name} has no label {matcher.name}")
            elif name in metrics and matcher.name not in TARGET_LABELS | {"stream", "le"}:
                for value in matcher.value.split("|"):
                    if value not in literals:
                        problem(place, f"{name}: the source knows no {matcher.name} {value!r}")


def without_variables(expression):
    expression = re.sub(r"\$__(rate_)?interval", "5m", expression)
    return re.sub(r"\$\{?(instance|stream)\}?", "any", expression)


def walk_json(value):
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk_json(child)


def dashboards():
    return {path: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))}


def expressions():
    """Every expression of rules and dashboards, with its place."""
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for path, board in dashboards().items():
        for node in walk_json(board):
            if isinstance(node, dict) and "expr" in node:
                yield path.name, without_variables(node["expr"])
            query = node.get("query") if isinstance(node, dict) else None
            if isinstance(query, dict):
                label = re.fullmatch(r"label_values\((.*), (\w+)\)", query["query"])
                yield path.name, without_variables(label.group(1))


def check_metrics():
    metrics = exported()
    literals = set(re.findall(r'"([\w-]+)"', "\n".join(sources().values())))
    count = 0
    for place, expression in expressions():
        check_expression(expression, place, metrics, literals)
        count += 1
    for path in (GUIDE, pathlib.Path("README.md")):
        for name in set(re.findall(r"\btouchline_[a-z_]+\b", path.read_text())) - set(metrics):
            if not any(known.startswith(name) for known in metrics):
                problem(path, f"the program exports no {name}")
    return f"{count} expressions against {len(metrics)} series names"


def check_dashboards():
    for path, board in dashboards().items():
        if board["uid"] != f"touchline-{path.stem}":
            problem(path, "the links between dashboards go by uid touchline-NAME")
        panels = board["panels"]
        ids = [panel["id"] for panel in panels]
        if len(ids) != len(set(ids)):
            problem(path, "two panels have one id")
        for panel in panels:
            box = panel["gridPos"]
            if box["x"] + box["w"] > 24:
                problem(path, f"{panel['title']}: wider than the page")
            if panel["type"] != "row" and not panel["targets"]:
                problem(path, f"{panel['title']}: asks for nothing")
        names = {variable["name"] for variable in board["templating"]["list"]}
        for used in set(re.findall(r'[=~]"\$(\w+)"', json.dumps(board).replace('\\"', '"'))):
            if used not in names:
                problem(path, f"no variable {used}")
    return f"{len(dashboards())} dashboards"


# ---------------------------------------------------------------- alerts


def check_alerts():
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yml").read_text())
    fires, silent = set(), set()
    for case in tests["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", GUIDE.read_text(), flags=re.M)}
    for name, rule in alerts.items():
        if name not in fires or name not in silent:
            problem(name, "alerts.test.yml needs a case in which it fires and one in which it is silent")
        if rule["labels"]["severity"] not in ("critical", "warning", "info"):
            problem(name, "unknown severity")
        for key in ("summary", "description", "runbook_url"):
            if not rule["annotations"].get(key):
                problem(name, f"no {key}")
        place, _, section = rule["annotations"]["runbook_url"].partition("#")
        if place != str(GUIDE) or section not in anchors:
            problem(name, f"{GUIDE} has no section {section}")
    return f"{len(alerts)} alerts"


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# ---------------------------------------------------------------- the guide


def check_guide():
    """Headings in code quotes are messages: what stands between their … must be in the source, in order and close together."""
    guide = GUIDE.read_text()
    texts = sources()
    headings = re.findall(r"^#+ `(.*)`$", guide, flags=re.M)
    if len(headings) < 25:
        problem(GUIDE, f"only {len(headings)} messages")
    if twice := {heading for heading in headings if headings.count(heading) > 1}:
        problem(GUIDE, f"twice: {sorted(twice)}")
    for heading in headings:
        pieces = [re.escape(piece.strip()) for piece in heading.split("…") if len(piece.strip()) > 2]
        pattern = re.compile(r"[^\n]{0,80}?".join(pieces))
        if len("".join(pieces)) < 8 or not any(pattern.search(text) for text in texts.values()):
            problem(GUIDE, f"the source says nowhere: {heading}")
    headings_of = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", guide, flags=re.M)}
    for target in re.findall(r"\]\(#([^)]*)\)", guide):
        if target not in headings_of:
            problem(GUIDE, f"no section {target}")
    for target in re.findall(r"\]\((?!#|https?:)([^)#]*)", guide):
        if not (GUIDE.parent / target).exists():
            problem(GUIDE, f"no file {target}")
    return f"{len(headings)} messages"


# ---------------------------------------------------------------- flags and keys


def arguments_in(path):
    """Flags of `touchline` in a file: words that begin with two hyphens on a line, or in a list, that is about touchline."""
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", path.read_text()))


def check_flags():
    text = "\n".join(sources(SRC / "cli").values())
    fields = re.findall(r"#\[(?:arg|command)\(.*?\)\]\s*(?:pub(?:\([\w:() ]*\))? )?(?:r#)?(\w+):", text, flags=re.S)
    known = {"--" + field.replace("_", "-") for field in fields} | {f"--{name}" for name in re.findall(r'long = "([\w-]+)"', text)}
    known |= {"--help", "--version"}
    used = arguments_in(DEPLOY / "systemd/touchline.service") | arguments_in(DEPLOY / "container/touchline.toml")
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        used |= arguments_in(path)
    for path in (DEPLOY / "container").glob("Containerfile*"):
        command = re.search(r"^CMD (\[.*\])$", path.read_text(), flags=re.M)
        used |= {word for word in json.loads(command.group(1)) if word.startswith("--")}
    services = yaml.safe_load((DEPLOY / "container/compose.yaml").read_text())["services"]
    used |= {word for word in services["touchline"]["command"] if word.startswith("--")}
    # The guide's flags outside of its blocks of commands, but for those of other programs.
    prose = re.sub(r"^```.*?^```", "", GUIDE.read_text(), flags=re.S | re.M)
    used |= set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", prose)) - FOREIGN_FLAGS
    for flag in sorted(used - known):
        problem("flags", f"touchline has no {flag}")
    return f"{len(used)} flags"


def check_keys():
    text = "".join(source(SRC / "serve" / "config" / name) for name in ("raw.rs", "fleet.rs"))
    known = set(re.findall(r"^\s+pub (\w+):", text, flags=re.M))
    count = 0
    files = sorted(DEPLOY.rglob("touchline.toml"))
    for path in files:
        for node in walk_json(tomllib.loads(path.read_text())):
            for key in node if isinstance(node, dict) else ():
                count += 1
                if key not in known:
                    problem(path, f"the configuration has no key {key}")
    return f"{count} keys in {len(files)} configurations"


# ---------------------------------------------------------------- compose and Kubernetes


def check_compose():
    folder = DEPLOY / "container"
    for path in sorted(folder.glob("compose*.yaml")):
        try:
            PyCompose.from_yaml(path.read_text()).validate()
        except ValueError as error:
            problem(path, str(error))
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        if not (service.get("read_only") and service.get("cap_drop") == ["ALL"]):
            problem(name, "writable root file system or capabilities")
        for port in service["ports"]:
            if not port.startswith("127.0.0.1:"):
                problem(name, f"{port} is open to other machines")
        for volume in service["volumes"]:
            if (place := volume.split(":")[0]).startswith(".") and not (folder / place).exists():
                problem(name, f"mounts {place}, which is not there")
    embedded = {
        (path.parent / place).resolve().relative_to(pathlib.Path.cwd()).parts[0]
        for path, text in sources().items()
        for place in re.findall(r'include_(?:str|bytes)!\("(\.\./[^"]+)"\)', text)
    }
    ignored = pathlib.Path(".dockerignore").read_text().splitlines()
    for path in folder.glob("Containerfile*"):
        text = path.read_text()
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, flags=re.M) + re.findall(r"source=([^,]*)", text)
        for place in " ".join(copied).split():
            if not pathlib.Path(place).exists():
                problem(path, f"copies {place}, which is not there")
            if not any(f"!{parent}" in ignored for parent in [place, *map(str, pathlib.Path(place).parents)]):
                problem(path, f".dockerignore keeps {place} from the builder")
        compiling = re.search(r" AS build$.*?^FROM", text, flags=re.S | re.M).group(0)
        for place in sorted(embedded - set(re.findall(r"^COPY (\w+) ", compiling, flags=re.M))):
            problem(path, f"the stage that compiles lacks {place}, which the program embeds")
        if not re.search(r"^USER 10001", text, flags=re.M) or "HEALTHCHECK" not in text:
            problem(path, "runs as root or has no health check")
    return f"{len(compose['services'])} services"


def check_manifests(paths):
    """What `kubectl kustomize` made of the overlays: one shard a pod, or a fleet, nothing that the restricted profile refuses."""
    for path in map(pathlib.Path, paths):
        objects = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(path.read_text())}
        spec = objects[("StatefulSet", "touchline")]["spec"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        environment = {entry["name"]: entry for entry in container["env"]}
        if "TOUCHLINE_NODE" in environment:
            # A fleet: its pods share streams, and have their own names.
            if environment["TOUCHLINE_NODE"]["valueFrom"]["fieldRef"]["fieldPath"] != "metadata.name":
                problem(path, "TOUCHLINE_NODE is not the pod's name")
            if any(argument.startswith("--shard") for argument in container["args"]):
                problem(path, "a fleet with shards")
        else:
            if environment["SHARDS"]["value"] != str(spec["replicas"]):
                problem(path, f"{spec['replicas']} pods share {environment['SHARDS']['value']} shards")
            index = environment["POD_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
            if index != "metadata.labels['apps.kubernetes.io/pod-index']":
                problem(path, "POD_INDEX is not the pod's number")
            if "--shard=$(POD_INDEX)/$(SHARDS)" not in container["args"]:
                problem(path, "no shard")
        security = container["securityContext"]
        if not (
            pod["securityContext"]["runAsNonRoot"]
            and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            and security["readOnlyRootFilesystem"]
            and not security["allowPrivilegeEscalation"]
            and security["capabilities"]["drop"] == ["ALL"]
        ):
            problem(path, "more rights than it needs")
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
        if mounted != set(volumes) | claimed:
            problem(path, f"volumes and mounts differ: {mounted ^ (set(volumes) | claimed)}")
        if ("ConfigMap", volumes["config"]["configMap"]["name"]) not in objects:
            problem(path, "mounts a configuration that is not there")
        if any(kind == "Secret" for kind, _ in objects):
            problem(path, "contains a secret")
        labels = spec["template"]["metadata"]["labels"]
        for kind, select in (
            ("StatefulSet", lambda o: o["spec"]["selector"]["matchLabels"]),
            ("PodDisruptionBudget", lambda o: o["spec"]["selector"]["matchLabels"]),
            ("NetworkPolicy", lambda o: o["spec"]["podSelector"]["matchLabels"]),
            ("Service", lambda o: o["spec"]["selector"]),
        ):
            if not (chosen := select(objects[(kind, "touchline")])) or not chosen.items() <= labels.items():
                problem(path, f"{kind} chooses {chosen}, the pods are {labels}")
    return f"{len(paths)} overlays"


def main():
    for name, check in (
        ("metrics", check_metrics),
        ("dashboards", check_dashboards),
        ("alerts", check_alerts),
        ("guide", check_guide),
        ("flags", check_flags),
        ("configuration", check_keys),
        ("compose", check_compose),
        ("manifests", lambda: check_manifests(sys.argv[1:])),
    ):
        print(f"  {name}: {check()}")
    for text in problems:
        print(f"  WRONG {text}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
