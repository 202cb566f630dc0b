#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server that does the five steps by rules, for a model to learn from. Tests only.

usage: json_teacher.py PAIRS.jsonl      prints its port; ends when its standard input closes

It knows the steps by the words of tests/jobs/json_model.sh's prompts, and writes every prompt and
answer to PAIRS.jsonl as a question and an answer. Names are capitalised words inside sentences; it
asks for a name by the words before it. Of two pairs one is spoilt by "in it", which the judge
refuses and the rewriting takes away.
"""
import http.server
import json
import re
import sys
import threading

lock = threading.Lock()
seen = set()
out = open(sys.argv[1], "w")


def facts(text, skip):
    found = {}
    for match in re.finditer(r"((?:[\w']+ ){3})([A-Z][a-z]{3,})", text):
        found.setdefault(match[2], match[1].strip())
    named = [(name, words) for name, words in found.items() if name not in words][skip:skip + 2]
    return [{"question": f"What name follows {words}" + (" in it?" if i else "?"), "answer": name}
            for i, (name, words) in enumerate(named)]


def listed(text):
    return re.findall(r"(\d+)\. (?:Question: )?(.*?)\n\s*Answer: (.*)", text)


def answer(user):
    body, _, task = user.rpartition("TASK ")
    kind, _, rest = task.partition("\n")
    if kind == "facts":
        return {"pairs": facts(body, 0)}
    if kind == "inferences":
        return {"pairs": facts(body, 2)}
    if kind == "join":
        pairs = listed(rest)
        return {"pairs": [{"from": [1, 2], "question": f"Which two names follow {pairs[0][1][-24:-1]}, and then others?",
                           "answer": f"{pairs[0][2]} and {pairs[1][2]}"}]}
    if kind == "good?":
        return {"self_contained": " in it?" not in rest}
    if kind == "repair":
        question, given = re.search(r"Question: (.*)\n\s*Answer: (.*)", rest).groups()
        return {"pairs": [{"question": question.replace(" in it?", "?"), "answer": given}]}
    if kind == "names":
        names = [name for _, _, name in listed(rest) if " " not in name]
        return {"entities": list(dict.fromkeys(names))[:2]}
    if kind == "ask for":
        pairs = listed(rest)
        return {"pairs": [{"from": [1], "question": pairs[0][1].replace("What name follows", "Whom do they call after")}]}
    first = listed(body)[0]
    anchor = re.search(r"Question: (.*)\n\s*Answer: (.*)", rest).groups()
    return {"pairs": [{"kind": "parallel", "from": [1], "question": f"{first[1][:-1]}, and {anchor[0][10:]}",
                       "answer": f"{first[2]} and {anchor[1]}"}]}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = "".join(m["content"] for m in request["messages"] if m["role"] == "user")
        text = json.dumps(answer(user), ensure_ascii=False, separators=(",", ":"))
        with lock:
            if user not in seen:
                seen.add(user)
                print(json.dumps({"question": user, "answer": text}), file=out, flush=True)
        reply = json.dumps({"object": "chat.completion", "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
