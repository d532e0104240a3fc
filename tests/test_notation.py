"""Every name on the notation page exists, and every equation that it points to."""
import importlib
import inspect
import re

import ledger
import pytest

import guided_diffusion_edu as gde


def rows(root):
    for line in (root / 'nbs' / 'notation.md').read_text().split('## The conventions')[0].splitlines():
        if line.startswith('| $'): yield [column.strip() for column in line.strip('|').split('|')]


def find(name):
    "What a name of the page stands for: an attribute of the package or of a module, `C.a` of a class or of its instances, `f(a)` an argument."
    path, argument = re.fullmatch(r'([\w.]+)(?:\((\w+)\))?', name).groups()
    examples = dict(Schedule=gde.linear_schedule())
    first, *rest = path.split('.')
    found = getattr(gde, first, None) or importlib.import_module(f'guided_diffusion_edu.{first}')
    for part in rest: found = getattr(examples.get(first, found), part)
    return found if argument is None else inspect.signature(found).parameters[argument]


def test_every_name_exists(root):
    names = [name for row in rows(root) for name in re.findall(r'`([^`]+)`', row[1])]
    assert len(names) > 40
    for name in names: find(name)
    for wrong in ('posterior_means', 'Schedule.gammas', 'guided_mean(scale)'):
        with pytest.raises((AttributeError, KeyError, ModuleNotFoundError)): find(wrong)


def test_every_symbol_is_defined_somewhere(root):
    labels = {label for label, _ in ledger.labels()}
    for row in rows(root):
        assert len(row) == 5, row
        assert set(re.findall(r'\{eq\}`([^`]+)`', row[4])) <= labels and ('{eq}' in row[4] or '{doc}' in row[4])
