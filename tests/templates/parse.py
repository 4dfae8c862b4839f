"""Reads a template and prints what is in it as JSON: a YAML document, or what a Groovy script calls."""

import json
import sys


def yaml(path):
    from ruamel.yaml import YAML

    with open(path) as file:
        return YAML(typ="safe", pure=True).load(file)


def groovy(path):
    """The scripts of `sh`, in order, each with the names of the blocks around it, and the variables that are set."""
    import tree_sitter
    import tree_sitter_groovy

    with open(path, "rb") as file:
        text = file.read()
    root = tree_sitter.Parser(tree_sitter.Language(tree_sitter_groovy.language())).parse(text).root_node
    calls, variables = [], {}

    def walk(node, blocks):
        if node.is_error or node.is_missing:
            line, column = node.start_point
            sys.exit(f"{path}:{line + 1}:{column + 1}: not Groovy: {node.text.decode()}")
        name = node.child_by_field_name("name")
        name = name.text.decode() if name else ""
        if node.type in ("method_invocation", "juxt_function_call"):
            arguments = node.child_by_field_name("arguments") or node.child_by_field_name("args")
            if name == "sh":
                calls.append({"blocks": blocks, "script": script(arguments)})
            label = [text for text in map(string, arguments.named_children if arguments else []) if text]
            blocks = [*blocks, " ".join([name, *label])]
        elif node.type == "assignment_expression":
            variables[node.child_by_field_name("left").text.decode()] = string(node.child_by_field_name("right"))
        elif node.type in ("try_statement", "finally_clause"):
            blocks = [*blocks, node.type.split("_")[0]]
        for child in node.children:
            walk(child, blocks)

    def script(arguments):
        for argument in arguments.named_children:
            if argument.type == "map_item":
                if argument.child_by_field_name("key").text == b"script":
                    return string(argument.child_by_field_name("value"))
            elif text := string(argument):
                return text
        sys.exit(f"{path}: no script in {arguments.text.decode()}")

    def string(node):
        quoted = {"character_literal": "'", "string_literal": '"'}.get(node.type)
        return node.text.decode().strip(quoted) if quoted else None

    walk(root, [])
    return {"sh": calls, "variables": variables}


json.dump({"yaml": yaml, "groovy": groovy}[sys.argv[1]](sys.argv[2]), sys.stdout)
