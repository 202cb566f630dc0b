#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The status server of a real run against clients of every kind: slow, silent, too many, too loud,
and senders of garbage. After each the run still answers, and at the end it has done all its tasks.
usage: status_http.py BINARY ROOT"""
import json
import os
import random
import re
import resource
import socket
import subprocess
import tempfile
import time

from status_run import Run, memo

KEY = "correct horse battery staple"


def check_status(run):
    status = run.status()
    assert status["format"] == "memo status 1" and status["state"] == "running"
    tasks = status["tasks"]
    assert tasks["total"] > 700
    assert tasks["done"] + tasks["set_aside"] + tasks["waiting"] + tasks["leased"] + tasks["pending"] == tasks["total"]
    assert status["workers"] == {"expected": 1, "present": 1, "silent": 0, "failed": 0, "shown": 1}
    assert len(status["worker"]) == 1 and status["gpus"] == 1
    assert len(set(map(len, status["curve"].values()))) == 1
    later = time.monotonic() + 30
    while run.status()["tasks"]["done"] <= tasks["done"]:
        assert time.monotonic() < later, "the number of tasks does not grow"
        time.sleep(0.1)


SAMPLE = re.compile(r'memo_[a-z_]+(\{[a-z]+="(\\.|[^"\\])*"(,[a-z]+="(\\.|[^"\\])*")*\})? (NaN|[+-]?(Inf|[0-9.e+-]+))')


def check_metrics(run):
    """Every sample belongs to the family announced above it; counters end in _total."""
    code, head, body = run.ask("/metrics")
    assert code == 200 and "text/plain; version=0.0.4" in head
    text, family, seen = body.decode(), None, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in seen, family
            seen.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == family and (kind == "counter") == name.endswith("_total"), line
        else:
            assert SAMPLE.fullmatch(line), line
            assert re.split(r"[{ ]", line)[0] == family, line
    assert {"memo_tasks", "memo_tokens_total", "memo_workers", "memo_gpu_seconds_total"} <= seen, seen


def check_methods(run):
    code, head, body = run.ask("/", "HEAD")
    assert code == 200 and body == b"" and re.search("Content-Length: [1-9]", head)
    assert "default-src 'none'" in head and "no-store" in head
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW", "get"):
        code, head, body = run.ask("/status", method)
        assert code == 405 and "Allow: GET, HEAD" in head, (method, code)
    assert run.ask("/status/")[0] == 404
    assert run.ask("/../../etc/passwd")[0] == 404
    assert run.ask("/%2e%2e/%00")[0] in (400, 404)
    # a name that some web page made up for this address
    assert run.raw(b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n").startswith(b"HTTP/1.1 403")
    assert run.raw(b"GET /status HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n").startswith(b"HTTP/1.1 403")
    assert run.raw(b"GET /status HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.")
    body = b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100000
    assert run.raw(body)[:12] in (b"HTTP/1.1 405", b"")


def check_oversized(run):
    for request in (b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"b" * 200000 + b"\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 50000 + b"\r\n"):
        answer = run.raw(request)
        assert answer == b"" or re.match(rb"HTTP/1\.[01] 4(00|13|14|31)", answer), answer[:100]
    check_alive(run)


def check_garbage(run, seed):
    """Random bytes, and a good request with some of its bytes changed, cut or doubled."""
    source = random.Random(seed)
    good = b"GET /status HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    for i in range(600):
        if i % 3 == 0:
            request = source.randbytes(source.randrange(1, 3000))
        else:
            request = bytearray(good)
            for _ in range(source.randrange(1, 6)):
                place = source.randrange(len(request))
                if source.random() < 0.5:
                    request[place] = source.randrange(256)
                else:
                    request[place:place] = request[place:place + source.randrange(1, 40)]
            request = bytes(request[:source.randrange(1, len(request))] if source.random() < 0.3 else request)
        answer = run.raw(request, 0.02)  # half a request is waited for
        assert answer == b"" or answer.startswith(b"HTTP/1."), (seed, i, answer[:100])
    check_alive(run)


def check_alive(run):
    begin = time.monotonic()
    assert run.status()["tasks"]["total"] > 700
    return time.monotonic() - begin


def check_many(run):
    """A thousand clients that say nothing or half of something; then a thousand that want an answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    idle = []
    for i in range(900):
        connection = run.connect()
        if i % 2:
            connection.sendall(b"GET /status HTTP/1.1\r\nHo")
        idle.append(connection)
    check_alive(run)
    asking = []
    for i in range(1000):
        connection = run.connect()
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        asking.append(connection)
    for connection in asking:
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 200") and b"memo_tasks" in answer
        connection.close()
    return idle


def check_cut(run, idle, trickle):
    """Who has not finished after 15 s is cut, also when now and then a byte comes or is taken."""
    deadline = time.monotonic() + 40
    while trickle or idle:
        assert time.monotonic() < deadline, f"{len(idle)} idle and {len(trickle)} slow clients are still connected"
        for clients in (trickle, idle):
            for connection in clients[:]:
                connection.setblocking(False)
                try:
                    if clients is trickle:
                        connection.sendall(b"x")
                    if connection.recv(1) == b"":
                        raise ConnectionError
                except BlockingIOError:
                    continue
                except ConnectionError:
                    connection.close()
                    clients.remove(connection)
        time.sleep(0.5)
    check_alive(run)


def check_key(directory):
    for environment in ({"MEMO_STATUS_KEY": KEY, "MEMO_API_KEY": "another"}, {"MEMO_API_KEY": KEY}):
        run = Run(directory, 20, environment)
        try:
            for headers in ((), ("Authorization: Bearer wrong",), ("Authorization: Basic " + KEY,),
                            ("Authorization: Bearer " + KEY[:-1],), ("Authorization: Bearer " + KEY + "x",),
                            ("Authorization: Bearer ",), ("Authorization: Bearer another",)):
                for path in ("/status", "/metrics"):
                    code, head, body = run.ask(path, headers=headers)
                    assert code == 401 and "WWW-Authenticate: Bearer" in head and b"tasks" not in body, (headers, code)
            assert run.ask("/")[0] == 200  # the page holds nothing of the run
            good = ("Authorization: Bearer " + KEY,)
            assert run.status(good)["tasks"]["total"] > 700
            assert run.ask("/metrics", headers=good)[0] in (200, 503)
            run.process.terminate()
            run.ends(75)
            for path, _, names in os.walk(run.out):
                for name in names:
                    with open(os.path.join(path, name), "rb") as file:
                        assert KEY.encode() not in file.read(), name + " holds the key"
            assert KEY not in run.text(), "the key was logged"
        finally:
            run.close()


def check_port_in_use(directory):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        corpus = os.path.join(directory, "corpus.h5")
        done = subprocess.run([memo, "generate", "--corpus", corpus, "--out", os.path.join(directory, "other"),
                               "--status-port", str(taken.getsockname()[1])], stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == 0 and b"warning: no status page" in done.stderr, done.stderr
        done = subprocess.run([memo, "generate", "--corpus", corpus, "--out", os.path.join(directory, "other"),
                               "--status-port", "0", "--status-host", "no.such.host.invalid"], stderr=subprocess.PIPE,
                              timeout=60)
        assert done.returncode == 0 and b"warning: no status page" in done.stderr, done.stderr


def main():
    with tempfile.TemporaryDirectory() as directory:
        check_key(directory)
        run = Run(os.path.join(directory), 60)
        try:
            check_status(run)
            check_metrics(run)
            check_methods(run)
            trickle = []
            for _ in range(5):
                trickle.append(run.connect())
                trickle[-1].sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            idle = check_many(run)
            check_oversized(run)
            check_garbage(run, 1)
            check_cut(run, idle, trickle)
            before = run.status()
            assert before["tasks"]["retries"] == 0 and before["workers"]["silent"] == 0
            run.process.terminate()
            run.ends(75)
        finally:
            run.close()
        check_port_in_use(directory)
        run = Run(directory, 0.5)  # the same directory: what is left
        run.ends(0)
        run.close()
        with open(os.path.join(run.out, "run/summary.json")) as file:
            summary = json.load(file)
        assert summary["tasks_done"] == summary["tasks"] and summary["state"] == "done", summary


main()
