"""Metrics against other libraries, brute force and closed forms; the evaluation classifier."""

import itertools

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import guided_diffusion_edu as gde
from guided_diffusion_edu import evaluation
from guided_diffusion_edu.batches import Batch
from guided_diffusion_edu.cli import main
from guided_diffusion_edu.evaluation import (
    Gaussian,
    fid_infinity,
    frechet_distance,
    merge_moments,
    moments,
)
from guided_diffusion_edu.features import (
    evaluation_classifier,
    extract,
    feature_network,
    train_evaluation_classifier,
)
from helpers import DOUBLE, batch, randn

quiet = settings(deadline=None, max_examples=25, derandomize=True)

seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def classifier():
    return evaluation_classifier("digits")


# properties


@quiet
@given(
    seed=seeds,
    cuts=st.lists(st.integers(1, 59), unique=True, max_size=8),
    shift=st.sampled_from([0.0, 1e3, 1e6]),
)
def test_moments_merge_in_any_split(seed, cuts, shift):
    x = shift + randn(60, 3, seed=seed)
    edges = [0, *sorted(cuts), 60]
    parts = [moments(x[a:b]) for a, b in itertools.pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_moments(merged, part)
    whole = moments(x)
    assert merged.count == 60 and torch.allclose(merged.mean, whole.mean, rtol=1e-14, atol=1e-14)
    assert torch.allclose(
        merged.scatter, whole.scatter, rtol=1e-12, atol=60 * 1e-15 * max(1, shift) * 100
    )


@quiet
@given(seed=seeds, D=st.integers(1, 6), n=st.integers(2, 30))
def test_fid_is_zero_for_equal_sets_symmetric_and_blind_to_rotation(seed, D, n):
    x, y = randn(n, D, seed=seed), 1 + 2 * randn(n + 3, D, seed=seed + 1)
    turn, shift = torch.linalg.qr(randn(D, D, seed=seed + 2)).Q, randn(D, seed=seed + 3)
    assert (
        gde.fid(x, x) < 1e-10 and gde.fid(x, x.flip(0)) < 1e-10
    )  # also where n <= D and the covariance is singular
    assert gde.fid(x, y) == pytest.approx(gde.fid(y, x), rel=1e-9)
    assert gde.fid(x @ turn + shift, y @ turn + shift) == pytest.approx(gde.fid(x, y), rel=1e-8)
    assert gde.fid(3 * x, 3 * y) == pytest.approx(9 * gde.fid(x, y), rel=1e-9)


@quiet
@given(seed=seeds, n=st.integers(1, 20), classes=st.integers(2, 6))
def test_inception_score_lies_between_1_and_the_classes(seed, n, classes):
    score = gde.inception_score((5 * randn(n, classes, seed=seed)).softmax(1))
    assert 1 - 1e-9 <= score <= classes + 1e-9


@quiet
@given(seed=seeds, block=st.integers(1, 40), k=st.integers(1, 5))
def test_blocks_change_nothing(seed, block, k):
    real, fake = randn(30, 4, seed=seed), 0.8 * randn(23, 4, seed=seed + 1)
    for a, b in zip(
        evaluation.manifolds(real, fake, k, block), evaluation.manifolds(real, fake, k, 1000)
    ):
        assert torch.equal(a, b)


# closed forms and other libraries


def test_fid_of_gaussians_with_common_axes():
    turn = torch.linalg.qr(randn(4, 4)).Q
    spreads = torch.tensor(
        [[1.0, 2.0, 0.0, 3.0], [2.0, 2.0, 1.0, 0.5]], dtype=DOUBLE
    )  # one direction without variance
    a, b = (
        Gaussian(mean, turn @ torch.diag(spread**2) @ turn.T)
        for mean, spread in zip(randn(2, 4, seed=1), spreads)
    )
    assert frechet_distance(a, b) == pytest.approx(
        ((a.mean - b.mean) ** 2).sum().item() + ((spreads[0] - spreads[1]) ** 2).sum().item(),
        rel=1e-10,
    )


def test_fid_by_scipys_matrix_square_root():
    from scipy.linalg import sqrtm

    x, y = (
        randn(300, 12) @ randn(12, 12, seed=1),
        0.3 + randn(200, 12, seed=2) @ randn(12, 12, seed=3),
    )
    a, b = numpy.cov(x.numpy(), rowvar=False), numpy.cov(y.numpy(), rowvar=False)
    expected = (
        ((x.mean(0) - y.mean(0)) ** 2).sum().item()
        + numpy.trace(a)
        + numpy.trace(b)
        - 2 * numpy.trace(sqrtm(a @ b)).real
    )
    assert gde.fid(x, y) == pytest.approx(expected, rel=1e-8)


class Flat(torch.nn.Module):
    "A feature network for torchmetrics: the pixels themselves."

    num_features = 12

    def forward(self, x):
        return x.double().flatten(1)


def test_fid_by_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    pixels = torch.randint(
        0, 256, (2, 90, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels[1] //= 2
    theirs = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2)).set_dtype(DOUBLE)
    for part in pixels[0].split(40):
        theirs.update(part, real=True)
    theirs.update(pixels[1], real=False)
    ours = gde.fid(*(part.double().flatten(1) for part in pixels))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


class Logits(torch.nn.Module):
    "A classifier for torchmetrics: logits from pixels."

    def forward(self, x):
        return x.flatten(1)[:, :6].double() / 40


def test_inception_score_by_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    pixels = torch.randint(
        0, 256, (100, 3, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    theirs = InceptionScore(feature=Logits(), splits=1)
    theirs.update(pixels)
    assert gde.inception_score(Logits()(pixels).softmax(1)) == pytest.approx(
        theirs.compute()[0].item(), rel=1e-6
    )


def brute_force(real, fake, k):
    "All four numbers, one pair at a time."

    def radius(points, i):
        return sorted(
            torch.dist(points[i], points[j]).item() for j in range(len(points)) if j != i
        )[k - 1]

    real_radii, fake_radii = [
        [radius(points, i) for i in range(len(points))] for points in (real, fake)
    ]
    inside = [[torch.dist(f, g).item() <= r for f, r in zip(real, real_radii)] for g in fake]
    recalled = [any(torch.dist(f, g).item() <= r for g, r in zip(fake, fake_radii)) for f in real]

    def mean(values):
        return sum(values) / len(values)

    return (
        mean([any(row) for row in inside]),
        mean(recalled),
        sum(map(sum, inside)) / (k * len(fake)),
        mean([any(column) for column in zip(*inside)]),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_manifolds_by_brute_force(k):
    real, fake = randn(30, 3), 1.5 * randn(24, 3, seed=1) + 0.5
    found = evaluation.manifolds(real, fake, k, block=7)
    assert [part.mean().item() for part in found] == pytest.approx(brute_force(real, fake, k))
    assert gde.precision_recall(real, fake, k) == pytest.approx(brute_force(real, fake, k)[:2])
    assert 0 < found.precision.mean() < 1 and 0 < found.recall.mean() < 1


def test_split_score_is_the_released_one():
    probs = randn(25, 4).softmax(1)
    expected = [
        gde.inception_score(probs[:10]),
        gde.inception_score(probs[10:20]),
        gde.inception_score(probs[20:]),
    ]
    assert evaluation.split_inception_score(probs, 10) == pytest.approx(sum(expected) / 3)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: gde.fid(randn(4, 2), randn(4, 3)), "got 2 and 3"),
        (lambda: gde.fid(randn(4), randn(4, 3)), r"shape \(N, D\)"),
        (lambda: gde.fid(randn(1, 2), randn(4, 2)), "at least 2 samples"),
        (lambda: gde.fid(randn(4, 2) / 0, randn(4, 2)), "finite"),
        (lambda: gde.inception_score(randn(4, 3)), "probs must be probabilities"),
        (lambda: gde.inception_score(torch.ones(4, 3)), "sums from 3"),
        (lambda: gde.precision_recall(randn(3, 2), randn(9, 2), k=3), "k = 3 for 3"),
        (lambda: gde.precision_recall(randn(9, 2), randn(9, 3)), "got 2 and 3"),
        (lambda: fid_infinity(moments(randn(9, 4)), randn(6, 4)), "to extrapolate, got 6"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# features


def test_the_evaluation_classifier_is_the_same_twice_and_moves_nobodys_random_numbers():
    data = gde.load_data("digits")
    torch.manual_seed(0)
    first = train_evaluation_classifier(data, steps=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    second = train_evaluation_classifier(data, steps=3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1)) and all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters())
    )
    assert not torch.equal(
        first.head.weight, train_evaluation_classifier(data, steps=3, seed=1).head.weight
    )


def test_the_evaluation_classifier_sees_grey_and_one_channel_alike(classifier):
    pixels = gde.load_data("digits", train=False).pixels
    for a, b in zip(classifier(pixels), classifier(pixels.expand(-1, 3, -1, -1))):
        assert torch.allclose(a, b, atol=1e-5)
    assert (
        classifier(pixels).probs.argmax(1) == gde.load_data("digits", train=False).labels
    ).double().mean() > 0.96
    with pytest.raises(ValueError, match="1 channels"):
        classifier(torch.zeros(2, 2, 8, 8, dtype=torch.uint8))


def test_shipped_results_are_read():
    from guided_diffusion_edu.tradeoff import WAYS, read_results

    record = read_results("tradeoff-digits")
    assert (
        {row["way"] for row in record["rows"]} == {*WAYS}
        and record["about"]["weights"] == "digits"
        and record["commands"][0]["command"].startswith("gde tradeoff")
    )


def test_real_digits_score_better_than_noise(tmp_path, classifier):
    data, held_out = gde.load_data("digits"), gde.load_data("digits", train=False)
    reference = extract(classifier, data.pixels)
    real = evaluation.scores(
        reference, extract(classifier, held_out.pixels), held_out.labels, repeats=20
    )
    noise = evaluation.scores(
        reference,
        extract(classifier, Batch(batch(tmp_path / "n.npz", 360))),
        held_out.labels,
        repeats=20,
    )
    assert (
        real["FID"][2] < noise["FID"][1]
        and real["precision"][1] > noise["precision"][2]
        and real["accuracy"][0] > 0.96 > 0.3 > noise["accuracy"][0]
    )
    assert all(low <= value <= high for value, low, high in real.values() if low is not None)
    again = evaluation.scores(
        reference, extract(classifier, held_out.pixels), held_out.labels, repeats=20
    )  # whatever else has been drawn
    assert again == real


def test_too_few_images_are_refused(classifier):
    pixels = gde.load_data("digits").pixels
    few, many = extract(classifier, pixels[:112]), extract(classifier, pixels[:113])
    for names, real, drawn in (("reference", few, many), ("samples", many, few)):
        with pytest.raises(ValueError, match=f"{names} must hold at least 113 images .* got 112"):
            evaluation.scores(real, drawn, repeats=0)
    evaluation.scores(many, many, repeats=0)
    with pytest.raises(ValueError, match="samples must hold images, got statistics only"):
        evaluation.scores(many, evaluation.FeatureStatistics(many.pooled), repeats=0)


@pytest.mark.parametrize("argv", [["evaluate", "--help"], ["tradeoff", "--help"]])
def test_help_has_an_example(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0 and "example" in capsys.readouterr().out


def test_an_evaluation_classifier_is_for_images_of_its_size(classifier):
    with pytest.raises(
        ValueError, match=r"pixels must be of size \(8, 8\) for these features, got \(16, 16\)"
    ):
        classifier(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    assert feature_network("digits", 16).size == (16, 16)
