"""A workflow in ComfyUI's API format, addressed by the titles of its nodes, or else by their ids.

Titles are what people see and keep; ids change whenever a workflow is exported again.
"""

import copy
import json
from pathlib import Path
from typing import Any

Link = tuple[str, int]  # (node id, output index)


class Workflow:
    """Nodes by id, as ComfyUI's /prompt takes them; `nodes` may be changed freely."""

    def __init__(self, nodes: dict[str, dict[str, Any]], name: str = "workflow"):
        self.nodes = copy.deepcopy(nodes)
        self.name = name

    @classmethod
    def load(cls, path: Path) -> "Workflow":
        """Read an API format file; a file saved from the editor's menu is refused."""
        try:
            nodes = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"There is no workflow file {path}. Correct the path.") from error
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}). Give a workflow file that you may read."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{path} is not JSON ({error}). Export it from ComfyUI with 'Export (API)'."
            ) from error
        if isinstance(nodes, dict) and "nodes" in nodes and "links" in nodes:
            raise ValueError(
                f"{path} is in the format of ComfyUI's editor. Export it with 'Export (API)'."
            )
        if not isinstance(nodes, dict) or not all(map(_is_node, nodes.values())):
            raise ValueError(
                f"{path} is not a workflow in ComfyUI's API format. Export it from ComfyUI with "
                "'Export (API)'."
            )
        return cls(nodes, path.name)

    def copy(self) -> "Workflow":
        return Workflow(self.nodes, self.name)

    def title(self, node_id: str) -> str:
        """The title of a node, else its class; else its id (a subgraph's inner node)."""
        node = self.nodes.get(node_id)
        return node.get("_meta", {}).get("title", node["class_type"]) if node else node_id

    def titles(self) -> dict[str, str]:
        """Node id of each title."""
        return {self.title(node_id): node_id for node_id in self.nodes}

    def find(self, name: str) -> str:
        """The id of the one node with this title; where no title is so, the node with this id."""
        found = [node_id for node_id in self.nodes if self.title(node_id) == name]
        if not found and name in self.nodes:
            return name
        if len(found) != 1:
            count = "no node" if not found else f"{len(found)} nodes"
            raise ValueError(
                f"{self.name} has {count} titled {name!r}. "
                f"It has: {', '.join(sorted(set(self.titles())))}."
            )
        return found[0]

    def inputs(self, title: str) -> dict[str, Any]:
        return self.nodes[self.find(title)]["inputs"]

    def fill(self, title: str, **inputs: Any) -> None:
        """Give inputs of a node new values; an input that it does not have is an error."""
        node = self.inputs(title)
        if unknown := sorted(set(inputs) - set(node)):
            raise ValueError(
                f"{title!r} in {self.name} has no input {', '.join(map(repr, unknown))}. "
                f"It has: {', '.join(sorted(node))}."
            )
        node.update(inputs)

    def connect(self, title: str, input_name: str, source: str, output: int = 0) -> None:
        """Link an output of the node titled `source` to an input, which may be a new one."""
        self.inputs(title)[input_name] = [self.find(source), output]

    def replace(self, title: str, class_type: str, inputs: dict[str, Any]) -> None:
        """Make a node one of another class; links to its outputs stay."""
        node = self.nodes[self.find(title)]
        node["class_type"], node["inputs"] = class_type, dict(inputs)

    def add(self, title: str, class_type: str, inputs: dict[str, Any] | None = None) -> str:
        """Add a node, and return its id."""
        numbers = [int(node_id) for node_id in self.nodes if node_id.isdigit()]
        new_id = str(max(numbers, default=0) + 1)
        node = {"class_type": class_type, "inputs": dict(inputs or {}), "_meta": {"title": title}}
        self.nodes[new_id] = node
        return new_id

    def links_to(self, title: str, output: int) -> list[tuple[str, str]]:
        """Where an output goes: (node id, input) each."""
        link = [self.find(title), output]
        return [
            (node_id, name)
            for node_id, node in self.nodes.items()
            for name, value in node["inputs"].items()
            if value == link
        ]

    def feeds(self, node_id: str) -> bool:
        """Whether another node takes an output of this one."""
        values = [value for node in self.nodes.values() for value in node["inputs"].values()]
        return any(isinstance(value, list) and value[:1] == [node_id] for value in values)

    def redirect(self, title: str, output: int, source: str, source_output: int = 0) -> None:
        """Whatever took this output takes one of the node titled `source` from now on."""
        link = [self.find(source), source_output]
        for node_id, name in self.links_to(title, output):
            if node_id != link[0]:
                self.nodes[node_id]["inputs"][name] = list(link)

    def rename(self, name: str, title: str) -> None:
        """Give a node another title."""
        node = self.nodes[self.find(name)]
        node["_meta"] = {**node.get("_meta", {}), "title": title}

    def bypass(self, title: str, outputs: dict[int, str]) -> None:
        """Drop a node; what took an output takes what the input of this name was given."""
        inputs = self.inputs(title)
        for output, name in outputs.items():
            for node_id, taker in self.links_to(title, output):
                self.nodes[node_id]["inputs"][taker] = list(inputs[name])
        self.remove(title)

    def clone(self, title: str, new_title: str) -> str:
        """Add a copy of a node under another title, and return its id."""
        node = copy.deepcopy(self.nodes[self.find(title)])
        new_id = self.add(new_title, node["class_type"], node["inputs"])
        self.nodes[new_id]["_meta"] = {**node.get("_meta", {}), "title": new_title}
        return new_id

    def remove(self, title: str) -> None:
        """Drop a node and the links to it."""
        gone = self.find(title)
        del self.nodes[gone]
        for node in self.nodes.values():
            node["inputs"] = {
                name: value
                for name, value in node["inputs"].items()
                if not (isinstance(value, list) and value[:1] == [gone])
            }

    def keep_only(self, title: str) -> None:
        """Drop all nodes but this one and those that it needs."""
        kept, left = set(), [self.find(title)]
        while left:
            node_id = left.pop()
            if node_id not in kept and node_id in self.nodes:
                kept.add(node_id)
                values = self.nodes[node_id]["inputs"].values()
                left += [value[0] for value in values if isinstance(value, list) and value]
        self.nodes = {node_id: node for node_id, node in self.nodes.items() if node_id in kept}

    def classes(self) -> set[str]:
        return {node["class_type"] for node in self.nodes.values()}


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("_meta", {}), dict)
    )
