"""Loading code for data sets that a user downloads, on small files made here in the sets' own formats."""
import struct

import pytest
import torch
from torchvision import datasets

import guided_diffusion_edu as gde


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack('>HBB', 0, 8, array.ndim) + b''.join(struct.pack('>I', n) for n in array.shape) + array.numpy().tobytes())


@pytest.mark.parametrize('name, folder', [('mnist', 'MNIST'), ('fashion-mnist', 'FashionMNIST')])
def test_idx_sets_that_are_already_there(tmp_path, name, folder):
    pixels = torch.arange(3 * 28 * 28).view(3, 28, 28).to(torch.uint8)
    for part, labels in (('train', [7, 0, 9]), ('t10k', [1, 2, 3])):
        write_idx(tmp_path / folder / 'raw' / f'{part}-images-idx3-ubyte', pixels)
        write_idx(tmp_path / folder / 'raw' / f'{part}-labels-idx1-ubyte', torch.tensor(labels, dtype=torch.uint8))
    found = gde.load_data(name, root=tmp_path)
    assert torch.equal(found.pixels, pixels[:, None]) and found.labels.tolist() == [7, 0, 9] and len(found.names) == 10
    assert gde.load_data(name, train=False, root=tmp_path).labels.tolist() == [1, 2, 3]


def test_cifar_is_turned_channels_first(tmp_path, monkeypatch):
    import numpy
    class Small:  # torchvision's interface without its download
        def __init__(self, root, train, download): self.data, self.targets, self.classes = numpy.arange(2 * 4 * 4 * 3, dtype=numpy.uint8).reshape(2, 4, 4, 3), [1, 0], ['a', 'b']
    monkeypatch.setattr(datasets, 'CIFAR10', Small)
    found = gde.load_data('cifar10', root=tmp_path)
    assert found.pixels.shape == (2, 3, 4, 4) and found.pixels[0, :, 0, 0].tolist() == [0, 1, 2] and found.pixels[0, 0, 0].tolist() == [0, 3, 6, 9] and found.labels.tolist() == [1, 0]


def test_unknown_data():
    with pytest.raises(ValueError, match="data must be"): gde.load_data('imagenet')


def test_digits_are_split_once():
    train, held_out = gde.load_data('digits'), gde.load_data('digits', train=False)
    assert (len(train.labels), len(held_out.labels)) == (1437, 360) and set(train.labels.tolist()) == set(held_out.labels.tolist()) == set(range(10))
    assert train.pixels.dtype == torch.uint8 and train.pixels.min() == 0 and train.pixels.max() == 255


def test_spread_within_by_hand():
    x, y = torch.tensor([[0.0], [2.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    assert gde.spread_within(x, y) == pytest.approx(0.5 ** 0.5)
