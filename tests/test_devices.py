"""A linter over the library and the chapters, for code that has run on the CPU only.

What the library makes names its device, and its dtype where it is floating: the default device of a program may be
another one than that of the numbers beside it. What meets NumPy goes through the CPU. A tensor is known by its
annotation, as an argument or a field of a class, and what is made of it by PyTorch; what other functions return is not.
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
NUMPY = {"np", "numpy", "scipy", "integrate", "linalg", "optimize", "qmc", "special", "stats", "plt"}
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


def whole(name: str, node: ast.Call) -> bool:
    """Whether this call of a maker of tensors is seen to need no floating dtype."""
    if name == "arange":
        return not any(isinstance(part, ast.Constant) and isinstance(part.value, float) for part in ast.walk(node))
    named = {k.arg: k.value for k in node.keywords}
    value = named.get("data", named.get("fill_value", node.args[-1] if node.args else None))
    return name in OTHER or (name in ("full", "tensor", "as_tensor") and value is not None and integers(value))


def is_annotation(node: ast.AST) -> bool:
    """Whether ``node`` says that something is a tensor, or a tensor or None."""
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):  # Tensor | None
        node = node.left
    return dotted(node) in ("Tensor", "torch.Tensor")


def fields_of(trees: list[ast.AST]) -> set[str]:
    """Names of fields that are tensors in every class that has them."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = [node for each in classes for node in each.body if isinstance(node, ast.AnnAssign)]
    tensors, others = ({node.target.id for node in found if is_annotation(node.annotation) is k} for k in (True, False))
    return tensors - others


class Linter(ast.NodeVisitor):
    """Collects (line, text, fault). ``on_cpu`` has names of tensors on the CPU, ``anywhere`` of those on any device.

    ``fields`` are attributes that are tensors on any device.
    """

    def __init__(self, fields: set[str]):
        self.found, self.on_cpu, self.anywhere, self.fields = [], set(), set(), fields

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "torch" and {a.name for a in node.names} & (FLOATING | OTHER | FIXED):
            self.fault(node, "hides that it is torch that makes a tensor")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.on_cpu, self.anywhere
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        tensors = {a.arg for a in arguments if a.annotation and is_annotation(a.annotation)}
        names = {a.arg for a in arguments}
        self.on_cpu, self.anywhere = self.on_cpu - names, (self.anywhere - names) | tensors
        self.generic_visit(node)
        self.on_cpu, self.anywhere = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self.bind(node.target, node.value)

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, node.iter)  # what a tensor is made of is a tensor
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for part in node.generators:
            self.bind(part.target, part.iter)
        self.generic_visit(node)

    visit_GeneratorExp = visit_ListComp

    def bind(self, target: ast.AST, value: ast.AST) -> None:
        """Learn what the names of ``target`` are: parts of ``value``, or one each of as many values."""
        parts = getattr(target, "elts", [target])
        several = isinstance(value, ast.Tuple) and isinstance(target, ast.Tuple) and len(value.elts) == len(parts)
        values = value.elts if several else [value] * len(parts)
        kinds = [(self.is_on_cpu(v), self.is_tensor(v)) for v in values]  # before any of them is bound
        for part, (on_cpu, tensor) in zip(parts, kinds, strict=True):
            for name in (n.id for n in ast.walk(part) if isinstance(n, ast.Name)):
                (self.on_cpu.add if on_cpu else self.on_cpu.discard)(name)
                (self.anywhere.add if tensor else self.anywhere.discard)(name)

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
        if isinstance(node, ast.Attribute):
            return node.attr in self.fields or (node.attr in ("T", "mT", "grad") and self.is_tensor(node.value))
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
            needed = ("device",) if whole(last, node) else ("device", "dtype")
            missing = [k for k in needed if not given & {k, None}]  # None: **options
            if missing:
                self.fault(node, f"names no {' and no '.join(missing)}")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "numpy" and not self.is_on_cpu(node.func.value):
            self.fault(node, "does not go through .cpu()")
        values = [*node.args, *(k.value for k in node.keywords)]
        if module.partition(".")[0] in NUMPY and any(map(self.is_tensor, values)):
            self.fault(node, "hands over a tensor that may be on a GPU")
        self.generic_visit(node)

    def fault(self, node: ast.AST, why: str) -> None:
        self.found.append((node.lineno, ast.unparse(node), why))


def faults(code: str, fields: set[str] | None = None) -> list[tuple[int, str, str]]:
    """Line, text and fault of each call of ``code`` that a GPU would stumble over; ``fields`` of its own by default."""
    tree = ast.parse(code)
    linter = Linter(fields_of([tree]) if fields is None else fields)
    linter.visit(tree)
    return linter.found


FIELDS = fields_of([ast.parse(path.read_text("utf8")) for path in LIBRARY.glob("*.py")])


@pytest.mark.parametrize("module", sorted(path.stem for path in LIBRARY.glob("*.py")))
def test_library_names_devices(module):
    found, known = faults((LIBRARY / f"{module}.py").read_text("utf8"), FIELDS), EXCEPTIONS.get(module, {})
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
    "torch.arange(0.0, 1.0, 0.1, device=d)",
    "torch.full((2,), fill_value=0.5, device=d)",
    "torch.tensor(data=0.5, device=d)",
    "torch.full(size=(2,), fill_value=1, dtype=t)",
    "from torch import Tensor, zeros",
    "def f(x: Tensor):\n    y, n = x, 1\n    return np.log(y)",
    "def f(x: Tensor):\n    y, i = x.max(1)\n    return np.log(y)",
    "def f(x: Tensor):\n    for row in x:\n        np.log(row)",
    "def f(x: Tensor | None):\n    return [np.log(row) for row in x]",
    "def f(x: Tensor):\n    return scipy.stats.norm.cdf(x)",
    "def f(x: Tensor):\n    return np.quantile(a=x, q=0.5)",
    "def f(x: Tensor):\n    return np.log(x.T)",
    "class A:\n    h: Tensor\n    def f(self):\n        return np.asarray(self.h)",
    "class A:\n    h: Tensor\ndef f(step: A):\n    return np.log(step.h.mean(1))",
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
    "torch.tensor(data=1, device=d) + torch.full((2,), fill_value=1, device=d)",
    "torch.arange(0.0, 1.0, 0.1, device=d, dtype=t)",
    "from torch import Tensor, nn",
    "def f(x: Tensor):\n    x, y = x.cpu(), x\n    return np.log(x)",
    "def f(x: Tensor):\n    for row in x.tolist():\n        np.log(row)",
    "class A:\n    h: Tensor\n    def f(self):\n        return np.log(self.h.cpu().mean(1))",
    "class A:\n    h: Tensor\nclass B:\n    h: float\n    def f(self):\n        return np.log(self.h)",
]


@pytest.mark.parametrize("code", RIGHT)
def test_no_false_alarms(code):
    assert faults(code) == []
