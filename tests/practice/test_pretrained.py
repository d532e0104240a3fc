"""Weights: shipped ones, released ones, and what does not fit."""

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import save_file

import guided_diffusion_edu as gde
from guided_diffusion_edu import pretrained
from guided_diffusion_edu.data import digits_evaluation_classifier, within_class_std
from guided_diffusion_edu.diffusion import DerivedModel
from helpers import network, randomise

# The shipped weights


@pytest.fixture(scope="module")
def digits():
    return gde.load_pretrained("digits")


def test_shipped_digits_are_named_right_and_varied(digits):
    """The promise of the front page: DDIM-25, scale 3, judged by an SVC that took no part in
    training.
    """
    n = 500
    y = torch.arange(n) % 10
    x = gde.ddim_sample(
        digits.model,
        gde.respace(digits.schedule, 25),
        (n, 1, 8, 8),
        guidance=gde.classifier_guidance(digits.classifier, y, 3.0),
        generator=torch.Generator().manual_seed(123),
    ).clamp(-1, 1)
    real = gde.load_data("digits")
    assert (digits_evaluation_classifier()(x) == y).double().mean() >= 0.97
    assert within_class_std(x, y) >= 0.5 * within_class_std(
        gde.from_pixels(real.pixels), real.labels
    )


def test_shipped_digits_are_not_copies(digits):
    """A sample is not a training image: its nearest one is as far as a held-out digit's is, to
    within a half.
    """
    train, held_out = (
        gde.from_pixels(gde.load_data("digits", train=part).pixels).flatten(1)
        for part in (True, False)
    )
    y = torch.arange(200) % 10
    x = gde.ddim_sample(
        digits.model,
        gde.respace(digits.schedule, 25),
        (200, 1, 8, 8),
        guidance=gde.classifier_guidance(digits.classifier, y, 3.0),
        generator=torch.Generator().manual_seed(7),
    ).flatten(1)

    def nearest(a):
        return torch.cdist(a, train).min(1).values.median()

    assert nearest(x) > 0.5 * nearest(held_out)


def test_shipped_records_say_how_they_came_about(root):
    folder = root / "guided_diffusion_edu" / "weights" / "digits"
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) <= 4_000_000
    for kind in ("diffusion", "classifier"):
        record = json.loads((folder / f"{kind}.json").read_text())
        assert (
            record["note"].startswith(f"gde train {kind} --data digits")
            and record["torch"]
            and record["date"]
            and record["device"]
        )
        assert (
            record["recipe"]["seed"] == 0
            and len(record["loss_every_50_steps"]) == record["recipe"]["steps"] // 50
        )


def test_the_model_is_class_agnostic(digits):
    assert digits.model.config.num_classes is None


SMALL = dict(
    image_size=16,
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=16,
)

SHIPPED_MODEL = [13.451, 12.5013, 6.5874, 6.8712]

SHIPPED_CLASSIFIER = [
    5.9269,
    5.7847,
    2.0481,
    0.2065,
]  # by the networks as they were when the weights were made


def test_shipped_weights_give_what_they_gave():
    """Numbers noted when the weights were shipped: later versions of the networks read them in the
    same way.
    """
    digits = gde.load_pretrained("digits")
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 100, 500, 999])
    assert digits.model(x, t).flatten(1).norm(dim=1).tolist() == pytest.approx(
        SHIPPED_MODEL, rel=1e-3
    )
    assert digits.classifier(x, t).flatten(1).norm(dim=1).tolist() == pytest.approx(
        SHIPPED_CLASSIFIER, rel=1e-3
    )


X, T = torch.zeros(2, 3, 16, 16), torch.tensor([0, 999])

# ---- reading checkpoints


@pytest.fixture
def tiny(monkeypatch):
    """The 64x64 pair and its upsampler, as tiny networks of the same kinds; gives their weights in
    the released layout.
    """
    plans = {
        "64x64_diffusion": gde.UNetConfig(**SMALL, num_classes=300),
        "64x64_classifier": gde.ClassifierConfig(**SMALL, num_classes=300),
        "64_256_upsampler": gde.UNetConfig(
            **SMALL | dict(image_size=32), num_classes=300, low_res=True
        ),
    }
    released = {}
    for name, plan in plans.items():
        monkeypatch.setitem(pretrained.OPENAI, name, replace(pretrained.OPENAI[name], config=plan))
        model = randomise(network(plan))
        names = pretrained.released_names(model)
        released[name] = {names[own]: value for own, value in model.state_dict().items()}
    return released


def test_what_does_not_fit_is_named(tiny):
    weights = tiny["64x64_diffusion"]
    spoiled = dict(weights, **{"extra.weight": X, "time_embed.0.weight": torch.zeros(3, 2)})
    for k in range(3):
        del spoiled[
            f"middle_block.{k}.norm.weight" if k == 1 else f"middle_block.{k}.in_layers.0.weight"
        ]
    with pytest.raises(ValueError) as error:
        gde.from_openai("64x64_diffusion", spoiled)
    text = str(error.value)
    missing = ("0.in_layers.0", "1.norm", "2.in_layers.0")
    assert f"missing: {', '.join(f'middle_block.{part}.weight' for part in missing)}" in text
    assert (
        "left over: extra.weight" in text
        and "misshapen: time_embed.0.weight (3, 2), not (128, 32)" in text
    )
    with pytest.raises(ValueError, match=r"and \d+ more"):
        gde.from_openai("64x64_diffusion", {})


def test_the_given_weights_stay_the_users(tiny):
    weights = tiny["64x64_diffusion"]
    before = {name: value.clone() for name, value in weights.items()}
    model = gde.from_openai("64x64_diffusion", weights)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for p in model.parameters():
        p.zero_()
    assert all(torch.equal(before[name], value) for name, value in weights.items())
    half = gde.from_openai(
        "64x64_diffusion", {name: value.half() for name, value in weights.items()}
    )
    assert {p.dtype for p in half.parameters()} == {torch.float32}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files(tiny, tmp_path, suffix):
    path = tmp_path / f"64x64_diffusion{suffix}"
    torch.save(tiny["64x64_diffusion"], path) if suffix == ".pt" else save_file(
        tiny["64x64_diffusion"], path
    )
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([0, 299])
    assert torch.equal(
        gde.from_openai("64x64_diffusion", path)(x, T, y),
        gde.from_openai("64x64_diffusion", tiny["64x64_diffusion"])(x, T, y),
    )
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="path must be a whole file of tensors"):
        gde.read_weights(path)
    with pytest.raises(ValueError, match=r"path must be a file of weights, got .*nowhere"):
        gde.read_weights(tmp_path / f"nowhere{suffix}")


class Bomb:
    def __init__(self, fuse):
        self.fuse = fuse

    def __reduce__(self):
        return Path.touch, (self.fuse,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_no_code(tmp_path, zipped):
    path, fuse = tmp_path / "bad.pt", tmp_path / "it ran"
    torch.save(dict(weight=Bomb(fuse)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"holds code .which was not run."):
        gde.from_openai("64x64_diffusion", path)
    assert not fuse.exists()
    torch.load(path, weights_only=False)
    assert fuse.exists()  # it would have
    for other in (dict(a=3), [X]):
        torch.save(other, path)
        with pytest.raises(ValueError, match="path must be a file of tensors by name"):
            gde.read_weights(path)
    path.write_bytes(pickle.dumps(dict(a=[1])))
    with pytest.raises(ValueError, match="path must be"):
        gde.read_weights(path)


class Answer(BytesIO):
    def __init__(self, content, url, size=None):
        super().__init__(content)
        self.url, self.headers = (
            url,
            {"Content-Length": str(len(content) if size is None else size)},
        )

    def geturl(self):
        return self.url


def test_fetch(tmp_path):
    asked = []

    def server(url, timeout):
        asked.append(url)
        return Answer(b"weights", url)

    path = gde.fetch_openai("lsun_cat", tmp_path / "models", server)
    assert path.read_bytes() == b"weights" and asked == [
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/lsun_cat.pt"
    ]
    record = path.with_name("lsun_cat.pt.sha256")
    assert (
        record.read_text() == f"{hashlib.sha256(b'weights').hexdigest()}  lsun_cat.pt\n"
    )  # as sha256sum -c wants it
    assert gde.fetch_openai("lsun_cat", tmp_path / "models", server) == path and len(asked) == 1
    path.write_bytes(b"Weights")
    with pytest.raises(
        ValueError, match=r"lsun_cat.pt must have the SHA-256 .*damaged or was exchanged"
    ):
        gde.fetch_openai("lsun_cat", tmp_path / "models", server)
    path.unlink()  # downloaded again, it must be the same file

    def other(url, timeout):
        return Answer(b"other", url)

    with pytest.raises(ValueError, match="damaged or was exchanged"):
        gde.fetch_openai("lsun_cat", tmp_path / "models", other)
    assert [p.name for p in path.parent.iterdir()] == ["lsun_cat.pt.sha256"]


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda url, timeout: Answer(b"wei", url, 7), "the file must be whole: got 3 of 7 bytes"),
        (
            lambda url, timeout: Answer(b"weights", "http://elsewhere/lsun_cat.pt"),
            "the answer must come by https, and came from http://elsewhere",
        ),
    ],
)
def test_a_bad_download_leaves_nothing(tmp_path, answer, message):
    with pytest.raises(ValueError, match=message):
        gde.fetch_openai("lsun_cat", tmp_path, answer)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="name must be one of"):
        gde.fetch_openai("../lsun_cat", tmp_path, answer)


def test_the_chapters_own_lines_for_a_gpu(tiny, tmp_path, monkeypatch, root):
    """The cells of the page that need a GPU, run as they stand with tiny networks: fetch, guide,
    enlarge.
    """
    cells = [
        c.source
        for c in nbformat.read(root / "nbs" / "practice" / "pretrained.ipynb", 4).cells
        if c.source.startswith("#| cuda\n#| slow\n")
    ]
    assert len(cells) == 2

    def server(url, timeout):
        file = BytesIO()
        torch.save(tiny[url.split("/")[-1].removesuffix(".pt")], file)
        return Answer(file.getvalue(), url)

    shown, short = (
        [],
        lambda schedule, steps: (
            gde.respace(schedule, 2) if steps == 250 else pytest.fail("another number of steps")
        ),
    )
    here = {name: getattr(gde, name) for name in dir(gde)} | dict(
        torch=torch,
        show_grid=lambda images, **_: shown.append(images),
        respace=short,
        fetch_openai=lambda name: gde.fetch_openai(name, tmp_path, server),
    )
    for cell in cells:
        exec(cell, here)
    small, large = shown
    assert (
        small.shape == (4, 3, 16, 16)
        and large.shape == (4, 3, 32, 32)
        and small.isfinite().all()
        and large.isfinite().all()
    )
    assert {p.dtype for p in here["upsampler"].encoder.down[0].residual.conv.parameters()} == {
        torch.float16
    }
    by_hand = here["upsampler"](large, torch.zeros(4).long(), here["y"], low_res=small)
    assert by_hand.shape == (4, 6, 32, 32)


def test_upsampling_is_the_sampler_on_the_model():
    model, small = (
        randomise(gde.UNet(gde.UNetConfig(**SMALL, low_res=True))),
        torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 4 - 2,
    )
    steps, seeded = gde.respace(gde.linear_schedule(), 4), lambda: torch.Generator().manual_seed(3)
    for sampler in (gde.ddim_sample, gde.ddpm_sample):
        large = gde.upsample(model, steps, small, sampler=sampler, generator=seeded())
        by_hand = sampler(
            lambda x, t, y: model(x, t, low_res=small.clamp(-1, 1)),
            steps,
            (2, 3, 16, 16),
            generator=seeded(),
        )
        assert torch.equal(large, by_hand)


def test_half_weights_load_and_answer_alike(tmp_path, root):
    gde.write_half(root / "guided_diffusion_edu" / "weights" / "digits", tmp_path / "half")
    full, half = gde.load_pretrained("digits"), gde.load_pretrained(str(tmp_path / "half"))
    x, t = (
        torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(0, 960, 60),
    )
    assert (
        next(half.model.parameters()).dtype == torch.float32
        and half.records["diffusion"]["stored"] == "float16"
    )
    with torch.no_grad():
        difference = (full.model(x, t) - half.model(x, t)).abs().max()
    assert 0 < difference < 0.01
    with pytest.raises(ValueError, match="source must be a folder with trained weights"):
        gde.write_half(tmp_path, tmp_path / "b")


@pytest.mark.parametrize("name", gde.available_weights())
def test_shipped_weights_draw_and_fit_their_records(name):
    weights = gde.load_pretrained(name)
    for kind, net in zip(("diffusion", "classifier"), weights.networks):
        assert sum(p.numel() for p in net.parameters()) == weights.records[kind]["parameters"]
    class_names = weights.class_names
    assert weights.records["classifier"]["class_names"] == list(class_names)
    assert weights.classifier.config.num_classes == len(class_names)
    pixels = gde.draw_guided(weights, torch.tensor([0, len(class_names) - 1]), steps=3)
    assert pixels.float().flatten(1).std(1).min() > 5  # images, not a flat shade


def digits_of_v(folder, root):
    "The shipped digits, whose record says that the network predicts v."
    shutil.copytree(root / "guided_diffusion_edu" / "weights" / "digits", folder)
    record = json.loads((folder / "diffusion.json").read_text())
    record["recipe"]["predicts"] = "v"
    (folder / "diffusion.json").write_text(json.dumps(record))
    return str(folder)


def test_a_network_of_v_is_loaded_as_a_model_of_eps(tmp_path, root, digits):
    weights = gde.load_pretrained(digits_of_v(tmp_path / "v", root))
    network, x = weights.networks[0], torch.randn(4, 1, 8, 8)
    t = torch.tensor([0, 100, 500, 999])
    assert isinstance(weights.model, DerivedModel) and isinstance(network, gde.UNet)
    assert torch.equal(network(x, t), digits.model(x, t))
    alpha_bar = weights.schedule.alpha_bars[t][:, None, None, None].float()
    by_hand = (1 - alpha_bar).sqrt() * x + alpha_bar.sqrt() * network(x, t)
    assert torch.allclose(weights.model(x, t), by_hand, atol=1e-5)


def test_a_model_of_v_carries_its_config_and_moves_with_its_network(tmp_path, root):
    weights = gde.load_pretrained(digits_of_v(tmp_path / "v", root))
    assert weights.model.config == weights.networks[0].config
    assert [type(network) for network in weights.networks] == [gde.UNet, gde.Classifier]
    assert gde.draw_guided(weights, torch.arange(3), steps=2).shape == (3, 1, 8, 8)
    assert weights.to("meta") is weights and weights.model.device.type == "meta"
    assert all(p.is_meta for network in weights.networks for p in network.parameters())


def test_an_upsampling_model_carries_config_and_device():
    network = gde.UNet(gde.UNetConfig(**SMALL, low_res=True))
    model = pretrained.upsampling_model(network, torch.zeros(2, 3, 4, 4))
    assert model.config is network.config and model.device == torch.device("cpu")


def test_shipped_weights_are_small():
    from guided_diffusion_edu.pretrained import WEIGHTS

    assert gde.available_weights() == ["digits", "emoji", "fashion-mnist"]
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*.safetensors")) < 12e6
