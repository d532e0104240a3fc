"""Loading code for data sets that a user downloads, on small files made here in the sets' own
formats.
"""

import gzip
import json
import struct
import sys

import pytest
import torch
from PIL import Image
from torchvision import datasets

import guided_diffusion_edu as gde
from guided_diffusion_edu import data
from guided_diffusion_edu.data import data_card, pad, within_class_std


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim)
        + b"".join(struct.pack(">I", n) for n in array.shape)
        + array.numpy().tobytes()
    )


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_sets_that_are_already_there(tmp_path, name, folder):
    pixels = torch.arange(3 * 28 * 28).view(3, 28, 28).to(torch.uint8)
    for part, labels in (("train", [7, 0, 9]), ("t10k", [1, 2, 3])):
        write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", pixels)
        write_idx(
            tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte",
            torch.tensor(labels, dtype=torch.uint8),
        )
    found = gde.load_data(name, root=tmp_path)
    assert (
        torch.equal(found.pixels, pixels[:, None])
        and found.labels.tolist() == [7, 0, 9]
        and len(found.class_names) == 10
    )
    assert gde.load_data(name, train=False, root=tmp_path).labels.tolist() == [1, 2, 3]


def test_cifar_is_turned_channels_first(tmp_path, monkeypatch):
    import numpy

    class Small:  # torchvision's interface without its download
        def __init__(self, root, train, download):
            self.data, self.targets, self.classes = (
                numpy.arange(2 * 4 * 4 * 3, dtype=numpy.uint8).reshape(2, 4, 4, 3),
                [1, 0],
                ["a", "b"],
            )

    monkeypatch.setattr(datasets, "CIFAR10", Small)
    found = gde.load_data("cifar10", root=tmp_path)
    assert (
        found.pixels.shape == (2, 3, 4, 4)
        and found.pixels[0, :, 0, 0].tolist() == [0, 1, 2]
        and found.pixels[0, 0, 0].tolist() == [0, 3, 6, 9]
        and found.labels.tolist() == [1, 0]
    )


def test_unknown_data():
    with pytest.raises(ValueError, match="data must be"):
        gde.load_data("imagenet")


def test_digits_are_split_once():
    train, held_out = gde.load_data("digits"), gde.load_data("digits", train=False)
    assert (len(train.labels), len(held_out.labels)) == (1437, 360) and set(
        train.labels.tolist()
    ) == set(held_out.labels.tolist()) == set(range(10))
    assert (
        train.pixels.dtype == torch.uint8 and train.pixels.min() == 0 and train.pixels.max() == 255
    )


def test_spread_within_by_hand():
    x, y = torch.tensor([[0.0], [2.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    assert within_class_std(x, y) == pytest.approx(0.5**0.5)


def test_fashion_mnist_is_read_in_place(tmp_path, monkeypatch):
    "From a folder like that of Debian's package; one that torchvision has filled goes before it."
    import gzip

    from guided_diffusion_edu import data

    monkeypatch.setitem(data.IN_PLACE, "fashion-mnist", tmp_path / "debian")
    pixels = torch.arange(3 * 28 * 28).view(3, 28, 28).to(torch.uint8)
    for part, labels in (("train", [7, 0, 9]), ("t10k", [1, 2, 3])):
        for what, array in (
            ("images-idx3", pixels),
            ("labels-idx1", torch.tensor(labels, dtype=torch.uint8)),
        ):
            path = tmp_path / "debian" / f"{part}-{what}-ubyte"
            write_idx(path, array)
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    found = gde.load_data("fashion-mnist", root=tmp_path / "none")
    assert (
        torch.equal(found.pixels, pixels[:, None])
        and found.labels.tolist() == [7, 0, 9]
        and found.class_names[9] == "Ankle boot"
    )
    assert gde.load_data("fashion-mnist", train=False, root=tmp_path / "none").labels.tolist() == [
        1,
        2,
        3,
    ]
    (tmp_path / "debian" / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc")
    )
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz must be a complete file"):
        gde.load_data("fashion-mnist", root=tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"\0\0\x0d\x01\0\0\0\x01a",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x08\x01\0\0\0\x01ab",
        b"\1\0\x08\x01\0\0\0\x01a",
    ],
)
def test_what_is_no_idx_file(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="must be a complete file in MNIST"):
        gde.data.read_idx(tmp_path / "a")


def noise_picture(width, height, seed=0, mode="RGB"):
    import numpy

    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(
        numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)
    )


@pytest.mark.parametrize(
    "width, height, size",
    [(64, 64, 64), (100, 70, 64), (301, 128, 64), (90, 513, 20), (33, 47, 16), (65, 65, 8)],
)
def test_crop_is_that_of_the_released_code(monkeypatch, width, height, size):
    import types

    import numpy

    for name in ("mpi4py", "mpi4py.MPI", "blobfile"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(MPI=None))
    from guided_diffusion.image_datasets import center_crop_arr

    picture = noise_picture(width, height)
    assert (
        numpy.array(gde.data.centre_crop(picture, size)) == center_crop_arr(picture, size)
    ).all()


def test_halving_is_the_mean_of_four():
    import numpy

    pixels = numpy.arange(256, dtype=numpy.uint8).reshape(16, 16)
    found = numpy.array(gde.data.centre_crop(Image.fromarray(pixels), 8)).astype(float)
    assert abs(found - pixels.reshape(8, 2, 8, 2).mean((1, 3))).max() <= 0.5


def folder_of_pictures(tmp_path):
    for name, sizes in (("cats", [(20, 16), (40, 90)]), ("dogs", [(16, 16), (15, 40)])):
        (tmp_path / name).mkdir()
        for i, size in enumerate(sizes):
            noise_picture(*size, seed=i).save(tmp_path / name / f"{i}.png")
    whole = (tmp_path / "cats" / "1.png").read_bytes()
    (tmp_path / "cats" / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dogs" / "2.jpg").write_bytes(b"")


def test_pictures_that_are_not_fit_are_named(tmp_path):
    folder_of_pictures(tmp_path)
    with pytest.raises(ValueError, match="3 of 6 are not") as refused:
        gde.load_data(f"folder:{tmp_path}", image_size=16)
    for said in (
        "cats/2.png cannot be read",
        "dogs/2.jpg cannot be read",
        "dogs/1.png is 15 x 40, smaller than 16",
    ):
        assert said in str(refused.value)
    with pytest.warns(UserWarning, match="left out 3 of 6 images: .*cats/2.png"):
        found = gde.load_data(f"folder:{tmp_path}", image_size=16, unfit="skip")
    assert (
        found.labels.tolist() == [0, 0, 1]
        and found.class_names == ("cats", "dogs")
        and found.pixels.shape == (3, 3, 16, 16)
    )
    with pytest.raises(ValueError, match="unfit must be one of"):
        gde.load_data(f"folder:{tmp_path}", image_size=16, unfit="mend")
    (tmp_path / "dogs" / "0.png").unlink()
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"of every class that can be used, got none of .'dogs'."),
    ):
        gde.load_data(f"folder:{tmp_path}", image_size=16, unfit="skip")


def test_hidden_folders_are_no_classes_and_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("pets/cats", "pets/.ipynb_checkpoints"):
        (tmp_path / name).mkdir(parents=True)
        noise_picture(16, 16, seed=0).save(tmp_path / name / "0.png")
    found = gde.load_data("folder:~/pets", image_size=16)
    assert found.class_names == ("cats",) and len(found.pixels) == 1
    with pytest.raises(ValueError, match="there is none at '~nobody/pets'"):
        gde.load_data("folder:~nobody/pets")
    (tmp_path / "pets" / "cats").rename(tmp_path / "cats")
    with pytest.raises(ValueError, match="one folder of images per class: there is none in"):
        gde.load_data("folder:~/pets", image_size=16)


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path):
    (tmp_path / "a").mkdir()
    picture = Image.new("RGB", (32, 16), "white")
    picture.paste("black", (0, 0, 16, 16))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "a" / "b.png", exif=exif)
    pixels = gde.load_data(f"folder:{tmp_path}", image_size=16).pixels[0, 0]
    assert pixels[:7].max() < 60 and pixels[9:].min() > 195


def package_of_emoji(path, n=12):
    """An npm package of `n` red pictures on nothing in one category and `n` blue ones in another,
    and a skin tone.
    """
    import json

    entries = [
        dict(image=f"{i}.png", category=("Smileys & Emotion", "Animals & Nature")[i % 2])
        for i in range(2 * n)
    ]
    entries += [
        dict(image="0.png", category="Component"),
        dict(image="missing.png", category="Smileys & Emotion"),
    ]
    (path / "img" / "made" / "64").mkdir(parents=True)
    (path / "emoji.json").write_text(json.dumps(entries))
    for i in range(2 * n):
        picture = Image.new("RGBA", (64, 64))
        picture.paste(((255, 0, 0, 255), (0, 0, 255, 255))[i % 2], (16, 16, 48, 48))
        picture.save(path / "img" / "made" / "64" / f"{i}.png")


def test_emoji_from_a_package(tmp_path):
    package_of_emoji(tmp_path)
    train, held_out = (
        gde.load_data(f"emoji:{tmp_path}", train=train, image_size=16) for train in (True, False)
    )
    assert (
        train.class_names == ("Animals & Nature", "Smileys & Emotion")
        and torch.bincount(train.labels).tolist() == [11, 11]
        and held_out.labels.tolist() == [1, 0]
    )
    assert (train.pixels[:, :, 0, 0] == 255).all()  # what is transparent is white
    assert train.pixels[train.labels == 1][0, :, 8, 8].tolist() == [255, 0, 0] and train.pixels[
        train.labels == 0
    ][0, :, 8, 8].tolist() == [0, 0, 255]
    with pytest.raises(ValueError, match="one folder img/NAME/64"):
        gde.load_data(f"emoji:{tmp_path / 'img'}")
    with pytest.raises(ValueError, match="emoji at a path that exists"):
        gde.load_data(f"emoji:{tmp_path / 'none'}")


def test_emoji_too_few_to_hold_one_out(tmp_path):
    package_of_emoji(tmp_path, n=3)
    with pytest.raises(ValueError, match="data must hold 10 or more emoji of a category"):
        gde.load_data(f"emoji:{tmp_path}", train=False, image_size=16)


def test_emoji_from_a_font(tmp_path, monkeypatch):
    """Of matplotlib's font, which has some in black and white; only whole emoji of one character
    count.
    """
    import shutil

    import matplotlib

    shutil.copy(matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans.ttf", tmp_path / "font.ttf")
    (tmp_path / "emoji-test.txt").write_text(
        "# group: Faces\n263A FE0F ; fully-qualified # smile\n263A ; unqualified # smile\n"
        "263B 200D 263B ; fully-qualified # two\n"
        "# group: Symbols\n2665 FE0F ; fully-qualified # heart\n2660 ; fully-qualified # spade\n"
    )
    found = gde.load_data(f"emoji:{tmp_path / 'font.ttf'}", image_size=32)
    assert found.class_names == ("Faces", "Symbols") and found.labels.tolist() == [0, 1, 1]
    assert all(
        (picture == 255).any() and (picture < 50).any() for picture in found.pixels
    ) and not torch.equal(found.pixels[1], found.pixels[2])
    (tmp_path / "emoji-test.txt").write_text(
        "# group: Faces\n110000 ; fully-qualified # beyond the last character\n"
    )
    with pytest.raises(
        ValueError, match=r"emoji-test.txt must list characters by number, got '110000'"
    ):
        gde.load_data(f"emoji:{tmp_path / 'font.ttf'}", image_size=32)
    (tmp_path / "emoji-test.txt").unlink()
    monkeypatch.setattr(data, "EMOJI_GROUPS", tmp_path / "not-installed.txt")
    with pytest.raises(ValueError, match=r"Unicode's emoji-test.txt beside .*font.ttf"):
        gde.load_data(f"emoji:{tmp_path / 'font.ttf'}", image_size=32)


def test_cards_say_licence_and_counts(tmp_path):
    package_of_emoji(tmp_path)
    card = data_card("digits", gde.load_data("digits"))
    assert "CC BY 4.0" in card and "1,437 images of 8 x 8, 1 channel\n" in card
    name = f"emoji:{tmp_path}"
    card = data_card(name, gde.load_data(name, image_size=16))
    assert (
        "Apache-2.0" in card
        and "CC BY 4.0" in card
        and "Animals & Nature 11, Smileys & Emotion 11" in card
        and "3 channels" in card
    )
    assert set(gde.data.ORIGINS) == {"digits", "folder", "emoji", "avatars", *gde.data.KINDS}


def test_borders():
    data = gde.Images(
        torch.full((2, 1, 28, 28), 9, dtype=torch.uint8), torch.zeros(2).long(), ("a",)
    )
    found = pad(data, 32).pixels
    assert (
        found.shape == (2, 1, 32, 32)
        and (found[:, :, 2:30, 2:30] == 9).all()
        and found.sum() == data.pixels.sum()
        and found.dtype == torch.uint8
    )
    assert (pad(data, 29, shade=7).pixels[0, 0, -1] == 7).all()
    with pytest.raises(ValueError, match="size must be at least"):
        pad(data, 27)


def test_transparency_is_white_and_16_bits_are_256_greys(tmp_path):
    import numpy

    (tmp_path / "a").mkdir()
    hidden = numpy.zeros((8, 8, 4), "uint8")
    hidden[..., 0] = 200
    hidden[2:6, 2:6, 3] = 255  # red, seen in the middle only
    Image.fromarray(hidden).save(tmp_path / "a" / "0.png")
    Image.fromarray(numpy.linspace(0, 65535, 64).reshape(8, 8).round().astype("uint16")).save(
        tmp_path / "a" / "1.png"
    )
    Image.fromarray(numpy.full((8, 8, 3), 7, "uint8")).save(tmp_path / "a" / "2.png")
    Image.fromarray(numpy.full((8, 8), 0.5, "float32")).save(tmp_path / "a" / "3.tiff")
    Image.fromarray(numpy.full((8, 8), 200, "int32")).save(
        tmp_path / "a" / "4.tiff"
    )  # 8 bits in a wide coat
    with pytest.warns(UserWarning, match=r"left out 1 of 5 images: .*3.tiff cannot be read"):
        red, grey, plain, wide = gde.load_data(
            f"folder:{tmp_path}", image_size=8, unfit="skip"
        ).pixels
    assert red[:, 0, 0].tolist() == [255, 255, 255] and red[:, 4, 4].tolist() == [200, 0, 0]
    assert (
        grey[0].flatten().tolist() == [round(255 * i / 63) for i in range(64)]
        and (plain == 7).all()
        and (wide == 200).all()
    )


def write_avatars(folder):
    "A folder as tools/make_avatars.mjs leaves it: five and two images of 32 pixels, two styles."

    for part, count in (("train", 5), ("test", 2)):
        pixels = torch.arange(count * 3 * 32 * 32).to(torch.uint8).view(count, 3, 32, 32)
        labels = torch.arange(count, dtype=torch.uint8).remainder(2)
        for name, array in (("32-images-idx4", pixels), ("labels-idx1", labels)):
            plain = folder / "plain"
            write_idx(plain, array)
            packed = gzip.compress(plain.read_bytes())
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(packed)
    styles = [dict(style=name, licence="CC0 1.0") for name in ("micah", "thumbs")]
    (folder / "licences.json").write_text(json.dumps(styles))


def test_avatars_are_read_as_they_were_drawn(tmp_path):
    write_avatars(tmp_path)
    train, held_out = (
        gde.load_data(f"avatars:{tmp_path}", part, image_size=32) for part in (True, False)
    )
    assert train.pixels.shape == (5, 3, 32, 32) and held_out.pixels.shape == (2, 3, 32, 32)
    assert train.pixels.flatten()[:300].tolist() == [n % 256 for n in range(300)]
    assert train.labels.tolist() == [0, 1, 0, 1, 0] and train.labels.dtype == torch.int64
    assert train.class_names == ("micah", "thumbs")


def test_avatars_that_are_not_there(tmp_path):
    write_avatars(tmp_path)
    with pytest.raises(ValueError, match=r"avatars as .* 32 or 64 .*without train-64-images"):
        gde.load_data(f"avatars:{tmp_path}", image_size=64)
    (tmp_path / "train-32-images-idx4-ubyte.gz").write_bytes(b"no images")
    with pytest.raises(ValueError, match="MNIST"):
        gde.load_data(f"avatars:{tmp_path}", image_size=32)
