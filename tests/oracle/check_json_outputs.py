#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads lines "SCHEMA<tab>HEX OF AN OUTPUT" and checks each output with Python's own parser: strict
UTF-8, JSON without white space outside strings, and the schema's subset. Prints how many were
checked; ends with 1 at the first that is wrong."""
import json
import re
import sys


def no_duplicates(members):
    keys = [key for key, _ in members]
    assert len(keys) == len(set(keys)), "a key twice"
    return dict(members)


def check(schema, value):
    kind = schema["type"]
    if kind == "object":
        assert type(value) is dict and list(value) == list(schema["properties"]), "properties"
        for name, part in schema["properties"].items():
            check(part, value[name])
    elif kind == "array":
        assert type(value) is list and len(value) >= schema.get("minItems", 0), "items"
        assert len(value) <= schema.get("maxItems", len(value)), "too many items"
        for item in value:
            check(schema["items"], item)
    elif kind == "string":
        assert type(value) is str and len(value) <= schema.get("maxLength", len(value)), "string"
        assert value in schema.get("enum", [value]), "not in the enum"
        value.encode()  # no lone surrogates
    elif kind == "boolean":
        assert type(value) is bool, "boolean"
    else:
        assert type(value) in ((int,) if kind == "integer" else (int, float)), kind


count = 0
for line in sys.stdin:
    schema, output = line.rstrip("\n").split("\t")
    text = bytes.fromhex(output).decode()
    try:
        check(json.loads(schema), json.loads(text, object_pairs_hook=no_duplicates))
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
        assert not re.search(r"\s", outside), "white space"
    except (AssertionError, ValueError) as problem:
        sys.exit(f"{text!r}: {problem}")
    count += 1
print(count)
