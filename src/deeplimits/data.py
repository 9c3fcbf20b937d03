"""Classification data, split into train, validation and test (digits, MNIST, CIFAR-10), and random regression data.

The digits come with scikit-learn and are always there. MNIST and CIFAR-10 are read from a folder, by default
``~/.cache/deeplimits`` or what DEEPLIMITS_DATA names, and fetched into it on request. Every file is compared with its
published checksum each time it is read. Parameters are chosen on the validation set; the test set is for the
one number at the end.
"""

import gzip
import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from deeplimits.checks import one_of, positive_integer

Pair = tuple[Tensor, Tensor]


class Unavailable(OSError):
    """A data set that is neither in the folder nor could be fetched. The message says how to supply it."""


@dataclass(frozen=True)
class Dataset:
    """Three pairs (x, y): x of shape (examples, features) in float64, y the classes 0, ..., classes - 1.

    Features have mean 0 and variance 1 over all entries of the training set together.
    """

    name: str
    classes: int
    train: Pair
    validation: Pair
    test: Pair

    @property
    def features(self) -> int:
        return self.train[0].shape[1]


@dataclass(frozen=True)
class Source:
    """A file: its name, the places that offer it, and its MD5 sum (against damage, not against malice)."""

    file: str
    places: tuple[str, ...]
    md5: str


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
SOURCES = {
    "mnist": (
        Source("train-images-idx3-ubyte.gz", _MNIST, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        Source("train-labels-idx1-ubyte.gz", _MNIST, "d53e105ee54ea40749a09fcbcd1e9432"),
        Source("t10k-images-idx3-ubyte.gz", _MNIST, "9fb629c4189551a2d022fa330f9573f3"),
        Source("t10k-labels-idx1-ubyte.gz", _MNIST, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "cifar10": (
        Source("cifar-10-binary.tar.gz", ("https://www.cs.toronto.edu/~kriz/",), "c32a1d4ab5d03f1284b67883e8d87530"),
    ),
}
NAMES = ("digits", *SOURCES)


def load(name: str, generator: torch.Generator, *, folder: str | Path | None = None, fetch: bool = False) -> Dataset:
    """The data set ``name``: ``digits``, ``mnist`` or ``cifar10``, on the device of ``generator``.

    The digits are divided into 60 % train, 20 % validation and 20 % test by the generator; from the official
    training set of the others a sixth is set aside for validation. ``fetch`` allows the network to be used.

    Raises Unavailable if a file is missing or damaged and could not be fetched.
    """
    one_of("name", name, NAMES)
    if name == "digits":
        digits = load_digits()
        x, y, test = digits.data, digits.target, None
    else:
        place = Path(folder or os.environ.get("DEEPLIMITS_DATA") or Path.home() / ".cache" / "deeplimits") / name
        files = [_file(name, source, place, fetch) for source in SOURCES[name]]
        x, y, *test = _read_mnist(files) if name == "mnist" else _read_cifar10(files)
    order = torch.randperm(len(y), generator=generator, device=generator.device).cpu().numpy()
    if test is None:
        first, second, third = np.split(order, [int(0.6 * len(y)), int(0.8 * len(y))])
        pairs = [(x[part], y[part]) for part in (first, second, third)]
    else:
        first, second = np.split(order, [len(y) - len(y) // 6])
        pairs = [(x[first], y[first]), (x[second], y[second]), tuple(test)]
    centre, spread = pairs[0][0].mean(), pairs[0][0].std()
    train, validation, test = (
        (
            torch.as_tensor((a - centre) / spread, dtype=torch.float64, device=generator.device),
            torch.tensor(b, dtype=torch.int64, device=generator.device),
        )
        for a, b in pairs
    )
    return Dataset(name, 10, train, validation, test)


def regression(examples: int, width: int, generator: torch.Generator) -> Pair:
    """Inputs and targets of the size of a state, all entries independent N(0, 1): two tensors (examples, width).

    The data of Chizat's experiments: nothing can be learnt from it but itself.
    """
    shape = 2, positive_integer("examples", examples), positive_integer("width", width)
    x, y = torch.empty(shape, dtype=torch.float64, device=generator.device).normal_(generator=generator)
    return x, y


def _file(name: str, source: Source, place: Path, fetch: bool) -> bytes:
    """The content of a file of the data set, from the folder or, if allowed, from the network."""
    path, reasons = place / source.file, []
    if path.exists():
        content = path.read_bytes()
        if _intact(content, source):
            return content
        reasons.append(f"{path} is there, but it is not the published file (MD5 {source.md5})")
    for url in (base + source.file for base in source.places if fetch):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
        except (OSError, urllib.error.URLError, EOFError) as error:
            reasons.append(f"{url}: {error}")
            continue
        if _intact(content, source):
            place.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(content)
            temporary.replace(path)  # a file is whole or absent
            return content
        reasons.append(f"{url}: not the published file")
    tried = "; ".join(reasons) or f"{path} is not there, and nothing was fetched"
    raise Unavailable(
        f"{name} is not available ({tried}). Get {source.file} from {source.places[0]} and put it into {place}; "
        f"another folder than {place.parent} can be named by DEEPLIMITS_DATA"
    )


def _intact(content: bytes, source: Source) -> bool:
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == source.md5


def _read_mnist(files: list[bytes]) -> tuple[np.ndarray, ...]:
    """Train images and labels, test images and labels, from the four IDX files."""
    images, labels, test_images, test_labels = (gzip.decompress(content) for content in files)

    def rows(content: bytes) -> np.ndarray:
        count = int.from_bytes(content[4:8], "big")
        return np.frombuffer(content, np.uint8, offset=16).reshape(count, -1).astype(float)

    def classes(content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8, offset=8)

    return rows(images), classes(labels), rows(test_images), classes(test_labels)


def _read_cifar10(files: list[bytes]) -> tuple[np.ndarray, ...]:
    """Train images and labels, test images and labels, from the archive of the binary version."""
    with tarfile.open(fileobj=io.BytesIO(files[0])) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers()}
        batches = [
            np.frombuffer(archive.extractfile(members[f"{batch}.bin"]).read(), np.uint8).reshape(-1, 3073)
            for batch in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        ]
    train, test = np.concatenate(batches[:5]), batches[5]
    return train[:, 1:].astype(float), train[:, 0], test[:, 1:].astype(float), test[:, 0]
