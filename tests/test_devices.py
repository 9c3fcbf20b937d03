"""A linter over the library and the chapters, for code that has run on the CPU only.

What the library makes names its device, and its dtype where it is floating: the default device of a program may be
another one than that of the numbers beside it. What meets NumPy goes through the CPU.
"""

import ast
from pathlib import Path

import pytest

import book_cache

LIBRARY = book_cache.LIBRARY
FLOATING = {"as_tensor", "asarray", "empty", "eye", "full", "hann_window", "linspace", "logspace", "normal", "ones"}
FLOATING |= {"rand", "randn", "scalar_tensor", "tensor", "zeros"}
OTHER = {"arange", "Generator", "randint", "randperm", "tril_indices", "triu_indices"}
FIXED = {"from_numpy"}  # always on the CPU
# Methods whose value is no tensor, or a tensor on the CPU.
LEAVES = {"cpu", "data_ptr", "dim", "item", "numel", "numpy", "size", "tolist"}
# Calls that are right as they are: the text in a module, and the reason.
ON_CPU = "runs where all is on the CPU"
EXCEPTIONS = {
    "training": {
        "torch.zeros(1, device='cpu')": "only whether rho(0) = 0, in any precision",
        "tensor.numpy()": ON_CPU,
        "(U.any(2) | V.any(2) | (constant != 0)).numpy()": ON_CPU,
    },
}


def dotted(node: ast.AST) -> str:
    """The name that ``node`` is, ``torch.zeros``, or the empty text."""
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return node.id if isinstance(node, ast.Name) else ""


def integers(node: ast.AST) -> bool:
    """Whether the values of a new tensor are written as whole numbers, which give no floating dtype."""
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(integers, node.elts))
    if isinstance(node, ast.UnaryOp):
        return integers(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


class Linter(ast.NodeVisitor):
    """Collects (line, text, fault). ``on_cpu`` has names of tensors on the CPU, ``anywhere`` of those on any device."""

    def __init__(self):
        self.found, self.on_cpu, self.anywhere = [], set(), set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.on_cpu, self.anywhere
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        tensors = {a.arg for a in arguments if a.annotation and dotted(a.annotation) in ("Tensor", "torch.Tensor")}
        names = {a.arg for a in arguments}
        self.on_cpu, self.anywhere = self.on_cpu - names, (self.anywhere - names) | tensors
        self.generic_visit(node)
        self.on_cpu, self.anywhere = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
                single = isinstance(target, ast.Name)
                for names, belongs in ((self.on_cpu, self.is_on_cpu), (self.anywhere, self.is_tensor)):
                    (names.add if single and belongs(node.value) else names.discard)(name)

    def is_on_cpu(self, node: ast.AST) -> bool:
        """Whether ``node`` is seen to be on the CPU, such as ``x.detach().cpu()[0]`` or ``x.to("cpu")``."""
        if isinstance(node, ast.Name):
            return node.id in self.on_cpu
        if isinstance(node, ast.BinOp):
            return self.is_on_cpu(node.left) or self.is_on_cpu(node.right)
        if isinstance(node, ast.Attribute | ast.Subscript):
            return self.is_on_cpu(node.value)
        if not isinstance(node, ast.Call):
            return False
        given = [*node.args, *(k.value for k in node.keywords)]
        if any(isinstance(value, ast.Constant) and value.value == "cpu" for value in given):
            return True
        if isinstance(node.func, ast.Attribute) and dotted(node.func.value) != "torch":
            return node.func.attr == "cpu" or self.is_on_cpu(node.func.value)
        return dotted(node.func).removeprefix("torch.") in FIXED or any(map(self.is_on_cpu, node.args))

    def is_tensor(self, node: ast.AST) -> bool:
        """Whether ``node`` is seen to be a tensor that may be on a GPU."""
        if isinstance(node, ast.Name):
            return node.id in self.anywhere
        if isinstance(node, ast.BinOp):
            return self.is_tensor(node.left) or self.is_tensor(node.right)
        if isinstance(node, ast.Subscript):
            return self.is_tensor(node.value)
        if not isinstance(node, ast.Call) or self.is_on_cpu(node):
            return False
        module, _, last = dotted(node.func).rpartition(".")
        if module == "torch":
            return last in FLOATING | OTHER - {"Generator"} or any(map(self.is_tensor, node.args))
        return isinstance(node.func, ast.Attribute) and node.func.attr not in LEAVES and self.is_tensor(node.func.value)

    def visit_Call(self, node: ast.Call) -> None:
        module, _, last = dotted(node.func).rpartition(".")
        if module == "torch" and last in FLOATING | OTHER:
            given = {k.arg for k in node.keywords} | ({"device"} if last == "Generator" and node.args else set())
            whole = last in OTHER or (last in ("full", "tensor", "as_tensor") and integers(node.args[-1]))
            missing = [k for k in ("device", "dtype")[: 1 if whole else 2] if not given & {k, None}]  # None: **options
            if missing:
                self.fault(node, f"names no {' and no '.join(missing)}")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "numpy" and not self.is_on_cpu(node.func.value):
            self.fault(node, "does not go through .cpu()")
        if module.partition(".")[0] in ("np", "stats", "special", "plt") and any(map(self.is_tensor, node.args)):
            self.fault(node, "hands over a tensor that may be on a GPU")
        self.generic_visit(node)

    def fault(self, node: ast.AST, why: str) -> None:
        self.found.append((node.lineno, ast.unparse(node), why))


def faults(code: str) -> list[tuple[int, str, str]]:
    """Line, text and fault of each call of ``code`` that a GPU would stumble over."""
    linter = Linter()
    linter.visit(ast.parse(code))
    return linter.found


@pytest.mark.parametrize("module", sorted(path.stem for path in LIBRARY.glob("*.py")))
def test_library_names_devices(module):
    found, known = faults((LIBRARY / f"{module}.py").read_text("utf8")), EXCEPTIONS.get(module, {})
    assert [f"{module}.py:{line}: {text} {why}" for line, text, why in found if text not in known] == []
    assert set(known) <= {text for _, text, _ in found}, "an exception that is not needed any more"


def code_of(path: Path) -> str:
    """The code cells of a chapter, without what only IPython understands."""
    notebook = book_cache.read(path)
    cells = [] if notebook is None else [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))


@pytest.mark.parametrize("path", sorted((book_cache.ROOT / "chapters").rglob("*.md")), ids=lambda path: path.stem)
def test_chapters_bring_arrays_to_the_cpu(path):
    """A chapter's own tensors may be on any device, for it is the default one, but NumPy has only the CPU."""
    found = [f"{text} {why}" for _, text, why in faults(code_of(path)) if why == "does not go through .cpu()"]
    assert found == []


FAULTS = [
    "torch.zeros(3, dtype=x.dtype)",
    "torch.zeros(3, device=x.device)",
    "torch.arange(3)",
    "torch.tensor(nan)",
    "torch.full((n,), 1.0, device=x.device)",
    "torch.as_tensor(scale, device=x.device)",
    "torch.Generator()",
    "x.numpy()",
    "x.detach().numpy()",
    "function(x.cpu()).abs().numpy() + x[0].numpy()",
    "x = y.cpu()\nx = z\nx.numpy()",
    "y = torch.ones(3, device=d, dtype=t)\nnp.log(y)",
    "def f(x: torch.Tensor):\n    return np.sort(x + 1)",
    "def f(x: Tensor):\n    return stats.norm.cdf(torch.abs(x)[0])",
]


@pytest.mark.parametrize("code", FAULTS)
def test_faults_are_found(code):
    assert len(faults(code)) == 1


RIGHT = [
    "torch.zeros(3, **like)",
    "torch.zeros_like(x) + x.new_zeros(3)",
    "torch.arange(3, device=x.device)",
    "torch.full((n,), -1, device=x.device)",
    "torch.Generator(x.device)",
    "torch.from_numpy(a).exp().numpy()",
    "x.detach().cpu().numpy()",
    "x.to('cpu', torch.float64).numpy()",
    "y = torch.stack(rows).cpu()\n(y[..., -1] - z).mean(2).numpy()",
    "def f(x: Tensor):\n    x = x.cpu().numpy()\n    return np.sort(x)",
    "def f(x: Tensor):\n    x, n = finite(x)\n    return np.sort(x)",
    "def f(x):\n    return np.sort(x)",
]


@pytest.mark.parametrize("code", RIGHT)
def test_no_false_alarms(code):
    assert faults(code) == []
