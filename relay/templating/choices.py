"""The texts that a template can give, as far as they stand in it.

`{{ {'JOIN': 17}.get(data.keyword, 18) }}` can give `17` and `18`.
"""

from collections.abc import Iterable, Iterator

from jinja2 import nodes


def choices(tree: nodes.Template) -> frozenset[str]:
    """Those of all its branches. A text that is put together from several parts is none."""
    return frozenset(_of_body(tree.body))


def _of_body(body: Iterable[nodes.Node]) -> Iterator[str]:
    for node in body:
        match node:
            case nodes.Output():
                yield from _of_output(node.nodes)
            case nodes.If():
                yield from _of_body([*node.body, *node.elif_, *node.else_])


def _of_output(parts: Iterable[nodes.Expr]) -> Iterator[str]:
    told = [part for part in parts if not _is_space(part)]
    if len(told) == 1:
        yield from _of_expression(told[0])


def _is_space(node: nodes.Node) -> bool:
    return isinstance(node, nodes.TemplateData) and node.data.isspace()


def _of_expression(node: nodes.Node | None) -> Iterator[str]:
    match node:
        case nodes.TemplateData():
            yield node.data.strip()
        case nodes.Const() if node.value is not None:
            yield str(node.value)
        case nodes.CondExpr():
            yield from _of_expression(node.expr1)
            yield from _of_expression(node.expr2)
        case nodes.Or() | nodes.And():
            yield from _of_expression(node.left)
            yield from _of_expression(node.right)
        case nodes.Getitem():
            yield from _of_dict(node.node)
        case nodes.Filter(name="default" | "d"):
            yield from _of_expression(node.node)
            for each in node.args[:1]:
                yield from _of_expression(each)
        case nodes.Call(node=nodes.Getattr(attr="get", node=known)):
            yield from _of_dict(known)
            for each in node.args[1:2]:
                yield from _of_expression(each)


def _of_dict(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Dict):
        for pair in node.items:
            yield from _of_expression(pair.value)
