"""What the page "command line" refuses, and how it says so."""

import pytest

from bad_input import interrupted
from guided_diffusion_edu import commands
from guided_diffusion_edu.cli import main

# One line on standard error, exit code 2, nothing written.
COMMANDS = [
    ("", "the following arguments are required: verb"),
    ("fly", "invalid choice: 'fly'"),
    ("sample", "required: --out"),
    ("sample --out a.png --weights lion", "weights must be one of"),
    ("sample --out a.png --label 10", "--label must be a class in [0, 10) or one of ['0'"),
    ("sample --out a.png --label -1", "--label must be a class"),
    ("sample --out a.png --label 1.5", "got '1.5'"),
    (
        "sample --out a.png --eta 0.5 --sampler ddpm",
        "--eta must be with --sampler ddim only, got ddpm",
    ),
    (
        "sample --out a.png --gradient-at mean",
        "--gradient-at must be with --sampler ddpm only, got ddim",
    ),
    ("sample --out a.png --eta 2", "eta must be between"),
    ("pack a a", "target must be another folder than source"),
    (
        "data --data digits --image-size 16",
        "--image-size must be with folder:PATH, emoji:PATH or avatars:PATH only, got 16",
    ),
    (
        "train diffusion --data emoji:x --unfit skip --out a",
        "--unfit must be with folder:PATH only, got skip",
    ),
    ("data --data digits --out a.jpg", "--out must be a .png or .npz file, got 'a.jpg'"),
    ("evaluate a.npz b.npz --out no/a.json", "--out must be in a folder that exists"),
    ("evaluate a.npz b.npz --statistics no/a.npz", "--statistics must be in a folder that exists"),
    ("tradeoff --out no/a.json", "--out must be in a folder that exists"),
    ("sample --out a.png --scale nan", "--scale must be a finite number"),
    ("sample --out a.png --scale inf", "--scale must be a finite number"),
    ("sample --out a.png --scale much", "invalid float value: 'much'"),
    ("sample --out a.png --steps 0", "steps must be between"),
    ("sample --out a.png --steps 1001", "steps must be between"),
    ("sample --out a.png --steps ddim999", "'ddim999'"),
    ("sample --out a.png --steps ten", "got 'ten'"),
    ("sample --out a.png --count 0", "--count must be at least 1"),
    ("sample --out a.png --count -5", "--count must be at least 1"),
    ("sample --out a.png --seed x", "invalid seed value: 'x'"),
    ("sample --out a.png --seed 99999999999999999999", "invalid seed value"),
    ("sample --out a.png --seed -1", "invalid seed value"),
    ("sample --out a.png --sampler euler", "invalid choice: 'euler'"),
    ("sample --out a.gif", "--out must be a .png or .npz file"),
    ("sample --out no/a.png", "--out must be in a folder that exists"),
    ("sample --out a.png --weights .", "no diffusion.json"),
    (
        "sample --out a.png --count 2 --scale 1e38 --steps 2",
        "must give finite numbers, and at t = 0 it did not (x_t was up to ",
    ),
    ("train", "required: what"),
    ("train diffusion", "required: --data"),
    ("train both --data digits --out a", "invalid choice: 'both'"),
    ("train diffusion --data lions --out a", "data must be"),
    ("train diffusion --data folder:lions --out a", "data must be a folder"),
    ("train diffusion --data emoji:lions --out a", "data must be emoji"),
    (
        "train diffusion --data digits --out a --steps 0",
        "--steps must be a whole number of at least 1",
    ),
    (
        "train diffusion --data digits --out a --batch 0",
        "--batch must be a whole number of at least 1",
    ),
    ("train diffusion --data digits --out a --lr nan", "--lr must be"),
    ("train diffusion --data digits --out a --ema-decay 1", "--ema-decay must be"),
    ("train diffusion --data digits --out a --precision int8", "invalid choice: 'int8'"),
    ("train diffusion --data digits --out a --seed -1", "--seed must be"),
    ("train diffusion --data digits --out a --small", "--small must come with --data"),
    ("train diffusion --data digits --out a --predicts w", "invalid choice: 'w'"),
    (
        "train classifier --data digits --out a --predicts v",
        "--predicts must be for diffusion only",
    ),
    (
        "train classifier --data digits --out a --accumulate 3 --no-samples",
        "batch must be a multiple",
    ),
    ("train diffusion --data folder:. --image-size 0 --out a", "--image-size must be"),
    ("data --data lions", "data must be"),
    ("data --data digits --unfit guess", "invalid choice: 'guess'"),
    ("data --data digits --out no/a.png", "--out must be in a folder that exists, got 'no/a.png'"),
    ("pack no out", "source must be a folder with trained weights"),
    ("pack", "required"),
    ("evaluate a.npz", "required: B"),
    ("evaluate a.npz b.npz", "batch must be a file"),
    ("evaluate a.npz b.npz --repeats x", "invalid int value"),
    ("tradeoff --out a.json --count 5", "--count must be more than 128"),
    ("tradeoff --out a.json --scales 1,x", "invalid list of float value"),
    ("tradeoff --out a.json --steps 5,", "invalid list of int value"),
    ("tradeoff --out a.json --weights lion", "weights must be one of"),
    ("tradeoff", "required: --out"),
    ("info --now", "unrecognized arguments"),
]


@pytest.mark.parametrize("line, said", COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_bad_command_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, line, said):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line.split())
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (
        code == 2
        and said in err
        and err.count("\n") == 1
        and "Traceback" not in err
        and (out == "" or line.startswith("data"))
    ), (code, out, err)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_interrupted_command_ends_with_130(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.npz").write_text("earlier")
    monkeypatch.setattr(commands, "draw_guided", interrupted)
    assert main(["sample", "--out", str(tmp_path / "a.npz")]) == 130
    assert (
        capsys.readouterr().err == "gde sample: interrupted; what was written before is whole\n"
        and (tmp_path / "a.npz").read_text() == "earlier"
    )
