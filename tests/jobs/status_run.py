# SPDX-License-Identifier: Apache-2.0
"""A generation with a status server, for the tests of what can be seen of it."""
import json
import os
import re
import socket
import subprocess
import sys
import time

memo, root = sys.argv[1], sys.argv[2]


class Run:
    """A generation of one process that takes a while, with a status server on a free port."""

    def __init__(self, directory, seconds, key=None, arguments=()):
        self.out = os.path.join(directory, "reflections")
        corpus = os.path.join(directory, "corpus.h5")
        if not os.path.exists(corpus):
            subprocess.run([memo, "ingest", os.path.join(root, "datasets/examples"), "--out", corpus, "--chunk-tokens",
                            "60", "--overlap", "0"], check=True, stderr=subprocess.DEVNULL, timeout=60)
        environment = {k: v for k, v in os.environ.items() if k not in ("MEMO_API_KEY", "MEMO_STATUS_KEY")}
        environment.update(key or {})
        self.log = open(os.path.join(directory, "log"), "w+")
        self.process = subprocess.Popen(
            [memo, "generate", "--corpus", corpus, "--out", self.out, "--status-port", "0", "--commit-seconds", "0.5",
             "--max-tasks-per-second", str(760 / seconds), *arguments], stderr=self.log, env=environment)
        self.port = int(self.says(r"status page on \S+: http://127\.0\.0\.1:(\d+)/").group(1))

    def text(self):
        with open(self.log.name) as log:
            return log.read()

    def says(self, pattern, seconds=30):
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text())):
            assert time.monotonic() < deadline and self.process.poll() is None, "no line " + pattern + ": " + self.text()
            time.sleep(0.02)
        return found

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, request, patience=30):
        """The whole answer to bytes; what comes before a reset, or in time, counts."""
        with self.connect() as connection:
            connection.settimeout(patience)
            answer = b""
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    answer += chunk
            except OSError:  # reset, perhaps before all was sent
                pass
            return answer

    def ask(self, path, method="GET", headers=()):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        answer = self.raw("\r\n".join(lines + ["", ""]).encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), answer[:200]
        return int(head.split()[1]), head.decode("latin-1"), body

    def status(self, headers=()):
        deadline = time.monotonic() + 30
        while True:
            code, _, body = self.ask("/status", headers=headers)
            if code == 200:
                return json.loads(body)
            assert code == 503 and time.monotonic() < deadline, code

    def ends(self, code):
        assert self.process.wait(timeout=60) == code, self.text()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
