"""The proof ledger is full: every labelled equation has its page, its symbol and its two tests;
nothing is named that is not there.
"""

import pkgutil

import pytest

import ledger


def test_every_equation_is_in_every_column():
    entries = ledger.entries()
    assert len(entries) >= 40
    assert len(list(ledger.labels())) == len(entries), "a label stands twice"
    assert {label: entry.missing() for label, entry in entries.items() if entry.missing()} == {}


def test_no_test_without_its_equation_and_each_beside_its_page():
    pages = dict(ledger.labels())
    for kind in ledger.KINDS:
        found = [
            (name, path) for path in ledger.test_files(kind) for name in ledger.test_names(path)
        ]
        names = [name for name, _ in found]
        assert len(set(names)) == len(names), f"a {kind} test stands twice"
        assert set(names) == {"test_" + label.replace("-", "_") for label in pages}
        for name, path in found:
            part, page = pages[name.removeprefix("test_").replace("_", "-")].split("/")[1:]
            assert path.parts[-2:] == (part, f"test_{page}_{kind}.py"), name


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("Equation: `eq-a`; Ho et al. 2020, Eq. 14.", [("eq-a", "Ho et al. 2020, Eq. 14")]),
        ("Words. Equation: `eq-a`", [("eq-a", None)]),
        ("Equations: `eq-a`, `eq-b`; X 1.", [("eq-a", "X 1"), ("eq-b", "X 1")]),
        ("Equations: `eq-a`; X 1. `eq-b`; Y 2.", [("eq-a", "X 1"), ("eq-b", "Y 2")]),
        ("Equations: `eq-a`; `eq-b`; Y 2.", [("eq-a", None), ("eq-b", "Y 2")]),
        ("First.\n\nEquation: `eq-a`;\nX, Eqs. 1\nand 2.\n", [("eq-a", "X, Eqs. 1 and 2")]),
        ("As Eq. `eq-a` says, it is so.", []),
    ],
)
def test_citations_are_read(text, wanted):
    assert list(ledger.cited(text)) == wanted


def test_every_symbol_can_be_imported():
    for entry in ledger.entries().values():
        for symbol in entry.symbols:
            assert entry.label in pkgutil.resolve_name(symbol).__doc__


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
