"""What a server's nodes take, by /object_info, held against a workflow before it is queued.

ComfyUI looks at a workflow only when it is queued, and does not check every choice of newer nodes.
"""

import os
from typing import Any

from .errors import NodeError
from .workflow import Workflow

Info = dict[str, Any]  # node class -> what /object_info says of it
PACK = "ALE"  # the ids of this pack's nodes begin so
WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".gguf")
LISTED = 10  # choices that an error names
NOTHING = "(no file found: see this node's help)"  # what our loaders offer where there is none


def input_specs(info: Info) -> dict[str, tuple[Any, dict[str, Any]]]:
    """(type or list of choices, options) by input, of one node's entry in /object_info."""
    kinds = [info.get("input", {}).get(kind, {}) for kind in ("required", "optional")]
    return {
        name: (spec[0], spec[1] if len(spec) > 1 else {})
        for kind in kinds
        for name, spec in kind.items()
    }


def choices_of(spec: tuple[Any, dict[str, Any]]) -> list[Any] | None:
    """The choices of an input; None where it is none of a fixed list."""
    kind, options = spec
    if isinstance(kind, list):  # [choices, ...], or ["COMBO", {"options": choices}]
        return kind
    return options.get("options") if kind == "COMBO" else None


def models_folder(stats: Any) -> str:
    """Where the server looks for models, by its command line in /system_stats; "" where that does
    not say it. On this machine a link is followed: `dev.py demo` removes its own at the end."""
    system = stats.get("system", {}) if isinstance(stats, dict) else {}
    argv = [str(word) for word in system.get("argv") or [""]]
    base = os.path.dirname(argv[0])
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option == "--base-directory":
            base = value or following
    if not os.path.isabs(base):
        return ""
    folder = os.path.join(base, "models")
    return os.path.realpath(folder) if os.path.isdir(folder) else folder


def complaints(workflow: Workflow, nodes: Info, models: str = "") -> tuple[NodeError, ...]:
    """What the server's nodes would not take: values, and inputs that this pack's nodes lack.

    Nodes that the server does not have, links, and uploaded files (find_unlisted_files) are not
    looked at.
    models: the server's folder of models, for the cure.
    """
    found = []
    for node_id, node in workflow.nodes.items():
        class_type = node["class_type"]
        specs = input_specs(nodes.get(class_type, {}))
        for name, value in node["inputs"].items():
            if class_type not in nodes or isinstance(value, list):
                continue
            if name in specs:
                problem = _problem(value, specs[name], models)
            elif class_type.startswith(PACK):
                problem = f"the node has no such input. It has: {', '.join(specs)}"
            else:
                problem = ""  # nodes with inputs by the number are not known here
            if problem:
                title = workflow.title(node_id)
                found.append(NodeError(title, class_type, problem, name, node_id))
    return tuple(found)


def find_unlisted_files(workflow: Workflow, nodes: Info) -> list[tuple[NodeError, str]]:
    """The files that nodes load from ComfyUI's own folders and do not list: each with the error if
    there is no such file."""
    found = []
    for node_id, node in workflow.nodes.items():
        class_type = node["class_type"]
        for name, (kind, options) in input_specs(nodes.get(class_type, {})).items():
            value, listed = node["inputs"].get(name), choices_of((kind, options)) or ()
            if not (_is_upload(options) and isinstance(value, str)) or value in listed:
                continue
            problem = (
                f"{value!r} is not a file in ComfyUI's folder {_folder_of(value)}: upload it, or "
                "correct the name"
            )
            error = NodeError(workflow.title(node_id), class_type, problem, name, node_id)
            found.append((error, value))
    return found


def _is_upload(options: dict[str, Any]) -> bool:
    return any(key.endswith("_upload") for key in options)


def _folder_of(value: str) -> str:
    return value.removesuffix("]").rpartition(" [")[2] if value.endswith("]") else "input"


def _problem(value: Any, spec: tuple[Any, dict[str, Any]], models: str) -> str:
    kind, options = spec
    choices = choices_of(spec)
    if choices is not None:
        if _is_upload(options) or value in choices:
            return ""
        return f"{value!r} is {_not_among(value, choices, models)}"
    if kind not in ("INT", "FLOAT"):
        return ""
    try:
        number = (int if kind == "INT" else float)(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (kind == "INT" and isinstance(value, float) and number != value):
        return f"{value!r} is not a {'whole ' if kind == 'INT' else ''}number"
    least, most = options.get("min"), options.get("max")
    if (least is not None and number < least) or (most is not None and number > most):
        return f"{value} is not between {least} and {most}"
    return ""


def _not_among(value: Any, choices: list[Any], models: str) -> str:
    place = f"{models}, ComfyUI's models folder" if models else "ComfyUI's models folder"
    cure = f": put the file into {place}" if str(value).endswith(WEIGHTS) else ""
    if not choices or choices == [NOTHING]:
        return f"not available, since the server has none{cure}"
    more = f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    cure = f"{cure}, or choose one of these" if cure else ""
    return f"not one of {', '.join(map(str, choices[:LISTED]))}{more}{cure}"
