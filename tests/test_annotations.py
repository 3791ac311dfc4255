"""Every function of the library says what it takes and gives, and says it by name: no parameter left open, no bare `Any`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[1] / "avatar_core"

# What really may be anything, and why. Keys: file under avatar_core, function (or class), parameter (or field).
MAY_BE_ANY = {
    ("io/atomic.py", "write_json", "value"): "whatever JSON can say",
    ("metrics/clip.py", "measure", "return"): "what a metric keeps of a clip is its own affair",
    **dict.fromkeys(
        (
            ("identities/diffusion.py", "_draw", "pipeline"),
            ("models/ltx2.py", "encode_sound", "vae"),
            ("models/pipeline.py", "load_part", "options"),
            ("models/pipeline.py", "load_part", "return"),
            ("models/pipeline.py", "load_pipeline", "return"),
            ("models/pipeline.py", "torch_dtype", "return"),
            ("models/wan_s2v.py", "load_class", "return"),
            ("models/wan_s2v.py", "load_denoiser", "return"),
            ("models/weights.py", "OnnxNetwork", "session"),
            ("perception/cotracker.py", "_load", "return"),
            ("score/flow.py", "FlowScore", "transformer"),
            ("score/flow.py", "FlowScore", "vae"),
            ("score/flow.py", "__init__", "transformer"),
            ("score/flow.py", "__init__", "vae"),
            ("score/ltx2_network.py", "__init__", "audio_vae"),
            ("score/ltx2_network.py", "__init__", "transformer"),
            ("score/ltx2_network.py", "__init__", "vae"),
            ("score/ltx2_network.py", "prompt_tensors", "pipeline"),
            *(("score/wan_s2v_network.py", "__init__", name) for name in ("listener", "transformer", "vae")),
            ("score/wan_s2v_network.py", "prompt_tensors", "pipeline"),
            ("speech/coqui.py", "_load", "return"),
            ("speech/coqui.py", "_say", "model"),
            ("teacher/diffsynth_s2v.py", "film", "pipeline"),
            ("teacher/diffsynth_s2v.py", "load", "return"),
            ("teacher/ltx2.py", "audio_latents", "pipeline"),
            ("teacher/ltx2.py", "film", "pipeline"),
        ),
        "an object of a package that is imported only when it is chosen, and has no types of its own",
    ),
    **{
        (file, method, "ctx"): "torch's context, which holds whatever forward leaves for backward"
        for file in ("fit/losses.py", "ranks.py", "render/cpu.py")
        for method in ("forward", "backward")
    },
    **dict.fromkeys(
        (
            ("fit/blend.py", "backward", "ctx"),
            ("fit/blend.py", "setup_context", "ctx"),
            ("fit/blend.py", "vmap", "info"),
        ),
        "torch's context, and what it tells of a batch",
    ),
    **dict.fromkeys(
        (
            ("fit/several.py", "each", "return"),
            ("fit/several.py", "each", "values"),
            ("fit/several.py", "one", "return"),
            ("fit/several.py", "one", "values"),
            ("fit/together.py", "_beside", "p"),
            ("fit/together.py", "_motion", "p"),
            ("fit/together.py", "_posed", "p"),
            ("fit/together.py", "loss", "p"),
        ),
        "what torch.vmap takes apart and puts together: tensors in containers of any shape",
    ),
    **dict.fromkeys(
        (
            ("fit/deform.py", "of_one", "arguments"),
            ("personalise/personalise.py", "_named", "arguments"),
            ("personalise/personalise.py", "_named", "named"),
            ("personalise/personalise.py", "_refine_all", "more"),
            ("personalise/personalise.py", "_refine_all", "named"),
        ),
        "handed on as it comes to the function that does one",
    ),
}
# Reflection over dataclasses and parsed YAML: values of any type are its subject.
REFLECTION = ("config.py", "backends.py")


def _files() -> list[Path]:
    names = (str(p.relative_to(CORE)) for p in sorted(CORE.rglob("*.py")))
    return [CORE / n for n in names if not n.startswith("recipes")]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _slots(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, ast.expr | None]]:
    """(name, annotation) of all parameters but self and cls, and of the return."""
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
    return [(x.arg, x.annotation) for x in every if x.arg not in ("self", "cls")] + [
        ("return", function.returns)
    ]


def _open(tree: ast.AST) -> list[str]:
    return [
        f"{f.lineno} {f.name}: {name}" for f in _functions(tree) for name, note in _slots(f) if note is None
    ]


def _bare_any(tree: ast.AST) -> list[tuple[str, str]]:
    """(function or class, parameter or field) of each annotation that is `Any` and nothing else."""
    found = [(f.name, name, note) for f in _functions(tree) for name, note in _slots(f)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found += [
                (node.name, ast.unparse(s.target), s.annotation)
                for s in node.body
                if isinstance(s, ast.AnnAssign)
            ]
    return [(owner, name) for owner, name, note in found if isinstance(note, ast.Name) and note.id == "Any"]


@pytest.mark.parametrize("file", _files(), ids=lambda p: str(p.relative_to(CORE)))
def test_every_parameter_and_return_is_annotated(file: Path) -> None:
    assert _open(ast.parse(file.read_text())) == []


def test_nothing_is_any_but_what_says_why() -> None:
    found = {
        (str(file.relative_to(CORE)), *place)
        for file in _files()
        if str(file.relative_to(CORE)) not in REFLECTION
        for place in _bare_any(ast.parse(file.read_text()))
    }
    assert found == set(MAY_BE_ANY)


def test_the_scan_sees_what_is_open_and_what_is_any() -> None:
    tree = ast.parse(
        "class A:\n  x: Any\n  def f(self, a, *b: int, c: Any = 1, **d) -> Any: ...\n"
        "async def g(p: list[Any]): return lambda q: q"
    )
    assert sorted(_open(tree)) == ["3 f: a", "3 f: d", "4 g: return"]
    assert _bare_any(tree) == [("f", "c"), ("f", "return"), ("A", "x")]
