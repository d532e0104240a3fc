"""The still pictures under "Play", shown where scripts are off: run after `make book`."""

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from chromium import chromium

PLAY = ROOT / "book" / "_static" / "play"


def keep(png, name, width):
    picture = Image.open(io.BytesIO(png))
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.LANCZOS)
    picture.save(PLAY / f"{name}.webp", quality=88, method=6)
    print(name, picture.size)


def digits(values):
    """Ten pictures of 8 x 8 values in [-1, 1] in two rows, with clear gaps, twenty screen pixels a
    pixel.
    """
    sheet = Image.new("RGBA", (1000, 400))
    for b in range(10):
        pixels = bytes(
            round((min(1, max(-1, v)) + 1) * 127.5) for v in values[64 * b : 64 * (b + 1)]
        )
        sheet.paste(
            Image.frombytes("L", (8, 8), pixels).resize((160, 160), Image.NEAREST),
            (20 + 200 * (b % 5), 20 + 200 * (b // 5)),
        )
    return sheet


with chromium() as browser:
    page = browser.new_page(
        viewport=dict(width=1300, height=1200),
        device_scale_factor=2,
        reduced_motion="reduce",
        color_scheme="light",
    )
    page.goto((ROOT / "_build" / "html" / "nbs" / "play" / "exact_world.html").as_uri())
    page.evaluate("gde.world.play()")
    keep(page.locator(".gde-picture canvas").screenshot(), "world", 1100)
    page.goto((ROOT / "_build" / "html" / "nbs" / "play" / "taylor.html").as_uri())
    keep(page.locator(".gde-picture > svg").screenshot(), "taylor", 1280)
    page.goto((ROOT / "_build" / "html" / "nbs" / "play" / "digits.html").as_uri())
    digits(
        page.evaluate(
            'gde.digits.chain({y: "each", scale: 3, steps: 25, sampler: "ddim", seed: 1})'
        )
    ).save(PLAY / "digits.webp", lossless=True)
