"""The jinja2 environment of chat templates: an immutable sandbox whose every step is counted.

A template is untrusted code. Before it is compiled its syntax tree is rewritten: loops, macros and blocks
report each round to the budget, and whatever builds a value (operators, ~, slices, literals of containers,
calls, filters) goes through a bounded version. Nothing is folded while compiling.
"""

from __future__ import annotations

import types
from contextvars import ContextVar
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, cast

from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing, pass_context, pass_environment
from jinja2.visitor import NodeTransformer
from markupsafe import escape

from pydllm.text import template_guards as guards
from pydllm.text.json_file import one_line
from pydllm.text.template_budget import Budget, OpaqueNamespace, TemplateLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jinja2.parser import Parser

MAX_RANGE = 100_000
MAX_TOKENS = 30_000
"""Of the template; compiling takes up to 30 us for each. The longest templates in use have about 8,000."""
_INTERNAL_CALLS = frozenset({"tick", "ticked", "checked", "admit", "bounded_concat"})

_JINJA_SCOPES = frozenset({"_loop_vars", "_block_vars"})
"""What jinja2 passes to every call inside a loop or block, for functions that take the context."""

current_budget: ContextVar[Budget] = ContextVar("pydllm_template_budget")
"""The budget of the rendering that runs in this context."""


class RaisedByTemplateError(TemplateError):
    """The template called raise_exception: it refuses the conversation."""


class _Missing(Undefined):
    """jinja2's Undefined; only the words differ when a template uses it."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, owner = self._undefined_name, self._undefined_obj
        shown = one_line(repr(name), limit=60) if isinstance(name, str | int) else "an item"
        if self._undefined_exception is SecurityError:
            return f"reads {shown}, which chat templates may not"
        where = "" if owner is missing else f" in {guards.kind(owner)}"
        return f"expected {shown}{where}, got nothing"


class _GenerationTag(Extension):
    """{% generation %}: marks the assistant's tokens for training; here only its body matters."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's template environment with bounds. Rendering needs current_budget to be set."""

    intercepted_binops = frozenset(guards.OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            finalize=_finalize,
            undefined=_Missing,
            optimized=False,
            cache_size=0,
        )
        originals = dict(self.filters)
        self.filters = _bounded_filters(originals)
        self.tests = {name: _guarded(cast("Any", test), cost=0) for name, test in self.tests.items()}
        self.globals = {
            "range": _bounded_range,
            "dict": _bounded_dict,
            "namespace": OpaqueNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": guards.time_now,
        }
        self._functions = {id(function) for function in self.globals.values()}

    def compile_chat(self, source: str) -> tuple[ChatTemplateCode, frozenset[str]]:
        """The compiled template and the names of the variables that it reads. TemplateError when it is no
        template."""
        if sum(1 for _ in islice(self.lex(source), MAX_TOKENS + 1)) > MAX_TOKENS:
            raise TemplateSyntaxError(f"more than {MAX_TOKENS} tokens", 1)
        tree = self.parse(source)
        names = frozenset(meta.find_undeclared_variables(tree)) - frozenset(self.globals)
        return self.from_string(_Bounder().visit(tree)), names

    # ---- what the rewritten templates call

    def tick(self, chars: int) -> None:
        """A round of a loop, macro or block that writes `chars` characters of literal text."""
        current_budget.get().tick(chars)

    def ticked(self, values: Any) -> Iterator[Any]:
        """Iterates with a step per element, those included that a loop's condition drops."""
        return _Ticked(values)  # type: ignore[return-value]

    def checked(self, value: Any) -> Any:
        """A step before a comparison."""
        current_budget.get().tick()
        return value

    def admit(self, value: Any) -> Any:
        """Charges a new value."""
        budget = current_budget.get()
        budget.tick()
        return budget.admit(value)

    def bounded_concat(self, *parts: Any) -> str:
        """a ~ b."""
        budget = current_budget.get()
        budget.tick()
        return guards.concat(budget, parts)

    # ---- hooks of the sandbox

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        """A bounded operator."""
        budget = current_budget.get()
        budget.tick()
        return guards.compute(budget, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """str.format with bounded fields."""
        inner = super().wrap_str_format(value)
        if inner is None:
            return None

        def bounded_format(*args: Any, **kwargs: Any) -> str:
            budget = current_budget.get()
            budget.tick()
            guards.check_format(budget, value.__self__, [*args, *kwargs.values()])
            return str(budget.admit(inner(*args, **kwargs)))

        bounded_format.is_bounded_format = True  # type: ignore[attr-defined]
        return bounded_format

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls what a chat template may call; SecurityError otherwise."""
        owner = getattr(obj, "__self__", None)
        if owner is self and obj.__name__ in _INTERNAL_CALLS:
            return obj(*args)
        budget = current_budget.get()
        budget.tick()
        if isinstance(obj, types.BuiltinMethodType):
            plain = {name: value for name, value in kwargs.items() if name not in _JINJA_SCOPES}
            return _call_method(budget, obj, args, plain)
        if not (self._is_callable(obj) or isinstance(owner, LoopContext)):
            raise SecurityError(f"calls a {type(obj).__name__}, which chat templates may not")
        return super().call(context, obj, *args, **kwargs)

    def _is_callable(self, obj: Any) -> bool:
        known = isinstance(obj, Macro | LoopContext | BlockReference | Undefined)
        return known or id(obj) in self._functions or getattr(obj, "is_bounded_format", False) is True


ChatTemplateCode = Any
"""jinja2.Template; its type parameters are not public."""


class _Ticked:
    """An iterable of known length, so that loop.length and loop.last stay cheap."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        budget = current_budget.get()
        for value in self._values:
            budget.tick()
            yield value

    def __len__(self) -> int:
        return len(self._values)


class _Bounder(NodeTransformer):
    """Rewrites a syntax tree so that nothing in it runs or grows uncounted."""

    def get_visitor(self, node: nodes.Node) -> Any:
        """The method for a kind of node; None visits its children."""
        return _VISITORS[type(node)].__get__(self) if type(node) in _VISITORS else None

    def bound_loop(self, node: nodes.For) -> nodes.Node:
        """Counts the elements and the rounds."""
        self.bound_body(node)
        node.iter = _call("ticked", node.iter)
        return node

    def bound_body(self, node: Any) -> nodes.Node:
        """Counts the rounds of a loop, macro or block, and the literal text that each one writes."""
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", nodes.Const(literal)), lineno=node.lineno))
        return node  # type: ignore[no-any-return]

    def count_comparison(self, node: nodes.Compare) -> nodes.Node:
        """Comparing may take as long as its operands are."""
        self.generic_visit(node)
        node.expr = _call("checked", node.expr)
        return node

    def bound_concat(self, node: nodes.Concat) -> nodes.Node:
        """~ is no operator to the sandbox."""
        self.generic_visit(node)
        return _call("bounded_concat", *node.nodes)

    def admit_slice(self, node: nodes.Getitem) -> nodes.Node:
        """A slice is a new value."""
        self.generic_visit(node)
        return _call("admit", node) if isinstance(node.arg, nodes.Slice) else node

    def admit_literal(self, node: Any) -> nodes.Node:
        """A list, tuple or dict in the template may hold the same value often."""
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _call("admit", node)

    def refuse(self, node: nodes.Node) -> NoReturn:
        """Statements that chat templates have no use for."""
        raise TemplateSyntaxError("chat templates may not load others or switch autoescape", node.lineno)


_VISITORS: dict[type[nodes.Node], Callable[[_Bounder, Any], nodes.Node]] = {
    nodes.For: _Bounder.bound_loop,
    **dict.fromkeys((nodes.Macro, nodes.CallBlock, nodes.Block), _Bounder.bound_body),
    nodes.Compare: _Bounder.count_comparison,
    nodes.Concat: _Bounder.bound_concat,
    nodes.Getitem: _Bounder.admit_slice,
    **dict.fromkeys((nodes.List, nodes.Tuple, nodes.Dict), _Bounder.admit_literal),
    **dict.fromkeys((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends), _Bounder.refuse),
    **dict.fromkeys((nodes.EvalContextModifier, nodes.ScopedEvalContextModifier), _Bounder.refuse),
}


def _call(name: str, *args: Any) -> nodes.Call:
    lineno = args[0].lineno
    function = nodes.EnvironmentAttribute(name, lineno=lineno)
    return nodes.Call(function, list(args), [], None, None, lineno=lineno)


@pass_context
def _finalize(_context: Context, value: Any) -> str:
    budget = current_budget.get()
    budget.tick()
    budget.expect_chars(budget.weight(value))
    return str(budget.admit(str(value)))


def _call_method(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    owner = method.__self__
    guard = guards.method_guard(owner, method.__name__)
    if isinstance(owner, str) and method.__name__ == "join":
        args = tuple(guards.materialise(budget, values) for values in args)
    guard(budget, (owner, *args), kwargs)
    return budget.admit(method(*args, **kwargs))


def _guarded(function: Callable[..., Any], *, cost: int) -> Callable[..., Any]:
    """A filter or test that counts as a step and charges `cost` bytes per element of its input, and its
    result."""

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        budget.tick()
        for value in args:
            if isinstance(value, str | list | tuple | dict):
                budget.spend(cost * len(value))
        return budget.admit(function(*args, **kwargs))

    return bounded


def _checked_widths(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        guards.check_widths(current_budget.get(), args, kwargs)
        return function(*args, **kwargs)

    return bounded


def _with_budget(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of ours, which takes the budget first."""

    def bounded(*args: Any, **kwargs: Any) -> Any:
        return function(current_budget.get(), *args, **kwargs)

    return bounded


def _bounded_filters(originals: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    plain = {name: originals[name] for name in guards.PLAIN_FILTERS}
    own: dict[str, Callable[..., Any]] = {
        "e": lambda value: str(escape(value)),
        "escape": lambda value: str(escape(value)),
        "safe": str,
        "format": lambda text, *args, **kwargs: guards.modulo(current_budget.get(), str(text), kwargs or args),
        "indent": _with_budget(guards.indent),
        "join": _join_filter,
        "list": _with_budget(guards.materialise),
        "replace": _with_budget(guards.replace),
        "round": _with_budget(guards.rounded),
        "sum": _sum_filter,
        "tojson": _with_budget(guards.to_json),
    }
    widths = {name: _checked_widths(originals[name]) for name in ("center", "truncate")}
    listing = {name: _checked_widths(originals[name]) for name in guards.LISTING_FILTERS}
    bounded = {name: _guarded(function, cost=0) for name, function in (plain | own | widths).items()}
    return bounded | {name: _guarded(function, cost=64) for name, function in listing.items()}


@pass_environment
def _join_filter(environment: ChatEnvironment, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    getter = None if attribute is None else make_attrgetter(environment, attribute)
    return guards.join(current_budget.get(), value, d, getter)


@pass_environment
def _sum_filter(environment: ChatEnvironment, value: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, int | float):
        raise SecurityError("sums something that is not a number")
    getter = None if attribute is None else make_attrgetter(environment, attribute)
    return guards.total(current_budget.get(), value, getter, start)


def _bounded_range(*args: Any) -> range:
    values = range(*args)
    try:
        small = len(values) <= MAX_RANGE
    except OverflowError:
        small = False
    if not small:
        raise TemplateLimitError(f"counts further than {MAX_RANGE}")
    return values


def _bounded_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    budget = current_budget.get()
    pairs = [budget.admit(guards.materialise(budget, a)) if not isinstance(a, dict) else a for a in args]
    return budget.admit(dict(*pairs, **kwargs))  # type: ignore[no-any-return]


def _raise_exception(message: Any = "") -> NoReturn:
    raise RaisedByTemplateError(str(message))
