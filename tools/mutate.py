"""Mutation score: small errors are put into five modules one at a time, and the tests that run the
changed line must notice.

`make mutate` makes the mutants that mutmut makes, `--sample` of each module drawn at random, and
writes results/mutation.json with those that no test noticed. `mutmut run` itself leaves out each
function with a decorator (here the loops under torch.no_grad), so the mutants are run here: each in
a fork of one warm process, which imports the changed module in the place of the file and runs,
quickest first, the tests that came by the line. A test that takes more than SLOW seconds, and what
lies beyond BUDGET seconds a mutant, is not asked: the score errs downwards. Not mutated: the
wording of errors, docstrings, and what stands outside functions.
"""

import argparse
import datetime
import hashlib
import importlib.machinery
import importlib.metadata
import itertools
import json
import math
import os
import platform
import random
import resource
import select
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import libcst as cst
import libcst.matchers as m
import pytest
from coverage import CoverageData
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

ROOT = Path(__file__).parents[1]
PACKAGE, STATE = ROOT / "guided_diffusion_edu", ROOT / "runs" / "mutation"
MODULES = ["schedules", "diffusion", "guidance", "samplers", "evaluation"]
TESTS = [
    "book/test_properties",
    "book/test_released_process",
    "book/test_same_seed",
    "book/test_examples",
    "depth/test_guided_chain",
    "depth/test_leaderboard",
    "*/test_*_numeric",
    "*/test_*_bad_input",
    "guidance/test_score_identity",
    "networks/test_*",
    "beyond/test_*",
    "practice/test_pretrained*",
    "practice/test_evaluation*",
    "practice/test_fidelity_and_diversity",
    "practice/test_command_line*",
]
SLOW, BUDGET, STUCK = 5, 20, 1800  # seconds of the processor; of the clock
QUIET = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT)]


# The mutants


class Visitor(MutationVisitor):
    "mutmut's, but into functions with decorators, and past the words of errors and docstrings."

    METADATA_DEPENDENCIES = (*MutationVisitor.METADATA_DEPENDENCIES, ParentNodeProvider)

    def parents(self, node):
        while node := self.get_metadata(ParentNodeProvider, node, None):
            yield node

    def _skip_node_and_children(self, node):
        if isinstance(node, cst.FunctionDef):
            return False
        if isinstance(node, cst.BaseString) and any(
            m.matches(p, m.Expr() | m.Raise() | m.Call(m.Name(m.MatchRegex("require.*"))))
            for p in self.parents(node)
        ):
            return True
        return super()._skip_node_and_children(node)


def lines_of(node, parents, places):
    """First and last line of the statement that `node` is in, without the body of one that has a
    body.
    """
    if isinstance(node, cst.Param) or any(isinstance(p, cst.Param) for p in parents):
        outer = next(p for p in parents if isinstance(p, (cst.FunctionDef, cst.Lambda)))
        return places[outer].start.line, places[outer].end.line
    statement = next(
        p
        for p in (node, *parents)
        if isinstance(
            p,
            (
                cst.If,
                cst.For,
                cst.While,
                cst.With,
                cst.SimpleStatementLine,
                cst.SimpleStatementSuite,
                cst.FunctionDef,
            ),
        )
    )
    return places[statement].start.line, (
        places[statement.body].start
        if hasattr(statement, "orelse") or isinstance(statement, cst.With)
        else places[statement].end
    ).line


def mutants(module, seed):
    """All of them in an order drawn by `seed`, and their number: dicts of the lines, what stood
    there and stands there now, and the changed code.
    """
    text = (PACKAGE / f"{module}.py").read_text()
    wrapper = MetadataWrapper(cst.parse_module(text))
    visitor, places, above = (
        Visitor(mutation_operators, IgnoredCode(set(), set(), set())),
        wrapper.resolve(PositionProvider),
        wrapper.resolve(ParentNodeProvider),
    )
    wrapper.visit(visitor)
    every = [one for one in visitor.mutations if one.contained_by_top_level_function is not None]
    random.Random(f"{seed} {module}").shuffle(every)
    starts = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]

    def built():
        for one in every:
            was, now = (
                wrapper.module.code_for_node(node).strip()
                for node in (one.original_node, one.mutated_node)
            )
            place = places[one.original_node]
            begin, end = (starts[at.line - 1] + at.column for at in (place.start, place.end))
            code = (
                text[:begin] + now + text[end:]
                if text[begin:end] == was
                else wrapper.module.deep_replace(one.original_node, one.mutated_node).code
            )
            try:
                compile(code, module, "exec")
            except SyntaxError:
                continue
            parents, node = [], one.original_node
            while node := above.get(node):
                parents.append(node)
            yield dict(
                module=module,
                lines=lines_of(one.original_node, parents, places),
                line=place.start.line,
                was=" ".join(was.split()),
                now=" ".join(now.split()),
                code=code,
                key=hashlib.sha256(code.encode()).hexdigest()[:16],
            )

    return built(), len(every)


# Which tests come by a line


class Timed:
    "Seconds of the processor that each test takes."

    def __init__(self):
        self.seconds = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        began = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - began


def coming_by():
    """{module: {line: tests}} and {test: seconds}, from one run of the tests; kept until the
    package or a test changes.
    """
    texts = [
        path.read_bytes()
        for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
    ]
    place = STATE / f"lines-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}.json"
    if not place.exists():
        data, timed = STATE / "coverage", Timed()
        os.environ["COVERAGE_FILE"] = str(data)
        files = sorted(
            {str(path) for name in TESTS for path in (ROOT / "tests").glob(f"{name}.py")}
        )
        files = [path for path in files if not path.endswith("_symbolic.py")]
        if pytest.main(
            [*QUIET, *files, f"--cov={PACKAGE}", "--cov-context=test", "--cov-report="],
            plugins=[timed],
        ):
            sys.exit("the tests must pass before anything is mutated")
        found = CoverageData(str(data))
        found.read()
        by = {
            name: {
                line: sorted({c.split("|")[0] for c in contexts if c})
                for line, contexts in found.contexts_by_lineno(str(PACKAGE / f"{name}.py")).items()
            }
            for name in MODULES
        }
        place.write_text(json.dumps([by, timed.seconds]))
    by, seconds = json.loads(place.read_text())
    return {
        name: {int(line): tests for line, tests in lines.items()} for name, lines in by.items()
    }, seconds


def chosen(mutant, by, seconds, first=None):
    "The tests to ask, in order: the one that noticed last time, then the quickest."
    lines = by[mutant["module"]]
    tests = {
        test
        for line in range(mutant["lines"][0], mutant["lines"][1] + 1)
        for test in lines.get(line, ())
    }
    asked, total = [], 0
    for test in sorted(tests, key=lambda test: (test != first, seconds[test], test)):
        if seconds[test] > SLOW or total + seconds[test] > BUDGET:
            break
        asked, total = [*asked, test], total + seconds[test]
    return asked, total


# One mutant, in a fork


class Changed(importlib.machinery.SourceFileLoader):
    def __init__(self, name, path, code):
        super().__init__(name, path)
        self.code = code

    def get_code(self, fullname):
        return compile(self.code, self.path, "exec")


class Finder:
    def __init__(self, module, code):
        self.name, self.path, self.code = (
            f"guided_diffusion_edu.{module}",
            str(PACKAGE / f"{module}.py"),
            code,
        )

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            return importlib.machinery.ModuleSpec(
                name, Changed(name, self.path, self.code), origin=self.path
            )


class Asked:
    "Runs the tests asked for in their order, and says which one noticed."

    def __init__(self, tests, pipe=None):
        self.tests, self.pipe = {test: i for i, test in enumerate(tests)}, pipe

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (i for i in items if i.nodeid in self.tests), key=lambda i: self.tests[i.nodeid]
        )

    def pytest_runtest_logreport(self, report):
        if report.failed and self.pipe:
            os.write(self.pipe, report.nodeid.encode())


def files_of(tests):
    return sorted({str(ROOT / test.split("::")[0]) for test in tests})


def ask(module, code, tests, seconds):
    """The test that noticed `code` in the place of `module`, 'import' or 'time' where it came to no
    test or to no end; None if all passed.
    """
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1), os.dup2(1, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(30 + 4 * seconds),) * 2)
        sys.meta_path.insert(0, Finder(module, code))
        warnings.simplefilter("ignore")
        os._exit(
            int(
                pytest.main(
                    [*QUIET, *files_of(tests), "-p", "no:cov"], plugins=[Asked(tests, writes)]
                )
            )
        )
    os.close(writes)
    # ends with the first failure, or as the process does
    inside = select.select([reads], [], [], STUCK)[0]
    noticed = os.read(reads, 1000).decode() if inside else "time"
    if noticed:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)
    os.close(reads)
    status = os.waitpid(pid, 0)[1]
    return noticed or (None if status == 0 else "time" if os.WIFSIGNALED(status) else "import")


def warm(tests):
    "Import what the tests import, and forget what is ours."
    os.chdir(ROOT)
    pytest.main(
        [*QUIET, "--collect-only", "-qq", "-p", "no:cov", *files_of(tests)], plugins=[Asked(())]
    )
    for name in list(sys.modules):
        if (
            (path := getattr(sys.modules[name], "__file__", None))
            and Path(path).is_relative_to(ROOT)
            and ".venv" not in path
            and name != "__main__"
        ):
            del sys.modules[name]


def wilson(killed, n, z=1.96):
    middle, width = (
        killed / n + z * z / (2 * n),
        z * math.sqrt(killed / n * (1 - killed / n) / n + z * z / (4 * n * n)),
    )
    return [round((middle + sign * width) / (1 + z * z / n), 3) for sign in (-1, 1)]


def score(module, sample, seed, by, seconds, killers):
    built, every = mutants(module, seed)
    tried, survived = sorted(itertools.islice(built, sample), key=lambda one: one["line"]), []
    for k, one in enumerate(tried):
        tests, total = chosen(one, by, seconds, killers.get(one["key"]))
        noticed = ask(module, one["code"], tests, total) if tests else None
        if noticed:
            killers[one["key"]] = noticed
        else:
            survived.append(
                dict(line=one["line"], was=one["was"], now=one["now"], asked=len(tests))
            )
        (STATE / "killers.json").write_text(json.dumps(killers))
        print(
            f"{module} {k + 1}/{len(tried)} {'noticed by ' + noticed if noticed else 'SURVIVED'}:",
            f"line {one['line']}: {one['was'][:80]} -> {one['now'][:80]}",
            flush=True,
        )
    noticing = sorted(
        {killers[one["key"]] for one in tried if killers.get(one["key"], "").startswith("tests")}
    )
    if ask(
        module,
        (PACKAGE / f"{module}.py").read_text(),
        noticing,
        sum(seconds[test] for test in noticing),
    ):
        sys.exit(f"tests that noticed fail on the whole {module} too")
    killed = len(tried) - len(survived)
    return dict(
        mutants=every,
        tried=len(tried),
        killed=killed,
        score=round(killed / len(tried), 3),
        interval=wilson(killed, len(tried)),
        survived=survived,
    )


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--sample", type=int, default=100, help="mutants a module")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--modules", nargs="*", default=MODULES)
    args = p.parse_args()
    STATE.mkdir(parents=True, exist_ok=True)
    by, seconds = coming_by()
    killers = (
        json.loads((STATE / "killers.json").read_text())
        if (STATE / "killers.json").exists()
        else {}
    )
    warm(seconds)
    place = ROOT / "results" / "mutation.json"
    scores = json.loads(place.read_text())["modules"] if place.exists() else {}
    for module in args.modules:
        scores[module] = score(module, args.sample, args.seed, by, seconds, killers)
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        about = dict(
            command="make mutate",
            mutants=f"mutmut {importlib.metadata.version('mutmut')}",
            python=platform.python_version(),
            torch=importlib.metadata.version("torch"),
            seed=args.seed,
            slow=SLOW,
            budget=BUDGET,
            commit=commit,
            date=datetime.date.today().isoformat(),
        )
        place.write_text(json.dumps(dict(about=about, modules=scores), indent=1) + "\n")
        print(module, {k: v for k, v in scores[module].items() if k != "survived"}, flush=True)


if __name__ == "__main__":
    main()
