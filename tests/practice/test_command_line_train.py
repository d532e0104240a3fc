"""The `gde` command as a user types it: data, train, show, pack."""

import json
import shlex

import numpy
import pytest
import torch
from PIL import Image

import guided_diffusion_edu as gde
from guided_diffusion_edu.batches import write_npz
from guided_diffusion_edu.cli import main
from guided_diffusion_edu.model_card import model_card
from guided_diffusion_edu.plans import fit_plan


def test_train_then_sample_from_the_folder(tmp_path):
    """Both networks on a folder of pictures, a few steps; a second start with the same arguments
    finds the work done.
    """
    for name, shade in (("dark", 30), ("light", 220)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20 + i, 16), (shade, shade, shade)).save(
                tmp_path / "pictures" / name / f"{i}.png"
            )
    out = tmp_path / "run"
    for what in ("diffusion", "classifier", "diffusion"):
        assert (
            main(
                [
                    "train",
                    what,
                    "--data",
                    f"folder:{tmp_path}/pictures",
                    "--image-size",
                    "16",
                    "--steps",
                    "3",
                    "--batch",
                    "4",
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
    assert Image.open(out / "samples-000003.png").size == (4 * 17 * 4 + 4, 4 * 17 * 4 + 4)
    found = gde.load_pretrained(str(out))
    assert found.class_names == ("dark", "light") and found.model.config.image_size == 16
    assert (
        main(
            [
                "sample",
                "--weights",
                str(out),
                "--label",
                "1",
                "--steps",
                "3",
                "--count",
                "2",
                "--out",
                str(tmp_path / "a.png"),
            ]
        )
        == 0
    )
    assert Image.open(tmp_path / "a.png").mode == "RGB"
    # another run must not go on in this folder
    assert (
        main(
            [
                "train",
                "diffusion",
                "--data",
                f"folder:{tmp_path}/pictures",
                "--image-size",
                "16",
                "--steps",
                "5",
                "--batch",
                "4",
                "--out",
                str(out),
            ]
        )
        == 2
    )


def test_show_is_what_the_run_records(tmp_path, capsys):
    more = [
        "--steps",
        "2",
        "--batch",
        "8",
        "--save-every",
        "1",
        "--accumulate",
        "2",
        "--timesteps",
        "importance",
        "--flip",
        "--no-samples",
    ]
    argv = ["train", "classifier", "--data", "digits", "--out", str(tmp_path / "run"), *more]
    assert main([*argv, "--show"]) == 0 and not (tmp_path / "run").exists()
    shown = json.loads(capsys.readouterr().out)
    assert main(argv) == 0
    record = json.loads((tmp_path / "run" / "classifier.json").read_text())
    assert (
        {k: record[k] for k in shown} == shown
        and shown["recipe"]["accumulate"] == 2
        and shown["recipe"]["flip"]
        and shown["recipe"]["weight_decay"] == 0.05
    )
    assert (
        len(record["held_out_accuracy"]) == 10
        and "--accumulate 2" in record["note"]
        and record["class_names"] == list("0123456789")
    )


def test_the_digits_plan_is_that_of_the_shipped_weights(capsys):
    for what in ("diffusion", "classifier"):
        assert main(["train", what, "--data", "digits", "--out", "nowhere", "--show"]) == 0
        shown, record = (
            json.loads(capsys.readouterr().out),
            gde.load_pretrained("digits").records[what],
        )
        for part in ("config", "recipe"):
            assert record[part].items() <= shown[part].items()


def test_dry_run(tmp_path, capsys):
    assert (
        main(
            [
                "train",
                "classifier",
                "--data",
                "digits",
                "--batch",
                "8",
                "--out",
                str(tmp_path / "run"),
                "--dry-run",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "226,186" in out
        and "GFLOP a step" in out
        and "MiB" in out
        and "3,000 steps" in out
        and not (tmp_path / "run").exists()
    )


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("--batch 9 --accumulate 2", "--batch must be a multiple"),
        ("--precision half", "invalid choice: 'half'"),
        ("--ema-decay 1", "--ema-decay must be"),
        ("--clip -1", "--clip must be above 0"),
    ],
)
def test_bad_recipes(tmp_path, wrong, said):
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            code = main(
                [
                    "train",
                    "classifier",
                    "--data",
                    "digits",
                    "--out",
                    str(tmp_path / "run"),
                    *wrong.split(),
                ]
            )
        except SystemExit as stop:
            code = stop.code
    assert code == 2 and said in stderr.getvalue() and stderr.getvalue().count("\n") == 1


def test_data_and_pack(tmp_path, capsys, root):
    assert main(["data", "--data", "digits", "--out", str(tmp_path / "card.png")]) == 0
    assert "licence: CC BY 4.0" in capsys.readouterr().out and Image.open(
        tmp_path / "card.png"
    ).size == ((10 * 9 + 1) * 8, (8 * 9 + 1) * 8)
    assert (
        main(
            [
                "pack",
                str(root / "guided_diffusion_edu" / "weights" / "digits"),
                str(tmp_path / "half"),
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "sample",
                "--weights",
                str(tmp_path / "half"),
                "--steps",
                "2",
                "--count",
                "2",
                "--out",
                str(tmp_path / "a.png"),
            ]
        )
        == 0
    )
    assert main(["pack", str(tmp_path), str(tmp_path / "b")]) == 2


def test_pictures_become_a_reference_that_knows_its_classes(tmp_path, capsys):
    """The real digits against themselves: FID 0, all right.

    By a judge who knows other classes there is no accuracy.
    """
    batch = str(tmp_path / "a.npz")
    assert (
        main(["data", "--data", "digits", "--out", batch]) == 0
        and "1437 images -> " in capsys.readouterr().out
    )
    assert main(["evaluate", batch, batch, "--repeats", "0"]) == 0
    rows = dict(
        line.split()
        for line in capsys.readouterr().out.splitlines()[1:-1]
        if len(line.split()) == 2
    )
    assert float(rows["FID"]) < 1e-6 and float(rows["accuracy"]) > 0.97
    with numpy.load(batch) as found:
        write_npz(
            tmp_path / "b.npz",
            torch.from_numpy(found["arr_0"]).permute(0, 3, 1, 2),
            torch.from_numpy(found["arr_1"]),
            "abcdefghij",
        )
    for features in ([], ["--features", "digits"]):
        assert main(["evaluate", batch, str(tmp_path / "b.npz"), "--repeats", "0", *features]) == 0
        assert "accuracy" not in capsys.readouterr().out


def test_a_note_can_be_pasted(tmp_path, capsys):
    "Names with spaces and apostrophes are quoted in the record; the card knows the folder."
    folder = "o'brien's pictures"
    for name in (f"{folder}/one", f"{folder}/two"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    data = f"folder:{tmp_path}/{folder}"
    assert (
        main(
            [
                "train",
                "diffusion",
                "--data",
                data,
                "--image-size",
                "8",
                "--steps",
                "1",
                "--batch",
                "2",
                "--no-samples",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    found = gde.load_pretrained(str(tmp_path / "run"))
    assert shlex.split(found.records["diffusion"]["note"])[:5] == [
        "gde",
        "train",
        "diffusion",
        "--data",
        data,
    ]
    assert f"data: {data}, from" in model_card(found)


def test_only_diffusion_is_conditional(tmp_path, capsys):
    assert (
        main(
            [
                "train",
                "classifier",
                "--data",
                "digits",
                "--out",
                str(tmp_path / "a"),
                "--conditional",
            ]
        )
        == 2
    )
    assert (
        "--conditional must be for diffusion only" in capsys.readouterr().err
        and not (tmp_path / "a").exists()
    )


def test_small_is_for_two_data_sets(tmp_path, capsys):
    assert (
        main(["train", "diffusion", "--data", "digits", "--out", str(tmp_path / "a"), "--small"])
        == 2
    )
    assert (
        "--small must come with --data fashion-mnist or emoji, which alone have a small plan, "
        "got digits" in capsys.readouterr().err
    )


def test_without_a_terminal_each_checkpoint_is_a_line(tmp_path, capsys):
    assert (
        main(
            [
                "train",
                "classifier",
                "--data",
                "digits",
                "--steps",
                "4",
                "--batch",
                "8",
                "--save-every",
                "2",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "step 2",
        "step 4",
    ] and "% of them is still the random start" in out


@pytest.mark.parametrize(
    "size, levels", [(8, 2), (16, 3), (32, 3), (48, 3), (64, 4), (100, 3), (128, 5)]
)
def test_the_plan_for_a_folder_grows_with_its_pictures(size, levels):
    unet = fit_plan(
        gde.Images(torch.zeros(2, 3, size, size, dtype=torch.uint8), torch.arange(2), ("a", "b"))
    ).unet
    assert (
        len(unet["channel_mult"]) == levels
        and unet["attention_resolutions"] == (size >> levels - 1,)
        and (size >> levels - 1 < 16 or size == 100)
    )
