"""The proof ledger is full: every labelled equation has its page, its symbol and its two tests;
nothing is named that is not there.
"""

import importlib

import pytest

import ledger


def test_every_equation_is_in_every_column():
    entries = ledger.entries()
    assert len(entries) >= 40
    assert len(list(ledger.labels())) == len(entries), "a label stands twice"
    assert {label: entry.missing() for label, entry in entries.items() if entry.missing()} == {}


def test_no_test_without_its_equation():
    for kind, path in ledger.TESTS.items():
        names = ledger.test_names(path)
        assert len(set(names)) == len(names), f"a {kind} test stands twice and hides the first"
        assert set(names) == {"test_" + label.replace("-", "_") for label, _ in ledger.labels()}


def test_every_symbol_can_be_imported():
    for entry in ledger.entries().values():
        for symbol in entry.symbols:
            package, module, *names = symbol.split(".")
            found = importlib.import_module(f"{package}.{module}")
            for name in names:
                found = getattr(found, name)
            assert entry.label in found.__doc__


def test_a_gap_is_reported(monkeypatch):
    names = ledger.test_names
    monkeypatch.setattr(
        ledger,
        "test_names",
        lambda path: [name for name in names(path) if name != "test_eq_eps_hat"],
    )
    citations = list(ledger.citations())
    monkeypatch.setattr(
        ledger,
        "citations",
        lambda: [citation for citation in citations if citation[0] != "eq-taylor"],
    )
    entries = ledger.entries()
    assert entries["eq-eps-hat"].missing() == ["symbolic", "numeric"] and entries[
        "eq-taylor"
    ].missing() == ["symbol in the code"]
    monkeypatch.setattr(
        ledger, "citations", lambda: [*citations, ("eq-nowhere", "module.function", None)]
    )
    with pytest.raises(KeyError, match="eq-nowhere"):
        ledger.entries()
