"""Metrics against other libraries, brute force and closed forms; batches in the evaluator's layout, good and bad; `gde evaluate`; memory."""

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import guided_diffusion_edu as gde
from guided_diffusion_edu import evaluation
from guided_diffusion_edu.cli import main, write_npz
from guided_diffusion_edu.evaluation import (
    Batch,
    Gaussian,
    evaluation_classifier,
    extract,
    frechet_distance,
    merge_moments,
    moments,
)

DOUBLE = torch.float64
quiet = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 10_000)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def judge():
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
    parts = [moments(x[a:b]) for a, b in zip(edges, edges[1:])]
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
    mean = lambda values: sum(values) / len(values)
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
        (lambda: gde.fid_infinity(moments(randn(9, 4)), randn(6, 4)), "to extrapolate, got 6"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# features


def test_the_judge_is_the_same_twice_and_moves_nobodys_random_numbers():
    data = gde.load_data("digits")
    torch.manual_seed(0)
    first = evaluation.train_evaluation_classifier(data, steps=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    second = evaluation.train_evaluation_classifier(data, steps=3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1)) and all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters())
    )
    assert not torch.equal(
        first.head.weight, evaluation.train_evaluation_classifier(data, steps=3, seed=1).head.weight
    )


def test_the_judge_sees_grey_and_one_channel_alike(judge):
    pixels = gde.load_data("digits", train=False).pixels
    for a, b in zip(judge(pixels), judge(pixels.expand(-1, 3, -1, -1))):
        assert torch.allclose(a, b, atol=1e-5)
    assert (
        judge(pixels).probs.argmax(1) == gde.load_data("digits", train=False).labels
    ).double().mean() > 0.96
    with pytest.raises(ValueError, match="1 channels"):
        judge(torch.zeros(2, 2, 8, 8, dtype=torch.uint8))


def test_extraction_in_blocks_is_the_whole(judge):
    pixels = gde.load_data("digits", train=False).pixels
    whole, parts = extract(judge, pixels, block=360), extract(judge, pixels, block=77)
    assert torch.allclose(whole.pool, parts.pool, atol=1e-6) and torch.allclose(
        whole.spatial.covariance, parts.spatial.covariance, rtol=1e-6, atol=1e-9
    )
    assert parts.spatial.count == 360 and frechet_distance(whole.law, parts.law) < 1e-8


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    "The architecture of torch-fidelity's Inception with random weights, as a file."
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_gives_the_released_features(inception_file, monkeypatch):
    monkeypatch.setattr(
        evaluation, "INCEPTION_SHA256", hashlib.sha256(inception_file.read_bytes()).hexdigest()
    )
    network = evaluation.feature_network(f"inception:{inception_file}")
    pixels = torch.randint(
        0, 256, (2, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    layers = {}
    network.network.Mixed_6d.register_forward_hook(
        lambda module, inputs, output: layers.update(before=inputs[0])
    )
    found = network(pixels)
    assert (
        found.pool.shape == (2, 2048)
        and found.spatial.shape == (2, 17 * 17 * 7)
        and found.probs.shape == (2, 1008)
    )
    maps = network.network.Mixed_6d.branch1x1(layers["before"])
    assert (
        torch.equal(found.spatial.view(2, 17, 17, 7)[:, 3, 5], maps[:, :7, 3, 5])
        and found.spatial.min() >= 0
    )
    logits = found.pool @ network.network.fc.weight.T  # without the bias
    assert torch.allclose(found.probs, logits.softmax(1), atol=1e-6)
    with pytest.raises(ValueError, match="3 channels"):
        network(pixels[:, :1])


def test_inception_with_other_weights_is_never_opened(inception_file, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ValueError, match="it was not opened"):
        evaluation.Inception(inception_file)


def test_inception_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"guided_diffusion_edu\[inception\]"):
        evaluation.Inception("anywhere")


def test_inception_is_fetched_once(tmp_path, monkeypatch):
    asked = []

    def fetch(url, place, hash_prefix):
        asked.append((url, hash_prefix))
        open(place, "w").write("weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert (
            evaluation._fetched("https://there/inception.pth")
            == tmp_path / "hub" / "checkpoints" / "inception.pth"
        )
    assert asked == [("https://there/inception.pth", evaluation.INCEPTION_SHA256)]
    with pytest.raises(ValueError, match="it was not opened"):
        evaluation.Inception()  # what was fetched is looked at again


def test_shipped_results_are_read():
    from guided_diffusion_edu.tradeoff import WAYS, read_results

    record = read_results("tradeoff-digits")
    assert (
        {row["way"] for row in record["rows"]} == {*WAYS}
        and record["about"]["weights"] == "digits"
        and record["commands"][0]["command"].startswith("gde tradeoff")
    )


# batches in files


def batch(path, count=150, size=8, channels=3, labels=True, seed=0):
    "A sample batch of noise."
    pixels = numpy.random.default_rng(seed).integers(
        0, 256, (count, size, size, channels), dtype=numpy.uint8
    )
    numpy.savez(path, pixels, *([numpy.arange(count) % 10] if labels else []))
    return path


def test_a_batch_comes_back_in_blocks(tmp_path):
    images, y = torch.rand(9, 1, 4, 4) * 2 - 1, torch.arange(9)
    write_npz(tmp_path / "a.npz", images, y, "0123456789")
    found = Batch(tmp_path / "a.npz")
    assert (found.count, found.size) == (9, (4, 4, 3)) and torch.equal(found.array("arr_1"), y)
    blocks = list(found.split(4))
    assert [len(b) for b in blocks] == [4, 4, 1] and torch.equal(
        torch.cat(blocks), gde.to_pixels(images).expand(-1, 3, -1, -1)
    )
    numpy.savez_compressed(tmp_path / "b.npz", torch.cat(blocks).permute(0, 2, 3, 1).numpy())
    assert torch.equal(torch.cat(list(Batch(tmp_path / "b.npz").split(5))), torch.cat(blocks))


def test_statistics_are_written_as_the_evaluator_reads_them(tmp_path, judge):
    found = extract(judge, Batch(batch(tmp_path / "a.npz")))
    evaluation.write_reference(tmp_path / "ref.npz", found, "digits")
    with numpy.load(tmp_path / "ref.npz") as read:  # as numpy reads it, without pickles
        assert numpy.allclose(read["mu"], found.pool.double().mean(0)) and numpy.allclose(
            read["sigma"], numpy.cov(found.pool.double().numpy(), rowvar=False)
        )
        assert read["mu_s"].shape == (112,) and read["sigma_s"].shape == (112, 112)
    again = evaluation.extract_reference(judge, Batch(tmp_path / "ref.npz"))
    assert (
        again.pool is None
        and frechet_distance(again.law, found.law) < 1e-9
        and frechet_distance(again.spatial, found.spatial) < 1e-9
    )


def test_statistics_know_the_pictures_of_their_judge(tmp_path):
    "A judge is named by its data, and a folder under one name may hold others tomorrow."
    (tmp_path / "a").mkdir()
    names = []
    for shade in (0, 0, 9):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / "a" / "0.png")
        names.append(evaluation.features_of(f"folder:{tmp_path}", 8))
    assert names[0] == names[1] != names[2] and all(
        name.startswith(f"folder:{tmp_path} at 8, of ") for name in names
    )
    assert (
        evaluation.features_of("digits", 8) == "digits at 8"
        and evaluation.features_of("inception:a.pth", 8) == "inception:a.pth"
    )


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)


def member(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data)


BAD = {  # name -> (what is done to the file, what is said)
    "cut": (
        lambda p: p.write_bytes(batch(p).read_bytes()[:2000]),
        "is not: File is not a zip file",
    ),
    "text": (lambda p: p.write_text("no archive"), "is not: File is not a zip file"),
    "pickle": (lambda p: numpy.savez(p, numpy.array([Payload()], dtype=object)), "can run code"),
    "other arrays": (
        lambda p: numpy.savez(p, x=numpy.zeros(3)),
        "samples (arr_0) or statistics (mu)",
    ),
    "floats": (lambda p: numpy.savez(p, numpy.zeros((4, 8, 8, 3))), "arr_0 must be uint8"),
    "flat": (
        lambda p: numpy.savez(p, numpy.zeros((4, 64), dtype=numpy.uint8)),
        "arr_0 must be uint8 (N, H, W",
    ),
    "columns first": (
        lambda p: numpy.savez(
            p, numpy.asfortranarray(numpy.zeros((4, 8, 8, 3), dtype=numpy.uint8))
        ),
        "columns first",
    ),
    "a newer header": (
        lambda p: member(p, b"\x93NUMPY\x03\x00" + bytes(40)),
        "must be of .npy version 1 or 2, got (3, 0)",
    ),
    "a flipped bit": (lambda p: flipped(batch(p)), "Bad CRC-32"),
    "few": (
        lambda p: batch(p, count=112),
        "B must hold at least 113 samples for features of size 112, got 112",
    ),
    "another size": (
        lambda p: batch(p, size=9),
        "A and B must be of pictures of one size, got (8, 8, 3) and (9, 9, 3)",
    ),
    "missing": (lambda p: None, "there is none at"),
    "labels that do not fit": (
        lambda p: numpy.savez(
            p, numpy.zeros((150, 8, 8, 3), dtype=numpy.uint8), numpy.zeros(3, dtype=int)
        ),
        "arr_1 must be one class for each of 150",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_is_one_line_and_exit_code_2(tmp_path, capsys, name):
    good, bad = batch(tmp_path / "good.npz", seed=1), tmp_path / "bad.npz"
    make, said = BAD[name]
    make(bad)
    assert main(["evaluate", str(good), str(bad), "--features", "digits"]) == 2
    err = capsys.readouterr().err
    assert (
        said in err
        and err.count("\n") == 1
        and sorted(p.name for p in tmp_path.iterdir())
        == (["good.npz"] if name == "missing" else ["bad.npz", "good.npz"])
    )


def test_a_cut_member_is_noticed_while_it_streams(tmp_path):
    "An archive that is whole, with an array that promises more samples than there are."
    path = batch(tmp_path / "a.npz", labels=False)
    with zipfile.ZipFile(path) as archive:
        data = archive.read("arr_0.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data[:5000])
    with pytest.raises(ValueError, match="arr_0 ends after"):
        list(Batch(path).split(8))


# the command


def test_evaluate_prints_and_writes(tmp_path, capsys):
    a, b = batch(tmp_path / "a.npz", labels=False), batch(tmp_path / "b.npz", seed=1)
    assert (
        main(
            [
                "evaluate",
                str(a),
                str(b),
                "--repeats",
                "5",
                "--statistics",
                str(tmp_path / "ref.npz"),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("features: digits; 150 samples against 150\n") and "sFID" in out
    record = json.loads((tmp_path / "b.scores.json").read_text())
    assert set(record["scores"]) == {
        "FID",
        "FID infinity",
        "sFID",
        "IS",
        "precision",
        "recall",
        "density",
        "coverage",
    }  # which classes they are is not said
    assert record["features"] == "digits" and {
        "device",
        "torch",
        "version",
        "commit",
        "date",
    } <= set(record)
    pool_a, pool_b = (extract(evaluation_classifier("digits"), Batch(path)).pool for path in (a, b))
    assert record["scores"]["FID"][0] == pytest.approx(gde.fid(pool_a, pool_b), rel=1e-9)
    assert record["scores"]["precision"][0] == pytest.approx(
        gde.precision_recall(pool_a, pool_b)[0]
    )
    # statistics alone: the same distances, no manifolds
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "ref.npz"),
                str(b),
                "--repeats",
                "0",
                "--out",
                str(tmp_path / "c.json"),
            ]
        )
        == 0
    )
    again = json.loads((tmp_path / "c.json").read_text())["scores"]
    assert set(again) == {"FID", "FID infinity", "sFID", "IS"} and again["FID"] == [
        pytest.approx(record["scores"]["FID"][0]),
        None,
        None,
    ]
    assert (
        main(["evaluate", str(tmp_path / "ref.npz"), str(b), "--features", "mnist"]) == 2
        and "'digits at 8'" in capsys.readouterr().err
    )
    assert (
        main(["evaluate", str(b), str(tmp_path / "ref.npz")]) == 2
        and "with statistics only" in capsys.readouterr().err
    )


def test_real_digits_score_better_than_noise(tmp_path, judge):
    data, held_out = gde.load_data("digits"), gde.load_data("digits", train=False)
    reference = extract(judge, data.pixels)
    real = evaluation.scores(
        reference, extract(judge, held_out.pixels), held_out.labels, repeats=20
    )
    noise = evaluation.scores(
        reference,
        extract(judge, Batch(batch(tmp_path / "n.npz", 360))),
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
        reference, extract(judge, held_out.pixels), held_out.labels, repeats=20
    )  # whatever else has been drawn
    assert again == real


def test_the_extrapolation_goes_from_a_quarter_to_all(monkeypatch):
    counts = []
    monkeypatch.setattr(
        evaluation, "moments", lambda rows: counts.append(len(rows)) or moments(rows)
    )
    gde.fid_infinity(moments(randn(50, 4)), randn(400, 4), subsets=4)
    inverse = [
        1 / n for n in counts
    ]  # evenly spaced in 1 / N: the points lie evenly along the line
    assert (counts[0], counts[-1]) == (100, 400) and all(
        abs(a - b - (inverse[0] - inverse[-1]) / 3) < 1e-4 for a, b in zip(inverse, inverse[1:])
    )


@pytest.mark.parametrize("argv", [["evaluate", "--help"], ["tradeoff", "--help"]])
def test_help_has_an_example(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0 and "example" in capsys.readouterr().out


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
        assert torch.equal(reference.law.mean, whole.law.mean) and torch.equal(
            reference.law.covariance, whole.law.covariance
        )
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


def test_a_judge_of_other_classes_measures_no_accuracy(tmp_path, monkeypatch):
    from guided_diffusion_edu import tradeoff

    digits = gde.load_pretrained("digits")
    for labels in (digits.class_names, tuple("abcdefghij")):
        monkeypatch.setattr(
            tradeoff, "load_pretrained", lambda name: replace(digits, labels=labels)
        )
        record = gde.trade_off(
            "digits", tmp_path / f"{labels[0]}.json", scales=(0.0,), steps=(2,), count=130
        )
        assert (
            all(
                ("accuracy" in row["scores"]) == (labels == digits.class_names)
                for row in record["rows"]
            )
            and "accuracy" in record["real"]
        )


# memory

PEAK = """
import resource, sys
import torch
torch.set_num_threads(1)
from guided_diffusion_edu.evaluation import Batch, extract, judge_of, manifolds
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
{prepare}
before = peak()
{run}
print(peak() - before)
"""


def growth(prepare, run):
    "Megabytes by which the peak of a process grows while it does `run`."
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(prepare=prepare, run=run)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_memory_does_not_hold_the_distances():
    "5,000 against 5,000 in float64 would be 200 MB, three times; blocks of 200 are 8 MB each."
    assert (
        growth(
            "x = torch.randn(5000, 4); manifolds(x[:300], x[:300], block=200)",
            "manifolds(x, x + 1, block=200)",
        )
        < 80
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_memory_does_not_hold_the_pictures(tmp_path):
    "6,000 pictures of 64 x 64 x 3 are 74 MB, and 295 MB as floats."
    numpy.savez(tmp_path / "a.npz", numpy.zeros((6000, 64, 64, 3), dtype=numpy.uint8))
    prepare = f"""
from guided_diffusion_edu.data import Images
from guided_diffusion_edu.evaluation import train_judge
judge = train_judge(Images(torch.zeros(9, 3, 64, 64, dtype=torch.uint8), torch.zeros(9).long(), ("one",)), steps=1, batch=2)
batch = Batch({str(tmp_path / "a.npz")!r})
for block in batch.split(64): judge(block); break"""
    assert growth(prepare, "extract(judge, batch)") < 55


def test_the_extrapolation_does_not_depend_on_the_intervals(judge):
    data = gde.load_data("digits", train=False)
    reference, samples = extract(judge, gde.load_data("digits").pixels), extract(judge, data.pixels)
    assert (
        len(
            {evaluation.scores(reference, samples, repeats=n)["FID infinity"][0] for n in (0, 1, 5)}
        )
        == 1
    )


def test_a_judge_is_for_pictures_of_its_size(judge):
    with pytest.raises(
        ValueError, match=r"pixels must be of size \(8, 8\) for these features, got \(16, 16\)"
    ):
        judge(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    assert evaluation.feature_network("digits", 16).size == (16, 16)


def test_statistics_of_one_size_are_not_compared_with_another(tmp_path, capsys):
    small, large = (
        gde.load_data("digits", train=False).pixels[:200],
        gde.data.pad(gde.load_data("digits", train=False), 16).pixels[:200],
    )
    for name, pixels in (("a", small), ("b", small), ("c", large)):
        numpy.savez(
            tmp_path / f"{name}.npz", arr_0=pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
        )
    a, b, c = (str(tmp_path / f"{name}.npz") for name in "abc")
    assert (
        main(
            [
                "evaluate",
                a,
                b,
                "--features",
                "digits",
                "--repeats",
                "0",
                "--statistics",
                str(tmp_path / "s.npz"),
            ]
        )
        == 0
    )
    assert (
        main(["evaluate", str(tmp_path / "s.npz"), b, "--features", "digits", "--repeats", "0"])
        == 0
    )
    assert (
        main(["evaluate", str(tmp_path / "s.npz"), c, "--features", "digits", "--repeats", "0"])
        == 2
    )
    assert "--features must be those of the statistics" in capsys.readouterr().err


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
    tensors, record = gde.training.read_tensors(tmp_path / "w" / "classifier.safetensors")
    name = sorted(tensors)[0]
    gde.training.write_tensors(
        tmp_path / "w" / "classifier.safetensors", tensors | {name: tensors[name] + 1}, record
    )
    with pytest.raises(ValueError, match="out must be a new file or one of the same settings"):
        gde.trade_off(str(tmp_path / "w"), tmp_path / "a.json", **about)
