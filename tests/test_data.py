"""Data sets: splits, checksums, what happens without a network, and the two file formats."""

import gzip
import hashlib
import io
import tarfile
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplimits import data
from deeplimits.data import SOURCES, Source, Unavailable


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Small MNIST and CIFAR-10 files at a 'place', known to ``data`` by their checksums; an empty folder for them."""
    rng = np.random.default_rng(0)
    made = {
        "mnist": [
            idx(rng.integers(0, 256, (30, 28, 28))),
            idx(np.arange(30) % 10),
            idx(rng.integers(0, 256, (4, 28, 28))),
            idx(np.arange(4)),
        ],
        "cifar10": [archive(rng)],
    }
    place = tmp_path / "place"
    place.mkdir()
    for name, contents in made.items():
        sources = []
        for source, content in zip(SOURCES[name], contents, strict=True):
            (place / source.file).write_bytes(content)
            md5 = hashlib.md5(content).hexdigest()
            sources.append(Source(source.file, ("file:///nowhere/", f"{place.as_uri()}/"), md5))
        monkeypatch.setitem(SOURCES, name, tuple(sources))
    monkeypatch.setenv("DEEPLIMITS_DATA", str(tmp_path / "folder"))
    return tmp_path


def archive(rng) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
            rows = rng.integers(0, 256, (6, 3073), dtype=np.uint8)
            rows[:, 0] = i
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = rows.size
            tar.addfile(member, io.BytesIO(rows.tobytes()))
    return buffer.getvalue()


def test_digits_are_split_without_overlap_and_without_loss(generator):
    digits = data.load("digits", generator)
    parts = [digits.train, digits.validation, digits.test]
    assert [len(y) for _, y in parts] == [1078, 359, 360] and digits.features == 64 and digits.classes == 10
    rows = {(*x.tolist(), int(y)) for pair in parts for x, y in zip(*pair, strict=True)}
    assert len(rows) == 1797  # all different from each other, none in two parts
    counts = torch.cat([y for _, y in parts]).bincount().tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert float(digits.train[0].mean()) == pytest.approx(0, abs=1e-12)
    assert float(digits.train[0].std(correction=0)) == pytest.approx(1)
    assert float(digits.test[0].mean()) != 0  # scaled by the training set alone


def test_the_split_is_that_of_the_generator():
    one, two, three = (data.load("digits", torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one.test[0], two.test[0]) and not torch.equal(one.test[0], three.test[0])


def test_mnist_is_fetched_once_read_and_split(fake, generator, monkeypatch):
    mnist = data.load("mnist", generator, fetch=True)
    assert [len(y) for _, y in (mnist.train, mnist.validation, mnist.test)] == [25, 5, 4]
    assert mnist.features == 784 and mnist.test[1].tolist() == [0, 1, 2, 3]
    assert sorted(torch.cat([mnist.train[1], mnist.validation[1]]).tolist()) == sorted(i % 10 for i in range(30))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("fetched again"))
    data.load("mnist", generator, fetch=True)
    assert not list(fake.rglob("*.tmp"))


def test_images_keep_their_labels(fake, generator):
    """Labels of the fake CIFAR-10 are the batches; the rows of a batch must come with its number."""
    cifar = data.load("cifar10", generator, fetch=True)
    assert cifar.features == 3072 and cifar.test[1].tolist() == [5] * 6
    assert sorted(torch.cat([cifar.train[1], cifar.validation[1]]).tolist()) == sorted(list(range(5)) * 6)
    content = (fake / "folder" / "cifar10" / SOURCES["cifar10"][0].file).read_bytes()
    raw = {row.tobytes(): label for row, label in zip(*data._read_cifar10([content])[:2], strict=True)}
    again, _ = data._read_cifar10([content])[:2]
    scaled = (again - again.mean()) / again.std()
    for x, y in zip(*cifar.train, strict=True):
        nearest = np.abs(scaled - x.numpy()).mean(1).argmin()
        assert raw[again[nearest].tobytes()] == int(y)


def test_mnist_pixels_by_hand():
    images = np.zeros((2, 28, 28))
    images[1, 0, 3] = 200
    x, y, _, _ = data._read_mnist([idx(images), idx(np.array([7, 9])), idx(images), idx(np.array([0, 1]))])
    assert x.shape == (2, 784) and x[1, 3] == 200 and x.sum() == 200 and y.tolist() == [7, 9]


def test_offline_the_error_says_what_to_do(fake, generator):
    with pytest.raises(Unavailable, match=r"mnist is not available .*is not there, and nothing was fetched"):
        data.load("mnist", generator)
    with pytest.raises(Unavailable, match=r"Get train-images-idx3-ubyte.gz from file:///nowhere/ and put it into"):
        data.load("mnist", generator, folder=fake / "empty")


def test_no_place_answers(fake, generator, monkeypatch):
    sources = [replace(s, places=("file:///nowhere/",)) for s in SOURCES["mnist"]]
    monkeypatch.setitem(SOURCES, "mnist", tuple(sources))
    with pytest.raises(Unavailable, match=r"file:///nowhere/train-images-idx3-ubyte.gz: .*No such file"):
        data.load("mnist", generator, fetch=True)
    assert not (fake / "folder").exists()


def test_a_damaged_file_is_never_used(fake, generator):
    data.load("mnist", generator, fetch=True)
    path = fake / "folder" / "mnist" / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(Unavailable, match="is there, but it is not the published file"):
        data.load("mnist", generator)
    data.load("mnist", generator, fetch=True)  # replaced
    assert path.read_bytes() == whole


def test_a_damaged_download_is_never_kept(fake, generator):
    (fake / "place" / "train-labels-idx1-ubyte.gz").write_bytes(b"half of it")
    with pytest.raises(Unavailable, match=r"train-labels-idx1-ubyte.gz: not the published file"):
        data.load("mnist", generator, fetch=True)
    kept = [path.name for path in (fake / "folder").rglob("*") if path.is_file()]
    assert kept == ["train-images-idx3-ubyte.gz"]


def test_unknown_names_are_refused(generator):
    with pytest.raises(ValueError, match="name must be one of 'digits', 'mnist', 'cifar10', got 'imagenet'"):
        data.load("imagenet", generator)


def test_regression_data_are_standard_normal(generator):
    x, y = data.regression(200, 50, generator)
    assert x.shape == y.shape == (200, 50) and x.dtype == torch.float64 and not torch.equal(x, y)
    for z in (x, y):  # 10 000 numbers: standard errors 0.01 of the mean and 0.007 of the standard deviation
        assert abs(float(z.mean())) < 0.05 and abs(float(z.std()) - 1) < 0.035
    with pytest.raises(ValueError, match="examples must be a positive integer"):
        data.regression(0, 3, generator)
