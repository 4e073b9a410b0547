"""The direction of imports (what runs without Ray, and what without torch), and how long `import raymix` takes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "raymix"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Module or folder -> what importing it must not load, directly or through other modules of raymix.
# The longest prefix decides.
BELOW_TORCH = ("torch", "raymix.random", "raymix.nn", "raymix.algorithms", "raymix.learner", "raymix.packing.seating")
ABOVE_ALGORITHMS = (
    "raymix.data",
    "raymix.learner",
    "raymix.evaluation",
    "raymix.packing",
    "raymix.sweep",
    "raymix.cli",
    "raymix.commands",
)
NEVER: dict[str, tuple[str, ...]] = {
    "raymix.data": (*BELOW_TORCH, "ray"),
    "raymix.data.store": BELOW_TORCH,
    "raymix.envs": (*BELOW_TORCH, "ray"),
    "raymix.random": ("ray", "raymix.algorithms", *ABOVE_ALGORITHMS),
    "raymix.nn": ("ray", "raymix.algorithms", *ABOVE_ALGORITHMS),
    "raymix.algorithms": ("ray", *ABOVE_ALGORITHMS),
    "raymix.learner": ("ray", "raymix.evaluation", "raymix.packing", "raymix.sweep", "raymix.cli", "raymix.commands"),
    "raymix.evaluation.rollout": ("ray",),
    "raymix.evaluation.weights": ("torch", "ray"),
    "raymix.packing.boundary": ("torch", "ray"),
    "raymix.packing.seating": ("ray",),
    "raymix.packing.local": ("ray",),
    "raymix.packing.metrics": ("ray",),
    "raymix.packing.pack": ("torch", "ray"),
    "raymix.packing.broker": ("torch",),
    "raymix.packing.seat": ("torch",),
    "raymix.modes": ("ray",),
    "raymix.trainable": ("torch",),
    "raymix.ledger": ("torch",),
    "raymix.report": ("torch",),
    "raymix.dash": ("torch", "ray"),
    "raymix.files": ("torch", "ray"),
    "raymix.checkpoint": ("torch", "ray"),
    "raymix.snapshots": ("torch", "ray"),
    "raymix.job": ("torch", "ray"),
    "raymix.plan": ("torch", "ray"),
    "raymix.search": ("torch",),
    "raymix.search.halving": ("torch", "ray"),
    "raymix.search.optuna": ("torch", "ray", "optuna"),
    "raymix.search.population": ("torch", "ray", "optuna"),
    "raymix.search.bandit": ("torch", "ray", "optuna"),
    "raymix.search.cells": ("torch", "ray", "optuna"),
    "raymix.search.decided": ("torch", "ray"),
    "raymix.search.truth": ("torch", "ray", "optuna"),
    "raymix.run_folder": ("torch", "ray"),
    "raymix.cluster": ("torch",),
    "raymix.progress": ("torch",),
    "raymix.watching": ("torch",),
    "raymix.sweep": ("torch",),
    "raymix.train": ("ray",),
    "raymix.export": ("ray",),
    "raymix.play": ("ray",),
    "raymix.video": ("torch", "ray"),
    "raymix.paper_figures": ("ray",),
    "raymix.cli": ("torch", "ray"),
    "raymix.commands": ("torch", "ray"),
    "raymix.commands.sweep": ("torch",),
}
NUMPY_ONLY = ("raymix.types", "raymix.config")


def module_scope(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import: not those of functions, nor those for type checkers only."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from module_scope(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from module_scope(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from module_scope(handler.body)


def imports(module: str) -> set[str]:
    """Names that the module imports at module scope, as `package.module` or `package.module.name`."""
    found: set[str] = set()
    for node in module_scope(ast.parse(MODULES[module].read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; write the whole name"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def loaded(module: str) -> dict[str, str]:
    """Everything that importing `module` loads -> the module of raymix that asks for it."""
    reached: dict[str, str] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        for name in sorted(imports(current)):
            parts = name.split(".")
            for prefix in (".".join(parts[: end + 1]) for end in range(len(parts))):
                if prefix not in reached:
                    reached[prefix] = current
                    if prefix in MODULES:
                        waiting.append(prefix)
    return reached


def rule_of(module: str) -> tuple[str, ...]:
    fitting = [prefix for prefix in NEVER if module == prefix or module.startswith(f"{prefix}.")]
    return NEVER[max(fitting, key=len)] if fitting else ()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    """Catches torch in a light process, Ray in the learner, and an algorithm that knows who trains it."""
    reached = loaded(module)
    for forbidden in rule_of(module):
        assert forbidden not in reached, f"{module} loads {forbidden} through {reached[forbidden]}"


@pytest.mark.parametrize("module", NUMPY_ONLY)
def test_the_lowest_layer_needs_numpy_only(module):
    """Catches a dependency of what travels between all processes."""
    roots = {name.split(".")[0] for name in loaded(module)} - set(sys.stdlib_module_names)
    assert roots <= {"numpy", "raymix"}
    assert {name for name in loaded(module) if name.startswith("raymix.") and name in MODULES} <= set(NUMPY_ONLY)


def test_the_check_sees_what_it_should():
    """Catches a check that passes because it reads nothing, and a rule for a module that was renamed."""
    assert NEVER.keys() <= MODULES.keys()
    assert "torch" in loaded("raymix.learner.learner") and "raymix.nn.layers" in loaded("raymix.algorithms.lom")
    assert rule_of("raymix.data.store") != rule_of("raymix.data.columns") != rule_of("raymix.learner.learner")
    code = [
        "import a",
        "if TYPE_CHECKING:",
        " import b",
        "try:",
        " import c",
        "except E:",
        " import d",
        "def f():",
        " import e",
    ]
    tree = ast.parse("\n".join(code))
    names = {node.names[0].name for node in module_scope(tree.body) if isinstance(node, ast.Import)}
    assert names == {"a", "c", "d"}


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_raymix_is_light():
    """Catches an import at the top that every command would wait for."""
    code = "import time; start = time.perf_counter(); import raymix; print(time.perf_counter() - start)"
    assert min(float(fresh(code)) for _ in range(3)) < 0.3


def test_a_trial_process_loads_no_torch():
    """Catches torch (hundreds of megabytes) in processes that only wait for a pack."""
    assert fresh("import sys, raymix.trainable; print('torch' in sys.modules)") == "False"
