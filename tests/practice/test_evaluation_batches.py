"""Batches of samples as files, statistics, released features, `gde evaluate`; and memory."""

import hashlib
import json
import subprocess
import sys
import zipfile

import numpy
import pytest
import torch
from PIL import Image

import guided_diffusion_edu as gde
from guided_diffusion_edu import features
from guided_diffusion_edu.batches import Batch, read_labels, write_npz, write_reference
from guided_diffusion_edu.cli import main
from guided_diffusion_edu.evaluation import frechet_distance
from guided_diffusion_edu.features import (
    describe_features,
    evaluation_classifier,
    extract,
    extract_reference,
)
from helpers import batch


@pytest.fixture(scope="module")
def classifier():
    return evaluation_classifier("digits")


def test_extraction_in_blocks_is_the_whole(classifier):
    pixels = gde.load_data("digits", train=False).pixels
    whole, parts = extract(classifier, pixels, block=360), extract(classifier, pixels, block=77)
    assert torch.allclose(whole.pool, parts.pool, atol=1e-6) and torch.allclose(
        whole.spatial.covariance, parts.spatial.covariance, rtol=1e-6, atol=1e-9
    )
    assert parts.spatial.count == 360 and frechet_distance(whole.pooled, parts.pooled) < 1e-8


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
        features, "INCEPTION_SHA256", hashlib.sha256(inception_file.read_bytes()).hexdigest()
    )
    network = features.feature_network(f"inception:{inception_file}")
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
        features.Inception(inception_file)


def test_inception_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"guided_diffusion_edu\[inception\]"):
        features.Inception("anywhere")


def test_inception_is_fetched_once(tmp_path, monkeypatch):
    asked = []

    def fetch(url, place, hash_prefix):
        asked.append((url, hash_prefix))
        open(place, "w").write("weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert (
            features._fetch_inception("https://there/inception.pth")
            == tmp_path / "hub" / "checkpoints" / "inception.pth"
        )
    assert asked == [("https://there/inception.pth", features.INCEPTION_SHA256)]
    with pytest.raises(ValueError, match="it was not opened"):
        features.Inception()  # what was fetched is looked at again


def test_a_batch_comes_back_in_blocks(tmp_path):
    pixels, y = torch.arange(144).byte().view(9, 1, 4, 4), torch.arange(9)
    write_npz(tmp_path / "a.npz", pixels, y, "0123456789")
    found = Batch(tmp_path / "a.npz")
    assert (found.count, found.size) == (9, (4, 4, 3)) and torch.equal(found.array("arr_1"), y)
    blocks = list(found.split(4))
    assert [len(b) for b in blocks] == [4, 4, 1] and torch.equal(
        torch.cat(blocks), pixels.expand(-1, 3, -1, -1)
    )
    numpy.savez_compressed(tmp_path / "b.npz", torch.cat(blocks).permute(0, 2, 3, 1).numpy())
    assert torch.equal(torch.cat(list(Batch(tmp_path / "b.npz").split(5))), torch.cat(blocks))


def test_statistics_are_written_as_the_evaluator_reads_them(tmp_path, classifier):
    found = extract(classifier, Batch(batch(tmp_path / "a.npz")))
    write_reference(tmp_path / "ref.npz", found, "digits")
    with numpy.load(tmp_path / "ref.npz") as read:  # as numpy reads it, without pickles
        assert numpy.allclose(read["mu"], found.pool.double().mean(0)) and numpy.allclose(
            read["sigma"], numpy.cov(found.pool.double().numpy(), rowvar=False)
        )
        assert read["mu_s"].shape == (112,) and read["sigma_s"].shape == (112, 112)
    again = extract_reference(classifier, Batch(tmp_path / "ref.npz"))
    assert (
        again.pool is None
        and frechet_distance(again.pooled, found.pooled) < 1e-9
        and frechet_distance(again.spatial, found.spatial) < 1e-9
    )


def test_statistics_know_the_images_of_their_classifier(tmp_path):
    "A classifier is named by its data, and a folder under one name may hold others tomorrow."
    (tmp_path / "a").mkdir()
    names = []
    for shade in (0, 0, 9):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / "a" / "0.png")
        names.append(describe_features(f"folder:{tmp_path}", 8))
    assert names[0] == names[1] != names[2] and all(
        name.startswith(f"folder:{tmp_path} at 8, of ") for name in names
    )
    assert (
        describe_features("digits", 8) == "digits at 8"
        and describe_features("inception:a.pth", 8) == "inception:a.pth"
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
        "samples must hold at least 113 images for features of size 112, got 112",
    ),
    "another size": (
        lambda p: batch(p, size=9),
        "A and B must be of images of one size, got (8, 8, 3) and (9, 9, 3)",
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


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint16", ">i4", "int64"])
def test_labels_may_be_of_any_integer_type(tmp_path, dtype):
    pixels = numpy.zeros((5, 8, 8, 3), dtype=numpy.uint8)
    numpy.savez(tmp_path / "a.npz", pixels, numpy.arange(5, dtype=dtype))
    assert read_labels(Batch(tmp_path / "a.npz")).tolist() == [0, 1, 2, 3, 4]


STRANGE = {  # arrays of other tools, and what is said where they cannot be used
    "float labels": (dict(arr_1=numpy.ones(150)), "arr_1 must hold class indices, whole numbers"),
    "text for labels": (dict(arr_1=numpy.array(["a"] * 150)), "array arr_1 must hold numbers"),
    "a mean alone": (dict(mu=numpy.ones(64)), "batch must hold the array sigma"),
    "two sizes": (
        dict(mu=numpy.ones(64), sigma=numpy.eye(3)),
        "must have shapes (D,) and (D, D), got (64,) and (3, 3)",
    ),
    "nan": (dict(mu=numpy.full(64, numpy.nan), sigma=numpy.eye(64)), "must be finite"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_array_of_the_wrong_kind_is_named(tmp_path, capsys, name):
    arrays, said = STRANGE[name]
    batch(tmp_path / "a.npz", labels=False)
    with numpy.load(tmp_path / "a.npz") as good:
        numpy.savez(tmp_path / "b.npz", arr_0=good["arr_0"], **arrays)
    path = str(tmp_path / "b.npz")
    assert main(["evaluate", path, path, "--features", "digits", "--repeats", "0"]) == 2
    assert said in capsys.readouterr().err


def test_statistics_of_pooled_features_alone_are_used(tmp_path, capsys):
    "As pytorch-fid writes them, here in float32; entries of no use are passed over."
    x = numpy.random.default_rng(0).normal(size=(200, 64))
    statistics = dict(mu=x.mean(0, dtype="float32"), sigma=numpy.cov(x.T).astype(">f4"))
    numpy.savez(tmp_path / "ref.npz", **statistics, other=numpy.array([{}], dtype=object))
    b = str(batch(tmp_path / "b.npz"))
    assert main(["evaluate", str(tmp_path / "ref.npz"), b, "--repeats", "0"]) == 0
    out = capsys.readouterr().out
    assert "FID  " in out and "sFID" not in out


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


# memory

PEAK = """
import resource, sys
import torch
torch.set_num_threads(1)
from guided_diffusion_edu.batches import Batch, write_npz
from guided_diffusion_edu.evaluation import manifolds
from guided_diffusion_edu.features import extract, train_evaluation_classifier
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
data = Images(torch.zeros(9, 3, 64, 64, dtype=torch.uint8), torch.zeros(9).long(), ("one",))
classifier = train_evaluation_classifier(data, steps=1, batch=2)
batch = Batch({str(tmp_path / "a.npz")!r})
for block in batch.split(64): classifier(block); break"""
    assert growth(prepare, "extract(classifier, batch)") < 55


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_memory_does_not_hold_what_is_written_twice(tmp_path):
    "30,000 images of 32 x 32 are 31 MB, in three channels 92 MB."
    prepare = f"""
pixels, y = torch.ones(30_000, 1, 32, 32, dtype=torch.uint8), torch.zeros(30_000).long()
write_npz({str(tmp_path / "a.npz")!r}, pixels[:100], y[:100], "0")"""
    assert growth(prepare, f"write_npz({str(tmp_path / 'b.npz')!r}, pixels, y, '0')") < 60
    assert len(Batch(tmp_path / "b.npz")) == 30_000


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
