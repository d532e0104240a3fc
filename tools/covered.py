"""What `make coverage` writes: from coverage's report the lines and branches of each module that
the tests run, into results/coverage.json.

Counted is what runs in the tests' own processes: a notebook or a command in a process of its own
does not add to it. Ends with 1 below 95 % of lines or 90 % of branches.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path

from guided_diffusion_edu.provenance import provenance

ROOT = Path(__file__).parents[1]
WANTED = dict(lines=95, branches=90)


def counted(report):
    "{module: {lines: [run, all], branches: [run, all]}}."
    return {
        ".".join(Path(path).with_suffix("").parts[1:]): dict(
            lines=[s["covered_lines"], s["num_statements"]],
            branches=[s["covered_branches"], s["num_branches"]],
        )
        for path, s in ((path, file["summary"]) for path, file in sorted(report["files"].items()))
    }


def percent(modules):
    sums = {
        kind: [sum(module[kind][i] for module in modules.values()) for i in (0, 1)]
        for kind in WANTED
    }
    return {kind: round(100 * run / every, 1) for kind, (run, every) in sums.items()}


def main(report):
    modules = counted(json.loads(Path(report).read_text()))
    total = percent(modules)
    versions = {name: importlib.metadata.version(name) for name in ("coverage", "pytest")}
    about = dict(
        command="make coverage", python=platform.python_version(), **versions, **provenance()
    )
    (ROOT / "results" / "coverage.json").write_text(
        json.dumps(dict(about=about, percent=total, modules=modules), indent=1) + "\n"
    )
    print(f"{total['lines']} % of lines, {total['branches']} % of branches")
    if any(total[kind] < WANTED[kind] for kind in WANTED):
        sys.exit(f"wanted: {WANTED['lines']} % of lines and {WANTED['branches']} % of branches")


if __name__ == "__main__":
    main(sys.argv[1])
