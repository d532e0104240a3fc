"""Figures: what loads them, and what a grid of images is."""

import subprocess
import sys

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.viz import COLOR


def test_importing_viz_loads_no_plotting_library():
    script = (
        "import sys, guided_diffusion_edu.viz; "
        "print(sorted({'matplotlib', 'torchvision', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_each_role_has_its_own_colour():
    assert len(set(COLOR.values())) == len(COLOR) == 7


def test_a_grid_is_in_rows_with_a_margin_and_magnified():
    images = torch.stack([torch.full((1, 2, 3), level) for level in (-1.0, 0.0, 1.0)])
    grid = gde.image_grid(images, columns=3, zoom=2)
    assert grid.shape == (2 * (2 + 2), 2 * (3 * (3 + 1) + 1), 3) and grid.dtype == torch.uint8
    assert [grid[3, 2 * (1 + 4 * k), 0].item() for k in range(3)] == [0, 128, 255]
