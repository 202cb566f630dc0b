#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""memo serve against clients of every kind: many, streaming, silent, gone, too loud, and senders of
garbage. Answers are those of `memo ask`; after each the server still answers; it ends as asked.
usage: serve.py BINARY ROOT"""
import concurrent.futures
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

BINARY, ROOT = sys.argv[1:3]
WORDS = "ferry harbour lantern bell orchard census theatre mill storm ledger canal bishop".split()
QUESTIONS = [f"{first} {second}" for first in ("What of the", "Who saw a") for second in WORDS]


# An answer that takes as long as it is let.
LONG = {"response_format": {"type": "json_schema", "json_schema": {"schema": {
    "type": "array", "minItems": 600, "items": {"type": "string", "enum": ["yes", "no"]}}}}, "max_tokens": 4000}


def memo(*words):
    return subprocess.run([BINARY, *words], check=True, capture_output=True, text=True).stdout


class Server:
    def __init__(self, model, *words, key=None):
        environment = dict(os.environ, **({"MEMO_SERVE_KEY": key} if key else {}))
        self.process = subprocess.Popen([BINARY, "serve", "--model", model, "--port", "0", "--dtype", "f32", *words],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
        self.url = urllib.parse.urlsplit(self.process.stdout.readline().strip())
        assert self.url.path == "/v1", self.url

    def ask(self, path, body=None, method=None, headers=()):
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
        text = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method or ("POST" if text is not None else "GET"), path, text, dict(headers))
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    def chat(self, question, **members):
        code, _, body = self.ask("/v1/chat/completions", call(question, **members))
        assert code == 200, body
        return json.loads(body)

    def events(self, question, **members):
        code, head, body = self.ask("/v1/chat/completions", call(question, stream=True, **members))
        assert code == 200 and head["Content-Type"].startswith("text/event-stream"), (code, head)
        lines = [line for line in body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]", lines
        return [json.loads(line[6:]) for line in lines[:-1]]

    def metric(self, name):
        _, _, body = self.ask("/metrics")
        return next(int(line.split()[1]) for line in body.decode().splitlines() if line.startswith(name + " "))

    def wait_metric(self, name, at_least):
        later = time.monotonic() + 30
        while self.metric(name) < at_least:
            assert time.monotonic() < later, f"{name} stays below {at_least}"
            time.sleep(0.05)

    def socket(self):
        return socket.create_connection((self.url.hostname, self.url.port), timeout=60)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        assert self.process.wait(60) == 0


def call(question, **members):
    return {"messages": [{"role": "user", "content": question}], **{"max_tokens": 24, **members}}


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


def joined(events):
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])


def check_answers(server, model):
    """Alone, all at once and in a stream: what `memo ask` says."""
    lines = memo("ask", "--model", model, "--max-new-tokens", "24", "--json", *QUESTIONS).splitlines()
    expected = [json.loads(line)["answer"] for line in lines]
    assert len(set(expected)) > 1, "a model that says the same to everything proves nothing"
    assert text_of(server.chat(QUESTIONS[0])) == expected[0]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert [text_of(a) for a in pool.map(server.chat, QUESTIONS)] == expected
        assert [joined(e) for e in pool.map(server.events, QUESTIONS)] == expected


def check_sampling(server):
    one, same, other = (text_of(server.chat("Why?", temperature=1.0, seed=s)) for s in (5, 5, 6))
    assert one == same != other


def check_usage(server):
    first = server.chat("How often is a prompt computed, when it has more than sixteen tokens in it?")
    again = server.chat("How often is a prompt computed, when it has more than sixteen tokens in it?")
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    last = server.events("Why?", stream_options={"include_usage": True})[-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] <= 24


def check_stops(server):
    """A stop string ends the answer before it, also in a stream, where none of it may get out."""
    whole = text_of(server.chat(QUESTIONS[1], max_tokens=40, temperature=1.0, seed=2))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    expected = whole[: whole.index(stop)]
    members = {"stop": ["never said", stop], "max_tokens": 40, "temperature": 1.0, "seed": 2}
    answer = server.chat(QUESTIONS[1], **members)
    assert text_of(answer) == expected and answer["choices"][0]["finish_reason"] == "stop"
    assert joined(server.events(QUESTIONS[1], **members)) == expected


def check_schema(server):
    schema = {"type": "object", "properties": {"answer": {"type": "string", "maxLength": 9}, "sure": {"type": "boolean"}}}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for seed in range(5):
        members = {"response_format": form, "temperature": 1.5, "seed": seed, "max_tokens": 60}
        value = json.loads(text_of(server.chat("Why?", **members)))
        assert list(value) == ["answer", "sure"] and len(value["answer"]) <= 9
        assert json.loads(joined(server.events("Why?", **members))) == value


def check_conversation(server):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"},
             {"role": "assistant", "content": "Ada."}, {"role": "user", "content": "When?"}]
    code, _, body = server.ask("/v1/chat/completions", {"messages": turns, "max_tokens": 5})
    assert code == 200, body
    assert json.loads(body)["usage"]["prompt_tokens"] > server.chat("When?")["usage"]["prompt_tokens"]


def check_refusals(server):
    chat = "/v1/chat/completions"
    for body, param in [("{", None), ({"messages": []}, "messages"), (call("x", n=3), "n"),
                        (call("x" * 200000), "messages"), (call("x", seed="y"), "seed"),
                        (call("x", response_format={"type": "json_schema", "json_schema": {"schema": {"type": "null"}}}),
                         "response_format")]:
        code, _, text = server.ask(chat, body)
        error = json.loads(text)["error"]
        assert code == 400 and error["param"] == param and error["message"], (code, text)
    assert server.ask(chat, "x" * (17 << 20))[0] == 413
    assert server.ask("/v1/embeddings", "{}")[0] == 404
    assert server.ask("/other")[0] == 404
    assert server.ask(chat, "{}", "PUT")[0] == 405
    assert server.ask("/v1/models", headers={"Host": "evil.example"})[0] == 403
    assert server.ask("/health") [2] == b"ok\n"
    model, = json.loads(server.ask("/v1/models")[2])["data"]
    assert model["object"] == "model" and model["max_model_len"] > 0


def check_garbage(server):
    chance = random.Random(3)
    for _ in range(60):
        with server.socket() as s:
            s.sendall(chance.randbytes(chance.randrange(1, 3000)))
    for _ in range(60):
        body = bytearray(json.dumps(call("Why?", max_tokens=2)).encode())
        body[chance.randrange(len(body))] = chance.randrange(256)
        assert server.ask("/v1/chat/completions", bytes(body))[0] in (200, 400)


def check_hangups(server):
    """Clients that go away, before and during their answer: nothing is computed for them any more."""
    before = server.metric("memo_serve_hung_up_total")
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    for stream in (False, True) * 4:
        body = json.dumps(call("Tell me everything.", stream=stream, **LONG)).encode()
        with server.socket() as s:
            s.sendall(head.encode() % len(body) + body)
            if stream:
                assert s.recv(1)
    server.wait_metric("memo_serve_hung_up_total", before + 8)
    assert server.metric("memo_serve_running") == 0
    with server.socket() as s:  # half a body
        s.sendall(head.encode() % 100 + b"{")


def check_slow_reader(server):
    body = json.dumps(call("Tell me.", stream=True, **LONG)).encode()
    with server.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert text_of(server.chat("Why?"))  # others do not wait for it
        data = b""
        while b"[DONE]" not in data:
            piece = s.recv(1000)
            assert piece, "the stream ended early"
            data += piece


def check_openai_client(server):
    try:
        import openai
    except ImportError:
        print("not checked: the openai package is not installed")
        return
    client = openai.OpenAI(base_url=server.url.geturl(), api_key="none")
    answer = client.chat.completions.create(model="memory", **call(QUESTIONS[2]))
    pieces = client.chat.completions.create(model="memory", stream=True, **call(QUESTIONS[2]))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == answer.choices[0].message.content
    assert [m.id for m in client.models.list()] == ["model"]
    try:
        client.chat.completions.create(model="memory", **call("x", n=2))
        raise AssertionError("n=2 was served")
    except openai.BadRequestError as error:
        assert "one answer" in str(error)


def check_executive(server, model):
    """A model that knows nothing as the executive: its turns obey their schemas, so that every inquiry ends, and the
    same one again is the same; with the memory behind a server or in the process."""
    def inquire(memory, executive):
        lines = memo("ask", "--model", memory, "--executive", executive, "--executive-name", "any", "--json",
                     "--max-new-tokens", "8", *QUESTIONS[:2]).splitlines()
        assert [json.loads(line)["question"] for line in lines] == QUESTIONS[:2]
        return lines
    url = server.url.geturl()
    within = inquire(model, model)
    assert all(json.loads(line)["answer"] for line in within)
    assert inquire(model, model) == within
    assert inquire(url, url) == inquire(model, url)


def check_generator(server, corpus):
    """The server is an endpoint of `memo generate`, too."""
    memo("generate", "--corpus", corpus, "--out", "reflections", "--generator", "http:" + server.url.geturl(),
         "--model", "memory", "--steps", "1a", "--part", "1/50", "--groups", "none")
    memo("audit", "reflections")


def check_key(model):
    server = Server(model, key="correct horse")
    assert server.ask("/health")[0] == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "correct horse"}):
        for path, body in (("/v1/models", None), ("/v1/chat/completions", call("Why?"))):
            assert server.ask(path, body, headers=headers)[0] == 401
    right = {"Authorization": "Bearer correct horse", "Host": "memory.example"}
    assert server.ask("/v1/chat/completions", call("Why?"), headers=right)[0] == 200
    server.end(signal.SIGINT)


def check_stop(model):
    """What runs is answered, what comes later is refused; after the drain it is cut."""
    server = Server(model)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.chat, "Tell me.", **LONG)
        server.wait_metric("memo_serve_running", 1)
        server.end(signal.SIGUSR2)
        assert text_of(running.result())
    server = Server(model, "--drain-seconds", "0")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.ask, "/v1/chat/completions", call("Tell me.", **LONG))
        server.wait_metric("memo_serve_running", 1)
        server.end()
        assert running.result()[0] == 503


def main():
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        memo("ingest", os.path.join(ROOT, "datasets/examples"), "--out", "corpus.h5")
        memo("init", "--text", "corpus.h5", "--out", "start", "--layers", "2", "--hidden", "64", "--heads", "1",
             "--kv-heads", "1", "--ffn", "96", "--vocabulary", "500")
        memo("generate", "--corpus", "corpus.h5", "--out", "pairs")
        memo("train", "--base", "start", "--data", "pairs", "--out", "model", "--sample", "100", "--batch", "20",
             "--epochs", "12", "--lr", "5e-3")
        server = Server("model")
        check_answers(server, "model")
        for check in (check_sampling, check_usage, check_stops, check_schema, check_conversation, check_refusals,
                      check_garbage, check_hangups, check_slow_reader, check_openai_client):
            check(server)
            assert text_of(server.chat("Are you still there?"))
        check_executive(server, "model")
        check_generator(server, "corpus.h5")
        server.end()
        check_key("model")
        check_stop("model")


main()
