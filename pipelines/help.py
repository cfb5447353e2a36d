"""What ``--help`` says of settings: the sentence below each field of a dataclass."""

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterator


def settings_lines(config_class: type, prefix: str = "") -> Iterator[str]:
    """Yield a line for each setting: key, default, and the first sentence that its field says of it."""
    meanings = _field_docs(config_class)
    nested = []
    for field in dataclasses.fields(config_class):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(default):
            nested.append((type(default), f"{prefix}{field.name}."))
        else:
            shown = f"{prefix}{field.name}={default if isinstance(default, str) else json.dumps(default)}"
            yield f"  {shown:<45} {meanings.get(field.name, '')}".rstrip()
    for nested_class, nested_prefix in nested:
        yield ""
        yield from settings_lines(nested_class, nested_prefix)


def _field_docs(config_class: type) -> dict[str, str]:
    """Return the first sentence of the string below each field of a dataclass."""
    [class_node] = ast.parse(inspect.getsource(config_class)).body
    assert isinstance(class_node, ast.ClassDef)
    docs = {}
    for above, below in zip(class_node.body, class_node.body[1:], strict=False):
        if (
            isinstance(above, ast.AnnAssign)
            and isinstance(above.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docs[above.target.id] = (
                " ".join(str(below.value.value).split()).partition(". ")[0].rstrip(".").replace("``", "")
            )
    return docs
