"""Is the stand-in like CUDA? Each probe states what a GPU is known to do, and holds on a real one too.

``FAKECUDA=1 PYTHONPATH=site python -m pytest probes.py``
"""

import copy
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).resolve().parent
fakecuda = sys.modules.get("fakecuda")  # None on a real GPU
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="neither a GPU nor FAKECUDA=1")
only_here = pytest.mark.skipif(fakecuda is None, reason="a real GPU")
GPU = torch.device("cuda:0")


def seeded():
    return torch.Generator("cuda").manual_seed(1)


@pytest.fixture
def x():
    return torch.arange(6.0, device="cuda")


REFUSED = {
    "add": (RuntimeError, lambda x: x + torch.ones(6)),
    "matmul": (RuntimeError, lambda x: x.view(2, 3) @ torch.ones(3, 2)),
    "cat": (RuntimeError, lambda x: torch.cat([x, torch.ones(2)])),
    "stack": (RuntimeError, lambda x: torch.stack([x, torch.ones(6)])),
    "where": (RuntimeError, lambda x: torch.where(torch.ones(6, dtype=torch.bool), x, 0.0)),
    "lerp": (RuntimeError, lambda x: torch.lerp(x, torch.ones(6), 0.5)),
    "equal": (RuntimeError, lambda x: torch.equal(x, torch.ones(6))),
    "allclose": (RuntimeError, lambda x: torch.allclose(x, torch.ones(6))),
    "gather": (RuntimeError, lambda x: x.gather(0, torch.tensor([1]))),
    "index_select": (RuntimeError, lambda x: x.index_select(0, torch.tensor([1]))),
    "masked_fill": (RuntimeError, lambda x: x.masked_fill(torch.zeros(6, dtype=torch.bool), 1.0)),
    "searchsorted": (RuntimeError, lambda x: torch.searchsorted(x, torch.tensor([1.0]))),
    "out": (RuntimeError, lambda x: torch.add(x, x, out=torch.empty(6))),
    "one entry in a product": (RuntimeError, lambda x: torch.dot(x[:1], torch.tensor([1.0]))),
    "index of a CPU tensor": (RuntimeError, lambda x: torch.ones(6)[x.long()]),
    "mask of a CPU tensor": (RuntimeError, lambda x: torch.ones(6)[x > 2]),
    "CPU values into the device": (RuntimeError, lambda x: x.__setitem__(torch.tensor([1, 2]), torch.ones(2))),
    "numpy": (TypeError, lambda x: x.numpy()),
    "asarray": (TypeError, lambda x: np.asarray(x)),
    "NumPy function": (TypeError, lambda x: np.log(x)),
    "NumPy array times": (TypeError, lambda x: np.ones(6) @ x),
    "list of device vectors to NumPy": ((TypeError, ValueError), lambda x: np.array([x, x])),
    "CPU generator": (RuntimeError, lambda x: torch.randn(3, generator=torch.Generator(), device="cuda")),
    "CPU generator in place": (RuntimeError, lambda x: x.normal_(generator=torch.Generator())),
    "CPU generator randperm": (RuntimeError, lambda x: torch.randperm(3, generator=torch.Generator(), device="cuda")),
    "device generator on the CPU": (RuntimeError, lambda x: torch.randn(3, generator=seeded())),
    "integer product": (RuntimeError, lambda x: x.view(2, 3).long() @ x.view(3, 2).long()),
    "two precisions in a product": (RuntimeError, lambda x: x.view(2, 3) @ x.view(3, 2).double()),
    "no kernel": (NotImplementedError, lambda x: torch.histogram(x, 3)),
    "one GPU too many": (RuntimeError, lambda x: x.to(f"cuda:{torch.cuda.device_count()}")),
    "linear layer on the CPU": (RuntimeError, lambda x: torch.nn.Linear(6, 2, device="cpu")(x)),
    "gradient on the CPU": (RuntimeError, lambda x: torch.autograd.grad(x.clone().requires_grad_(), x, torch.ones(6))),
    "more than there is": (torch.OutOfMemoryError, lambda x: torch.empty(2**48, device="cuda")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, x):
    error, act = REFUSED[name]
    with pytest.raises(error):
        act(x)


def test_numbers_and_zero_dimensional_cpu_tensors_mix(x):
    assert (x + 1).device == (2 * x + torch.tensor(1.0)).device == (x * np.float64(2)).device == GPU
    assert torch.where(x > 2, x, torch.tensor(0.0)).device == GPU
    x[torch.tensor([0])] = torch.tensor(7.0)
    x[1] = torch.ones(1)[0]
    assert x.tolist() == [7, 1, 2, 3, 4, 5]


def test_cpu_indices_of_a_device_tensor(x):
    assert x[torch.tensor([1, 2])].device == x[torch.ones(6, dtype=torch.bool)].device == x[np.array([1])].device == GPU


def test_leaving_the_device(x):
    assert x.tolist() == list(range(6)) and float(x[1]) == 1.0 and x.cpu().numpy().sum() == 15
    assert x.cpu().device.type == "cpu" and torch.ones(6).copy_(x).device.type == "cpu"
    assert f"{x[1]:.1f}" == "1.0" and "device='cuda:0'" in repr(x) and bool((x > -1).all())


def test_default_device(x):
    with torch.device("cuda"):
        made = torch.linspace(0, 1, 3), torch.tensor([1.0]), torch.as_tensor(np.ones(2)), torch.eye(2), torch.arange(3)
        assert {t.device for t in made} == {GPU}
        assert torch.from_numpy(np.ones(2)).device.type == "cpu"
        assert torch.nn.Linear(2, 2).weight.device == torch.randn(2).device == torch.randperm(3).device == GPU
        with pytest.raises(RuntimeError):
            torch.randn(3, generator=torch.Generator())


def test_random_streams_are_separate(x):
    a = torch.randn(3, generator=seeded(), device="cuda")
    assert torch.equal(a, torch.randn(3, generator=seeded(), device="cuda"))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        b = torch.rand(3, device="cuda")
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(b, torch.rand(3, device="cuda"))
    torch.manual_seed(1)
    c = torch.rand(3, device="cuda")
    torch.manual_seed(0)
    assert torch.equal(b, torch.rand(3, device="cuda")) and not torch.equal(b, c)


def test_gradients_and_functional_transforms(x):
    def cubes(v):
        return (v**3).sum()

    p = x.clone().requires_grad_()
    (p**2).sum().backward()
    assert torch.equal(p.grad, 2 * x)
    assert torch.func.jacrev(cubes)(x).device == torch.func.hessian(cubes)(x).device == GPU
    assert torch.equal(torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),))[1], x.cos())
    assert torch.vmap(lambda v: v * 2)(x.view(2, 3)).device == GPU


def test_views_resizing_and_complex(x):
    view = x.view(2, 3).T[1:]
    view.mul_(10)
    assert x.tolist() == [0, 10, 20, 3, 40, 50]
    out = torch.empty(0, device="cuda")
    torch.add(x, x, out=out)
    assert out.shape == (6,) and out.data_ptr() != x.data_ptr()
    y = torch.fft.rfft(x)
    assert y.device == GPU and torch.allclose(torch.fft.irfft(y), x, atol=1e-4)
    assert torch.view_as_real(y).data_ptr() == y.data_ptr() and y.conj().imag.device == GPU
    x.resize_(8)
    assert x.shape == (8,) and x[5] == 50


def test_linear_algebra(x):
    A = x[:4].view(2, 2) + 5 * torch.eye(2, device="cuda")
    Q, _ = torch.linalg.qr(A)
    values = torch.linalg.eigh(A @ A.T)[0], torch.linalg.svdvals(A) ** 2
    assert (
        torch.allclose(values[0], values[1].flip(0), atol=1e-3) and Q.device == torch.linalg.solve(A, Q).device == GPU
    )


def test_copies_and_files(x):
    assert copy.deepcopy(x).device == pickle.loads(pickle.dumps(x)).device == GPU
    for where in ("cpu", "cuda", "cuda:0", GPU):
        file = io.BytesIO()
        torch.save({"x": x, "y": [x[1:]]}, file)
        file.seek(0)
        back = torch.load(file, map_location=where, weights_only=True)
        assert back["x"].device.type == torch.device(where).type and back["y"][0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_modules_train(optimiser):
    torch.manual_seed(0)
    first = [torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten()]
    net = torch.nn.Sequential(*first, torch.nn.Dropout(0.1), torch.nn.LayerNorm(32), torch.nn.Linear(32, 3)).cuda()
    images, labels = torch.utils.data.TensorDataset(torch.randn(8, 1, 4, 4), torch.arange(8) % 3)[:]
    opt = optimiser(net.parameters(), 1e-2)
    for batch in (slice(0, 4), slice(4, 8)):
        loss = torch.nn.functional.cross_entropy(net(images[batch].cuda()), labels[batch].cuda())
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert loss.device == GPU and next(net.parameters()).grad.device == GPU


def test_attention():
    q = torch.randn(1, 2, 4, 8, device="cuda", requires_grad=True)
    torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, device="cuda")
    assert q.grad.device == layer(q[0]).device == GPU


def test_memory_is_limited(x):
    torch.cuda.set_per_process_memory_fraction(2.0**-8)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.zeros(2**32, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total == torch.cuda.get_device_properties(0).total_memory
    assert torch.cuda.max_memory_allocated() >= torch.cuda.memory_allocated() >= 24


def put(index, value):
    return lambda x: x.__setitem__(index(x), value)


COSTS = {  # kernels, waits, uploads
    "views": (0, 0, 0, lambda x: x.view(2, 3).T[1:, None].expand(2, 5, 2).detach()),
    "kernels": (3, 0, 0, lambda x: (2 * x + 1).exp()),
    "numbers": (1, 0, 0, lambda x: torch.add(x, x, alpha=0.5)),
    "product": (1, 0, 0, lambda x: x.view(2, 3) @ x.view(3, 2)),
    "copy on the device": (1, 0, 0, lambda x: x.clone()),
    "copy to the CPU": (0, 1, 0, lambda x: x.cpu()),
    "item": (0, 1, 0, lambda x: x[0].item()),
    "bool": (2, 1, 0, lambda x: bool((x > 0).any())),
    "allclose": (None, 1, 0, lambda x: torch.allclose(x, x)),
    "equal": (1, 1, 0, lambda x: torch.equal(x, x)),
    "print": (None, None, 0, lambda x: repr(x)),
    "tensor of a number": (0, 0, 1, lambda x: torch.tensor(0.5, device="cuda")),
    "as_tensor of a number": (0, 0, 1, lambda x: torch.as_tensor(0.5, device="cuda")),
    "array": (0, 0, 1, lambda x: torch.as_tensor(np.ones(3), device="cuda")),
    "nonzero": (1, 1, 0, lambda x: x.nonzero()),
    "masked_select": (None, 1, 0, lambda x: x.masked_select(x > 2)),
    "read by a mask": (3, 1, 0, lambda x: x[x > 2]),
    "read by an index": (2, 0, 0, lambda x: x[x.long()]),
    "read by a CPU index": (1, 0, 1, lambda x: x[torch.tensor([1, 2])]),
    "number by a mask": (2, 0, 0, put(lambda x: x > 2, 0.0)),
    "values by a mask": (4, 1, 0, lambda x: x.__setitem__(x > 2, -x[:3])),
    "values by a CPU index": (2, 0, 1, lambda x: x.__setitem__(torch.tensor([1, 2]), -x[:2])),
    "unique": (None, 1, 0, lambda x: torch.unique(x)),
    "repeat": (None, 1, 0, lambda x: torch.repeat_interleave(x, x.long())),
    "synchronize": (0, 1, 0, lambda x: torch.cuda.synchronize()),
    "random": (1, 0, 0, lambda x: torch.randn(3, generator=seeded(), device="cuda")),
}


@only_here
@pytest.mark.parametrize("name", COSTS)
def test_counts(name, x):
    *wanted, act = COSTS[name]
    with fakecuda.counting() as count:
        act(x)
    found = count.kernels, count.waits, count.uploads
    assert all(want in (None, had) for want, had in zip(wanted, found, strict=True)), count


@only_here
def test_counts_nest(x):
    with fakecuda.counting() as outer:
        with fakecuda.counting() as inner:
            x + 1
        x.cpu()
    assert (inner.kernels, inner.waits, outer.kernels, outer.waits) == (1, 0, 1, 1)
    assert inner.operators == {"aten::add.out": (1, 0, 0)} and set(outer.seconds) > set(inner.seconds)


@only_here
@pytest.mark.parametrize("name", ["CUDAGraph", "Event", "Stream", "current_stream"])
def test_what_is_not_there_says_so(name):
    with pytest.raises(RuntimeError, match=f"fakecuda has no torch.cuda.{name}"):
        getattr(torch.cuda, name)()


def python(code, **variables):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables})


@only_here
@pytest.mark.parametrize("order", ["import torch", "import fakecuda, torch", "import numpy, torch.nn.functional"])
def test_every_process_has_the_device(order):
    done = python(f"{order}; import torch; print(torch.ones(2, device='cuda').device, end='')")
    assert done.stdout == "cuda:0", done.stderr


@only_here
def test_torch_is_imported_by_nobody_else():
    assert python("import sys; print('torch' in sys.modules, end='')").stdout == "False"
    assert python("import torch; print(torch.cuda.is_available(), end='')", FAKECUDA="").stdout == "False"


@only_here
def test_after_torch_is_too_late():
    code = "import sys; sys.meta_path.pop(0); import torch, fakecuda"
    assert "fakecuda must be imported before torch" in python(code).stderr


@only_here
def test_forks_are_refused_as_cuda_refuses_them():
    code = """if True:
        import os, torch
        torch.ones(1, device="cuda")
        if os.fork() == 0:
            torch.cuda.init()
        os.wait()
    """
    assert "Cannot re-initialize CUDA in forked subprocess" in python(code).stderr


@only_here
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("library.version = lambda name: '2.14.1+cpu'", "is written for PyTorch 2.13.0, found 2.14.1"),
        ("library.sys.platform = 'darwin'", "is written for Linux, this is darwin"),
        ("library._torch = lambda: here", "needs the CPU build of PyTorch, found 2.13.0"),
        ("library.BUILT = here", "needs a C++ compiler, looked for c++, g++, clang++; install g++ or set CXX"),
        ("library.BUILT = here; library.os.environ['CXX'] = 'no-such-c++'", "looked for no-such-c++"),
        ("library.BUILT = here; library._compiler = str; sys.modules['yaml'] = None", "PyYAML, which is not installed"),
    ],
)
def test_what_is_missing_is_said(change, message, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    code = f"""if True:
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE / "fakecuda")!r})
        import library
        here = Path({str(tmp_path)!r})
        library.shutil.which = lambda name: None
        {change}
        library.build()
    """
    assert message in python(code, CXX="").stderr


@only_here
@pytest.mark.parametrize(("cxx", "status"), [("no-such-c++", 3), ("false", 1)])
def test_missing_and_broken_are_told_apart(cxx, status, tmp_path):
    library = shutil.copytree(HERE / "fakecuda", tmp_path / "fakecuda") / "library.py"
    variables = {**os.environ, "CXX": cxx}
    done = subprocess.run([sys.executable, str(library)], env=variables, capture_output=True, text=True)
    assert done.returncode == status and cxx in done.stderr and not list(tmp_path.glob("build/*"))
