# SPDX-License-Identifier: Apache-2.0
"""Holds what memo audit, inspect and export say of one directory against each other.

usage: python3 adds_up.py audit.json inspect.json export.jsonl [PAIRS]
PAIRS: how many pairs the model answered with, when that is known.
"""
import collections
import json
import sys

audit = json.load(open(sys.argv[1]))
inspect = json.load(open(sys.argv[2]))
records = [json.loads(line) for line in open(sys.argv[3])]
answered = int(sys.argv[4]) if len(sys.argv) > 4 and sys.argv[4] else None
steps = {step["step"]: step for step in inspect["steps"]}
wrong = 0


def equal(what, left, right):
    global wrong
    if left != right:
        print(f"{what}: {left} is not {right}")
        wrong += 1


for key in ("done", "empty", "set_aside"):
    equal(f"tasks {key}", audit[key], inspect[key])
equal("planned tasks", audit["planned"], audit["done"] + audit["empty"] + audit["set_aside"] + audit["missing"])
equal("kinds of tasks", audit["planned"], audit["chunk_tasks"] + audit["group_tasks"])
equal("missing, unknown, repeated, lost",
      [audit[key] for key in ("missing", "not_planned", "repeated", "lost_parents")], [0] * 4)
equal("pairs", audit["pairs"], len(records))
equal("ids", len({record["id"] for record in records}), len(records))
for name, count in collections.Counter(record["step"] for record in records).items():
    equal(f"pairs of step {name}", steps[name]["pairs"], count)

drops = collections.Counter()
for drop in inspect["drops"]:
    drops[drop["step"]] += drop["pairs"]
for name, step in steps.items():
    equal(f"drops of step {name}", step["dropped"], drops[name])
for key in steps["1a"]:
    if key != "step":
        equal(f"all {key}", inspect["all"][key], sum(step[key] for step in steps.values()))
equal("tasks set aside by reason", inspect["set_aside"], sum(aside["tasks"] for aside in inspect["asides"]))

# Step 3 makes its pairs of those that it rewrites.
rewritten = sum(drop["pairs"] for drop in inspect["drops"] if drop["reason"] == "rewritten")
equal("rewritten pairs", rewritten, steps["3"]["pairs"] + steps["3"]["dropped"])
if answered is not None:
    made = sum(steps[name]["pairs"] + steps[name]["dropped"] for name in ("1a", "1b", "2", "4", "5"))
    equal("pairs kept and dropped", made, answered)

known = {record["id"] for record in records}
for record in records:
    if not record["sources"] or not set(record["parents"]) <= known:
        print(f"record {record['id']}: no source, or a parent that is not there")
        wrong += 1
    if record["step"] == "5" and len({source["document"] for source in record["sources"]}) < 2:
        print(f"record {record['id']}: joins {len(record['sources'])} sources of one document")
        wrong += 1
sys.exit(1 if wrong else 0)
