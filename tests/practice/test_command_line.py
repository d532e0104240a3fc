"""The `gde` command as a user types it: sample, info, and bad input."""

import json
import os
import subprocess
import sys

import numpy
import pytest
import torch
from PIL import Image

import guided_diffusion_edu as gde
from guided_diffusion_edu.batches import Batch, write_npz
from guided_diffusion_edu.checkpoints import read_tensors, write_tensors
from guided_diffusion_edu.cli import join_values, main
from guided_diffusion_edu.commands import class_index


def gde_command(*argv, cwd, module="guided_diffusion_edu", **environment):
    return subprocess.run(
        [sys.executable, "-m", module, *argv],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("module", ["guided_diffusion_edu", "guided_diffusion_edu.cli"])
def test_the_module_is_the_command(tmp_path, module):
    done = gde_command("--version", cwd=tmp_path, module=module)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{gde.__version__}\n", "")
    done = gde_command("sample", "--out", "a.gif", cwd=tmp_path, module=module)
    assert done.returncode == 2 and done.stderr.startswith("gde sample: --out must be a .png")


def test_a_value_may_begin_with_a_minus(tmp_path, capsys):
    assert join_values(["a", "--b", "-1,0", "--c", "-h", "-d"]) == [
        "a",
        "--b=-1,0",
        "--c",
        "-h",
        "-d",
    ]
    assert join_values(["a", "--", "-b"]) == ["a", "--", "-b"]
    out = str(tmp_path / "a.json")
    assert main(["tradeoff", "--scales", "-1,0,1", "--count", "5", "--out", out]) == 2
    assert "--count must be more than 128" in capsys.readouterr().err
    assert main(["sample", "--label", "-cat", "--out", str(tmp_path / "a.png")]) == 2
    assert "got '-cat'" in capsys.readouterr().err


def test_letters_that_the_terminal_lacks_are_escaped(tmp_path):
    for name in ("\u732b", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / name / "0.png")
    argv = ["data", "--data", "folder:pictures", "--image-size", "8", "--out", "a.npz"]
    done = gde_command(*argv, cwd=tmp_path, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0 and "dog 1, \\u732b 1" in done.stdout
    assert Batch(tmp_path / "a.npz").text("names") == "dog\n\u732b"


def test_sample_png(tmp_path):
    done = gde_command(
        "sample",
        "--weights",
        "digits",
        "--label",
        "3",
        "--scale",
        "4",
        "--out",
        "samples.png",
        cwd=tmp_path,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert Image.open(tmp_path / "samples.png").size == (
        296,
        296,
    )  # 4 x 4 pictures of 8 and 5 lines of 1, times 8
    assert [p.name for p in tmp_path.iterdir()] == ["samples.png"]


def test_sample_npz_is_the_evaluators_layout(tmp_path):
    assert (
        main(
            [
                "sample",
                "--count",
                "20",
                "--steps",
                "5",
                "--sampler",
                "ddpm",
                "--out",
                str(tmp_path / "a.npz"),
            ]
        )
        == 0
    )
    batch = numpy.load(tmp_path / "a.npz")
    assert batch["arr_0"].shape == (20, 8, 8, 3) and batch["arr_0"].dtype == numpy.uint8
    assert batch["arr_1"].tolist() == list(range(10)) * 2


def test_npz_keeps_rows_and_columns(tmp_path):
    picture = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    picture[0, 0, 0, 2] = 255  # first row, third column
    write_npz(tmp_path / "a.npz", picture, torch.zeros(1).int(), "0")
    assert numpy.load(tmp_path / "a.npz")["arr_0"][0, 0, 2].tolist() == [255] * 3


def test_label_and_seed_count(tmp_path):
    def pixels(name, *more):
        assert (
            main(["sample", "--count", "4", "--steps", "5", "--out", str(tmp_path / name), *more])
            == 0
        )
        return numpy.load(tmp_path / name)["arr_0"]

    first = pixels("a.npz", "--label", "1")
    assert (first == pixels("b.npz", "--label", "1")).all()
    assert (first != pixels("c.npz", "--label", "2")).any() and (
        first != pixels("d.npz", "--label", "1", "--seed", "1")
    ).any()
    assert (
        pixels("e.npz", "--label", "1", "--scale", "0")
        == pixels("f.npz", "--label", "2", "--scale", "0")
    ).all()


@pytest.mark.parametrize(
    "wrong, said",
    [
        (
            "--weights lion",
            "--weights must be one of ['digits', 'emoji', 'fashion-mnist'] or a folder",
        ),
        (
            "--label 99",
            "--label must be a class in [0, 10) or one of ['0', '1', '2', '3', '4', '5', '6', '7', "
            "... (10 in all)], got '99'",
        ),
        ("--label three", "got 'three'"),
        ("--steps 0", "--steps must be between 1 and 1000"),
        ("--steps 1", "at least 2 steps"),
        ("--steps ddim999", "'ddim999'"),
        ("--count 0", "--count must be at least 1, got 0"),
        ("--scale nan", "--scale must be a finite number, got nan"),
        ("--sampler euler", "invalid choice: 'euler'"),
        ("--out nowhere/a.png", "--out must be in a folder that exists, got 'nowhere/a.png'"),
        ("--out a.gif", "--out must be a .png or .npz file"),
    ],
)
def test_bad_input_to_sample(tmp_path, wrong, said):
    done = gde_command("sample", "--out", "a.png", *wrong.split(), cwd=tmp_path)
    assert (
        done.returncode == 2
        and said in done.stderr
        and done.stderr.count("\n") == 1
        and done.stdout == ""
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["train", "diffusion", "--data", "folder:missing", "--out", "a"],
        ["train", "diffusion", "--data", "lions", "--out", "a"],
        ["train", "classifier", "--data", "digits", "--steps", "0", "--out", "a"],
    ],
)
def test_bad_verbs_and_data(tmp_path, argv):
    done = gde_command(*argv, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["sample", "--help"],
        ["train", "--help"],
        ["info", "--help"],
        ["data", "--help"],
        ["pack", "--help"],
    ],
)
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    out = capsys.readouterr().out
    assert stop.value.code == 0 and ("example" in out or argv == ["--help"])


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert gde.__version__ in out and torch.__version__ in out and "digits" in out


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_tensors(tmp_path / "w", {"a": torch.ones(2)}, {"n": 1})
    with pytest.raises(AttributeError, match="detach"):
        write_tensors(tmp_path / "w", {"a": object()}, {"n": 2})

    class Stuck(dict):
        def items(self):
            raise OSError("disk full")

    with pytest.raises(OSError):
        write_tensors(tmp_path / "w", Stuck(), {"n": 2})
    assert read_tensors(tmp_path / "w")[1] == {"n": 1} and [p.name for p in tmp_path.iterdir()] == [
        "w"
    ]


def test_weights_that_do_not_fit_are_named(tmp_path, root):
    import shutil

    shutil.copytree(root / "guided_diffusion_edu" / "weights" / "digits", tmp_path / "w")
    tensors, about = read_tensors(tmp_path / "w" / "diffusion.safetensors")
    lost = sorted(tensors)[0]
    write_tensors(
        tmp_path / "w" / "diffusion.safetensors",
        {k: v for k, v in tensors.items() if k != lost},
        about,
    )
    with pytest.raises(ValueError, match=lost):
        gde.load_pretrained(str(tmp_path / "w"))
    (tmp_path / "w" / "classifier.json").unlink()
    with pytest.raises(ValueError, match=r"classifier.json"):
        gde.load_pretrained(str(tmp_path / "w"))


def test_without_out_a_run_can_be_looked_at(capsys):
    assert (
        main(["train", "classifier", "--data", "digits", "--show"]) == 0
        and '"config"' in capsys.readouterr().out
    )
    assert (
        main(["train", "classifier", "--data", "digits", "--batch", "8", "--dry-run"]) == 0
        and "steps an hour" in capsys.readouterr().out
    )
    assert (
        main(["train", "classifier", "--data", "digits"]) == 2
        and capsys.readouterr().err
        == "gde train: --out must be a folder for the weights "
        "(or give --show or --dry-run), got None\n"
    )


def test_a_label_has_one_form():
    "As macOS writes it in names of files, and as keyboards do."
    decomposed, composed = "gro\u0308\u00dfe", "gr\u00f6\u00dfe"
    assert class_index(composed, ("a", decomposed)) == 1
    assert class_index(decomposed, ("a", composed)) == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"{gde.__version__}\n"


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    "A folder with a model that is told the class: trained to see only that it is heard."
    out = tmp_path_factory.mktemp("conditional")
    for what, more in (("diffusion", ["--conditional"]), ("classifier", [])):
        assert (
            main(
                [
                    "train",
                    what,
                    "--data",
                    "digits",
                    "--steps",
                    "3",
                    "--batch",
                    "8",
                    "--lr",
                    "0.01",
                    "--warmup",
                    "1",
                    "--ema-decay",
                    "0",
                    "--out",
                    str(out),
                    *more,
                ]
            )
            == 0
        )
    return out


def test_a_conditional_model_is_told_the_class(conditional):
    found = gde.load_pretrained(str(conditional))
    assert (
        found.model.config.num_classes == 10
        and "--conditional" in found.records["diffusion"]["note"]
    )
    told = [
        gde.draw_guided(found, torch.full((4,), label), steps=4, scale=0.0) for label in (1, 1, 2)
    ]
    assert torch.equal(told[0], told[1]) and not torch.equal(
        told[0], told[2]
    )  # without guidance only the model can tell them apart
    assert (conditional / "samples-000003.png").exists()


def test_drawn_by_the_block():
    """Blocks follow one another in one stream of noise, and no more than a block is asked of the
    model at once.
    """
    found, y = gde.load_pretrained("digits"), torch.arange(7) % 10
    asked = []
    hook = found.model.register_forward_hook(
        lambda model, inputs, output: asked.append(len(inputs[0]))
    )
    pixels = gde.draw_guided(found, y, steps=3, scale=2.0, seed=5, block=3)
    hook.remove()
    assert (
        asked == [3] * 6 + [1] * 3 and pixels.shape == (7, 1, 8, 8) and pixels.dtype == torch.uint8
    )
    g, steps = torch.Generator().manual_seed(5), gde.respace(found.schedule, 3)
    parts = [
        gde.ddim_sample(
            found.model,
            steps,
            (len(part), 1, 8, 8),
            guidance=gde.classifier_guidance(found.classifier, part, 2.0),
            generator=g,
        )
        for part in y.split(3)
    ]
    assert torch.equal(pixels, gde.viz.to_pixels(torch.cat(parts)))
    with pytest.raises(
        ValueError, match=r"y must be one or more classes in \[0, 10\), got \[0, 10\]"
    ):
        gde.draw_guided(found, torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="one or more classes"):
        gde.draw_guided(found, torch.tensor([], dtype=torch.long))


def test_weights_without_a_classifier_draw_without_guidance(tmp_path, root):
    import shutil

    (tmp_path / "w").mkdir()
    for name in ("diffusion.json", "diffusion.safetensors"):
        shutil.copy(root / "guided_diffusion_edu" / "weights" / "digits" / name, tmp_path / "w")
    found = gde.load_pretrained(str(tmp_path / "w"))
    assert found.classifier is None and list(found.records) == ["diffusion"]
    sample = [
        "sample",
        "--weights",
        str(tmp_path / "w"),
        "--count",
        "2",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert main([*sample, "--scale", "0"]) == 0 and main(sample) == 2
    with pytest.raises(
        ValueError, match="scale must be 0 where the weights have no classifier, got 2"
    ):
        gde.draw_guided(found, torch.tensor([1]), scale=2)
    with pytest.raises(ValueError, match="scale must be a number, got"):
        gde.draw_guided(found, torch.tensor([1]), scale=torch.ones(1))


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(class_names=list("abcdefghij")), "have the same class_names"),
        (dict(schedule=dict(name="cosine", T=1000)), "have the same schedule"),
    ],
)
def test_two_networks_that_do_not_belong_together(tmp_path, root, change, said):
    import shutil

    shutil.copytree(root / "guided_diffusion_edu" / "weights" / "digits", tmp_path / "w")
    record = json.loads((tmp_path / "w" / "classifier.json").read_text())
    (tmp_path / "w" / "classifier.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=f"weights in .* must {said}"):
        gde.load_pretrained(str(tmp_path / "w"))
    smaller = record | dict(config=record["config"] | dict(image_size=16))
    with pytest.raises(ValueError, match="have the same image_size in both records, got 16 and 8"):
        gde.pretrained._check_pair("w", smaller, record)


def test_a_class_by_its_name(tmp_path, capsys):
    "By name or index the same; in turn, a column for each class."
    for label, file in (("Dress", "a.npz"), ("3", "b.npz")):
        assert (
            main(
                [
                    "sample",
                    "--weights",
                    "fashion-mnist",
                    "--label",
                    label,
                    "--count",
                    "1",
                    "--steps",
                    "2",
                    "--out",
                    str(tmp_path / file),
                ]
            )
            == 0
        )
    import numpy

    assert (numpy.load(tmp_path / "a.npz")["arr_1"] == 3).all() and (
        numpy.load(tmp_path / "a.npz")["arr_0"] == numpy.load(tmp_path / "b.npz")["arr_0"]
    ).all()
    assert main(["sample", "--count", "20", "--steps", "2", "--out", str(tmp_path / "a.png")]) == 0
    width, height = Image.open(tmp_path / "a.png").size
    assert width > 4 * height
    assert main(["info"]) == 0 and "fashion-mnist: T-shirt/top, Trouser," in capsys.readouterr().out


def test_options_of_one_sampler(tmp_path):
    drawn = {}
    for options in (
        "--sampler ddim",
        "--sampler ddim --eta 1",
        "--sampler ddpm",
        "--sampler ddpm --gradient-at mean",
    ):
        assert (
            main(
                [
                    "sample",
                    "--count",
                    "2",
                    "--steps",
                    "5",
                    *options.split(),
                    "--out",
                    str(tmp_path / "a.npz"),
                ]
            )
            == 0
        )
        drawn[options] = (tmp_path / "a.npz").read_bytes()
    assert len(set(drawn.values())) == 4
