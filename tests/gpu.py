"""What `make test-gpu` runs, on a machine with a GPU: each notebook that has a `cuda` cell, whole and in an empty folder, and the tests marked `gpu`.

The report, with device and versions, goes to results/gpu-<device>.json. Ends with 1 where something failed, which the report then names."""
import json, subprocess, sys, tempfile, time
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from guided_diffusion_edu.training import provenance, write_text

ROOT = Path(__file__).parents[1]


def wanting(folder):
    "The notebooks that have a cell for a GPU."
    for path in sorted(folder.glob('*.ipynb')):
        notebook = nbformat.read(path, 4)
        if any('#| cuda' in cell.source.splitlines() for cell in notebook.cells): yield path, notebook


def run(notebook):
    "Seconds of the run, and the error that ended it or None."
    began, error = time.time(), None
    with tempfile.TemporaryDirectory() as folder:
        try: NotebookClient(notebook, timeout=3600, resources=dict(metadata=dict(path=folder))).execute()
        except CellExecutionError as found: error = f'{found.ename}: {found.evalue}'
    return dict(seconds=round(time.time() - began, 1), error=error)


def tests():
    "{test: None or what is wrong} of those marked `gpu`."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / 'report.xml'
        subprocess.run([sys.executable, '-m', 'pytest', '-m', 'gpu', f'--junitxml={report}', str(ROOT / 'tests')], cwd=ROOT)
        cases = ElementTree.parse(report).iter('testcase')
        return {case.get('name'): next((part.get('message') for part in case if part.tag in ('failure', 'error', 'skipped')), None) for case in cases}


def main():
    if not torch.cuda.is_available(): sys.exit('make test-gpu needs a GPU, and torch finds none')
    report = dict(about=dict(command='make test-gpu', **provenance()), notebooks={path.stem: run(notebook) for path, notebook in wanting(ROOT / 'nbs')}, tests=tests())
    write_text(ROOT / 'results' / f'gpu-{report["about"]["device"].replace(" ", "-")}.json', json.dumps(report, indent=1) + '\n')
    wrong = [name for name, found in report['notebooks'].items() if found['error']] + [name for name, message in report['tests'].items() if message]
    sys.exit(f'failed: {", ".join(wrong)}' if wrong else 0)


if __name__ == '__main__': main()
