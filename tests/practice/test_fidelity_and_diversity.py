"""`gde tradeoff`: what it measures, and that it can be taken up again."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu import evaluation
from guided_diffusion_edu.checkpoints import read_tensors, write_tensors
from guided_diffusion_edu.cli import main
from guided_diffusion_edu.evaluation import fid_infinity, moments
from guided_diffusion_edu.features import evaluation_classifier, extract
from helpers import randn


@pytest.fixture(scope="module")
def network():
    return evaluation_classifier("digits")


def test_the_extrapolation_goes_from_a_quarter_to_all(monkeypatch):
    counts = []
    monkeypatch.setattr(
        evaluation, "moments", lambda rows: counts.append(len(rows)) or moments(rows)
    )
    fid_infinity(moments(randn(50, 4)), randn(400, 4), subsets=4)
    inverse = [
        1 / n for n in counts
    ]  # evenly spaced in 1 / N: the points lie evenly along the line
    assert (counts[0], counts[-1]) == (100, 400) and all(
        abs(a - b - (inverse[0] - inverse[-1]) / 3) < 1e-4 for a, b in itertools.pairwise(inverse)
    )


def test_tradeoff_measures_neighbourhoods_of_the_first_real_ones_and_moments_of_all(
    tmp_path, monkeypatch
):
    from guided_diffusion_edu import tradeoff

    seen, whole = [], extract(evaluation_classifier("digits"), gde.load_data("digits").pixels)
    monkeypatch.setattr(tradeoff, "MANIFOLD", 40)
    monkeypatch.setattr(tradeoff, "scores", lambda reference, *rest: seen.append(reference) or {})
    tradeoff.trade_off("digits", tmp_path / "out.json", scales=(0.0,), steps=(2,), count=3)
    for reference in seen:
        assert torch.equal(reference.pool, whole.pool[:40])
        assert torch.equal(reference.pooled.mean, whole.pooled.mean)
        assert torch.equal(reference.pooled.covariance, whole.pooled.covariance)
    assert len(seen) == 4  # the held-out real ones, and three ways


def test_tradeoff_resumes_and_refuses_other_settings(tmp_path, capsys):
    out = tmp_path / "t.json"
    argv = ["tradeoff", "--steps", "2", "--count", "130", "--out", str(out), "--scales"]
    assert main([*argv, "1"]) == 0
    first = json.loads(out.read_text())
    assert len(first["rows"]) == 3 and first["commands"][0]["command"].startswith(
        "gde tradeoff --weights digits"
    )
    assert main([*argv, "1,2"]) == 0
    second = json.loads(out.read_text())
    assert (
        second["rows"][:3] == first["rows"]
        and [row["scale"] for row in second["rows"]] == [1] * 3 + [2] * 3
    )
    assert main([*argv, "1", "--seed", "1"]) == 2 and "same settings" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*argv, "one"])


def test_a_classifier_of_other_classes_measures_no_accuracy(tmp_path, monkeypatch):
    from guided_diffusion_edu import tradeoff

    digits = gde.load_pretrained("digits")
    for names in (digits.class_names, tuple("abcdefghij")):
        other = replace(digits, class_names=names)
        monkeypatch.setattr(tradeoff, "load_pretrained", lambda _, other=other: other)
        out = tmp_path / f"{names[0]}.json"
        record = gde.trade_off("digits", out, scales=(0.0,), steps=(2,), count=130)
        known = ["accuracy" in row["scores"] for row in record["rows"]]
        assert known == [names == digits.class_names] * 3 and "accuracy" in record["real"]


def test_the_extrapolation_does_not_depend_on_the_intervals(network):
    reference, samples = (
        extract(network, gde.load_data("digits", train=train).pixels) for train in (True, False)
    )
    scores = [evaluation.scores(reference, samples, repeats=n) for n in (0, 1, 5)]
    assert len({score["FID infinity"][0] for score in scores}) == 1


def test_a_record_of_an_older_version_goes_on(tmp_path):
    about = dict(scales=(0.0,), steps=(2,), count=130, data="digits")
    record = gde.trade_off("digits", tmp_path / "a.json", **about)
    del record["about"]["weights_sha256"]
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert gde.trade_off("digits", tmp_path / "a.json", **about)["rows"] == json.loads(
        json.dumps(record["rows"])
    )


def test_a_tradeoff_does_not_go_on_with_other_weights(tmp_path, root):
    import shutil

    shutil.copytree(root / "guided_diffusion_edu" / "weights" / "digits", tmp_path / "w")
    about = dict(scales=(0.0,), steps=(2,), count=130, data="digits")
    gde.trade_off(str(tmp_path / "w"), tmp_path / "a.json", **about)
    file = tmp_path / "w" / "classifier.safetensors"
    tensors, record = read_tensors(file)
    name = sorted(tensors)[0]
    write_tensors(file, tensors | {name: tensors[name] + 1}, record)
    with pytest.raises(ValueError, match="out must be a new file or one of the same settings"):
        gde.trade_off(str(tmp_path / "w"), tmp_path / "a.json", **about)
