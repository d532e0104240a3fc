"""What the page "evaluation" refuses, and how it says so."""

import pickle
import struct

import pytest
import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import INF, LAW, Payload, archive, cases, file_is_refused, is_refused, written
from guided_diffusion_edu.batches import Batch
from guided_diffusion_edu.evaluation import (
    bootstrap_interval,
    fid_infinity,
    merge_moments,
    moments,
)


def npy(array=None, descr="|u1", shape=(4, 8, 8, 3), data=b""):
    "The bytes of an .npy member that says what it likes of itself."
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + data


TABLE = [  # (what, said, call)
    (
        "moments of nothing",
        r"features must have shape \(N, D\) with N > 0",
        lambda: moments(torch.zeros(0, 3)),
    ),
    ("moments of nan", "features must be finite", lambda: moments(torch.tensor([[nan]]))),
    (
        "merge_moments of two sizes",
        "a and b must have features of one size, got 3 and 2",
        lambda: merge_moments(LAW, moments(torch.zeros(2, 2))),
    ),
    ("fid of a row", r"features must have shape", lambda: gde.fid(torch.zeros(3), torch.zeros(3))),
    (
        "fid of one sample",
        "features must be at least 2 samples for a covariance, got 1",
        lambda: gde.fid(torch.zeros(1, 3), torch.zeros(4, 3)),
    ),
    (
        "fid of two sizes",
        "features of one size, got 3 and 2",
        lambda: gde.fid(torch.zeros(4, 3), torch.zeros(4, 2)),
    ),
    (
        "frechet_distance of infinite features",
        "features must be finite",
        lambda: gde.fid(torch.full((4, 2), INF), torch.zeros(4, 2)),
    ),
    (
        "fid_infinity of few samples",
        "features must be more than 5 samples",
        lambda: fid_infinity(LAW, torch.zeros(4, 3)),
    ),
    (
        "fid_infinity of one subset",
        "subsets must be",
        lambda: fid_infinity(LAW, torch.randn(50, 3), subsets=1),
    ),
    (
        "inception_score of logits",
        "probs must be probabilities",
        lambda: gde.inception_score(torch.tensor([[3.0, 4.0]])),
    ),
    (
        "inception_score of nothing",
        "probs must have shape",
        lambda: gde.inception_score(torch.zeros(0, 3)),
    ),
    (
        "precision_recall of two sizes",
        "must have one size, got 3 and 2",
        lambda: gde.precision_recall(torch.zeros(9, 3), torch.zeros(9, 2)),
    ),
    (
        "precision_recall of too many neighbours",
        "k must be from 1 to the number of samples - 1, got k = 9 for 9",
        lambda: gde.precision_recall(torch.zeros(9, 3), torch.zeros(9, 3), k=9),
    ),
    (
        "density_coverage of no neighbour",
        "k must be from 1",
        lambda: gde.density_coverage(torch.zeros(9, 3), torch.zeros(9, 3), k=0),
    ),
    (
        "bootstrap_interval of nothing",
        "rows must hold at least 1",
        lambda: bootstrap_interval(torch.mean, torch.zeros(0)),
    ),
    (
        "bootstrap_interval redrawn never",
        "repeats must be .* got 0",
        lambda: bootstrap_interval(torch.mean, torch.zeros(5), repeats=0),
    ),
    (
        "bootstrap_interval of level 2",
        "level must be .* got 2",
        lambda: bootstrap_interval(torch.mean, torch.zeros(5), level=2),
    ),
    ("Batch that is not there", "batch must be a file", lambda: Batch("/nowhere/at/all.npz")),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


NOT_NPZ = "batch must be a whole .npz file"
FILES = [  # (what, said, what is done with the path)
    ("no .npz", NOT_NPZ, lambda p: Batch(written(p, b"PK no archive"))),
    ("an .npz that is a folder", "", lambda p: (p.mkdir(), Batch(p))),
    (
        "an .npz with a member that leaves the folder",
        r"batch must hold samples \(arr_0\)",
        lambda p: Batch(archive(p, DOTS__DOTS__evil=npy())),
    ),
    (
        "an .npz with objects",
        "can run code",
        lambda p: Batch(archive(p, arr_0=npy(descr="|O"))),
    ),
    (
        "an .npz with samples of a promised size",
        "arr_0 ends after 0 samples",
        lambda p: list(Batch(archive(p, arr_0=npy(shape=(10**12, 8, 8, 3)))).split(4)),
    ),
    (
        "an .npz with pictures too large",
        "arr_0 must be .* sides up to 2048",
        lambda p: Batch(archive(p, arr_0=npy(shape=(1, 10**6, 10**6, 3)))),
    ),
    (
        "an .npz with sizes below 0",
        "arr_0 must be",
        lambda p: Batch(archive(p, arr_0=npy(shape=(4, -8, -8, 3)))),
    ),
    (
        "an .npz with statistics that are a bomb",
        "array mu must be of at most 1 GiB",
        lambda p: Batch(archive(p, mu=npy(descr="<f8", shape=(10**9,)))).array("mu"),
    ),
    (
        "an .npz with statistics that are cut",
        "",
        lambda p: Batch(archive(p, mu=npy(descr="<f8", shape=(10**4,)))).array("mu"),
    ),
    (
        "an .npz with half of the statistics",
        "batch must hold the array sigma, got .'mu'",
        lambda p: Batch(archive(p, mu=npy(descr="<f8", shape=(0,)))).array("sigma"),
    ),
    (
        "an .npz whose header is code",
        "",
        lambda p: Batch(archive(p, arr_0=npy().replace(b"'|u1'", b"RAN+1"))),
    ),
    (
        "an .npz whose header is too deep",
        "",
        lambda p: Batch(
            archive(p, arr_0=b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000)
        ),
    ),
    ("a pickle for an .npz", NOT_NPZ, lambda p: Batch(written(p, pickle.dumps(Payload())))),
]


@cases(FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_refused_in_one_line_and_runs_nothing(tmp_path, said, call):
    file_is_refused(tmp_path, said, call)
