"""The stubs against the module: every name, every argument, every default, and every docstring."""

import ast
import inspect
import os
import re

import pytest

import skipstone as ss

FOLDER = os.path.dirname(ss.__file__)


def parsed(name):
    with open(os.path.join(FOLDER, name)) as file:
        return ast.parse(file.read())


def stub_arguments(function):
    a = function.args
    positional = a.posonlyargs + a.args
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    made = [(arg.arg, "positional", default) for arg, default in zip(positional, defaults)]
    made += [(arg.arg, "keyword", default) for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
    made += [(a.kwarg.arg, "many", None)] if a.kwarg else []
    value = lambda node: "required" if node is None else ast.literal_eval(node)
    return [(name, kind, value(default)) for name, kind, default in made if name not in ("self", "cls")]


def real_arguments(function):
    kinds = {
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "many",
    }
    parameters = inspect.signature(function).parameters.values()
    default = lambda p: "required" if p.default is p.empty else p.default
    return [(p.name, kinds[p.kind], default(p)) for p in parameters if p.name not in ("self", "cls")]


def compared(tree, module, names):
    stubs = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    public = {name for name in stubs if not name.startswith("_")}
    assert public == names, public ^ names
    for name in public:
        node, thing = stubs[name], getattr(module, name)
        if isinstance(node, ast.FunctionDef):
            assert stub_arguments(node) == real_arguments(thing), name
            assert inspect.getdoc(thing), name
            continue
        members = {}
        for member in node.body:
            if isinstance(member, ast.FunctionDef):
                members.setdefault(member.name, member)
            elif isinstance(member, ast.AnnAssign):
                members[member.target.id] = None
        # What a class has itself, and what the stub says of it.
        real = {n for n in vars(thing) if not n.startswith("_")}
        attributes = {n for n, member in members.items() if member is None}  # set by __init__
        assert {n for n in members if not n.startswith("_")} - attributes == real, name
        assert inspect.getdoc(thing), name
        for n, member in members.items():
            if member is None:
                continue
            decorators = [d.id for d in member.decorator_list if isinstance(d, ast.Name)]
            what = f"{name}.{n}"
            if "property" in decorators:
                assert inspect.isdatadescriptor(inspect.getattr_static(thing, n)), what
            elif n in ("__new__", "__init__"):
                assert stub_arguments(member) == real_arguments(thing), what
            elif not n.startswith("_"):
                assert stub_arguments(member) == real_arguments(getattr(thing, n)), what
                assert inspect.getdoc(getattr(thing, n)), what


def test_the_stub_is_the_module():
    names = set(ss.__all__) - {"__version__"}
    compared(parsed("__init__.pyi"), ss, names)
    assert os.path.exists(os.path.join(FOLDER, "py.typed"))


def test_the_stub_of_torch_is_the_module():
    pytest.importorskip("torch")
    compared(parsed("torch.pyi"), ss.torch, set(ss.torch.__all__))


def test_every_option_of_the_library_is_an_argument_of_sample(command):
    """The signature that help() shows names what the method takes: every flag of the command that it knows as a keyword."""
    model = ss.load()
    with pytest.raises(TypeError, match="unexpected"):
        model.sample(no_such_option=1)

    def taken(name):
        try:
            model.plan(**{name: None})
        except TypeError:
            return False
        return True

    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]*)", command("sample", "--help").stdout)}
    options = {name for name in ("class_" if flag == "class" else flag for flag in flags) if taken(name)}
    assert options >= {"steps", "eta", "solver", "restart", "guidance_interval", "class_", "seed"}
    for method in (ss.Sampler.sample, ss.Sampler.trajectory):
        assert options <= {name for name, _, _ in real_arguments(method)}
