#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server without a model, which misbehaves as it is told to. Only for tests.

Start it with its standard input on a pipe; it ends when that closes (or on SIGTERM), so that it
never outlives the test that started it. It listens on 127.0.0.1 and prints its port as one line:

    coproc server { exec python3 tests/http/scripted_server.py --faults 0.2; }
    read -r port <&"${server[0]}"
    memo generate --generator "http:http://127.0.0.1:$port/v1" ...
    curl -s "http://127.0.0.1:$port/statistics"
    kill "$server_PID"

An answer depends on the request alone: model, messages, schema, seed and max_tokens. Whether and how
try number n of a request goes wrong depends on --seed, the request and n, not on what else
happens; after --most-faults tries in a row it is answered. So a run with faults ends with the same
answers as one without.

Answers
    response_format json_schema   an instance of the schema, all properties: strings of words of the
                                  user's message, arrays of 1 to 3 items (more if minItems says
                                  so), booleans, numbers and choices drawn
    json_object, or none          the same, for the schema that stands behind "JSON Schema:" in the
                                  user's message; without response_format in a Markdown fence
    free text                     "answer HASH" and words of the user's message
With --quote strings are a few words as they follow one another in the message, often in its last
part; a number of the list there stands for every integer.
A token is a word. More than max_tokens of them: the answer is cut there, finish_reason "length".

Faults (--modes, a comma separated list; all but the last by default)
    429        too many requests          429-after  with Retry-After: seconds (--retry-after)
    429-date   with Retry-After: a date   500, 503   server error
    hang       no byte ever               reset      connection reset
    close      closed without a byte      truncated  closed in the middle of the body
    chunk-cut  a chunk that never ends    malformed  200 with JSON that breaks off
    drip       a byte every 100 ms        huge       a body without end
    html       200 with a web page        error-200  200 with an "error" in it
    echo-key   500 with the key in its message
    redirect   307 to the same place

GET /statistics tells as JSON: requests (POSTs read), answers, modes (how often each), most_at_once,
early (tries that came before a Retry-After had passed), pairs (objects with a "question" in the
answers, but for those of lists of one), refused (response_format), keys (distinct
bearer tokens), connections.
"""
import argparse
import asyncio
import email.utils
import hashlib
import json
import random
import re
import socket
import ssl
import struct
import sys
import time

MODES = ("429 429-after 429-date 500 503 hang reset close truncated chunk-cut malformed drip huge "
         "html error-200 echo-key redirect").split()
SCHEMA_MARK = "\n\nAnswer with JSON alone"
BODY_LIMIT = 64 << 20
FORMS = ["strict", "schema", "object", "none"]  # of response_format, from most to least


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="The file's head says more.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", default="1", help="of faults and jitter")
    parser.add_argument("--faults", type=float, default=0, help="share of tries that go wrong")
    parser.add_argument("--modes", default=",".join(MODES[:-1]), help="how they go wrong")
    parser.add_argument("--most-faults", type=int, default=4, help="of one request, in a row")
    parser.add_argument("--script", default="",
                        help="modes of the first POSTs in the order of arrival; 'ok' is a good one")
    parser.add_argument("--delay-ms", type=float, default=0, help="before every reply")
    parser.add_argument("--jitter-ms", type=float, default=0, help="up to this is added")
    parser.add_argument("--retry-after", type=int, default=1, help="seconds of 429-after, 429-date")
    parser.add_argument("--limit", type=int, default=0, help="more requests at once get 429")
    parser.add_argument("--key", default="", help="other bearer tokens get 401")
    parser.add_argument("--context", type=int, default=0, help="words; longer requests get 400")
    parser.add_argument("--forms", choices=FORMS, default="strict",
                        help="the most that response_format may ask for; else 400")
    parser.add_argument("--ignore-format", action="store_true",
                        help="response_format has no effect: answers in prose")
    parser.add_argument("--refuse-fields", default="", help="fields of the request that get 400")
    parser.add_argument("--quote", action="store_true", help="strings quote the message")
    parser.add_argument("--tls", default="", help="speak TLS: file with key and certificate")
    parser.add_argument("--true-share", type=float, default=0.7, help="of booleans")
    o = parser.parse_args()
    o.modes = [mode for mode in o.modes.split(",") if mode]
    o.script = [mode for mode in o.script.split(",") if mode]
    for mode in o.modes + [mode for mode in o.script if mode != "ok"]:
        if mode not in MODES:
            parser.error(f"unknown mode '{mode}'; known are {' '.join(MODES)}")
    return o


def draws(*parts):
    """Random numbers that depend on the parts alone."""
    joined = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return random.Random(int.from_bytes(hashlib.sha256(joined).digest(), "big"))


def quote(rng, words, longest):
    """A few words that follow one another: half of the time of the last hundred."""
    first = max(0, len(words) - 100) if rng.random() < 0.5 else 0
    length = rng.randint(1, 2) if longest < 200 else rng.randint(4, 9)
    begin = rng.randrange(first, max(first + 1, len(words) - length))
    return " ".join(words[begin:begin + length])


def count_pairs(schema, value):
    """How many objects with a question a list of more than one may hold."""
    inner = next(iter(schema.get("properties", {}).items()), None)
    if not inner or inner[1].get("type") != "array" or inner[1].get("maxItems") == 1:
        return 0
    return sum(isinstance(item, dict) and "question" in item for item in value[inner[0]])


def instance(schema, rng, words, true_share, quoted=False):
    """A value that obeys the schema (the subset of worker/engine/json_schema.h)."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: instance(inner, rng, words, true_share, quoted)
                for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        least = schema.get("minItems", 0)
        most = max(least, min(schema.get("maxItems", 3), 3))
        count = rng.randint(min(max(least, 1), most), most)
        return [instance(schema.get("items", {}), rng, words, true_share, quoted)
                for _ in range(count)]
    if kind == "string" and quoted:
        text = quote(rng, words, schema.get("maxLength", 1000))
        return text[:schema.get("maxLength", len(text))]
    if kind == "string":
        text = " ".join(rng.choice(words) for _ in range(rng.randint(2, 8)))
        return text[:schema.get("maxLength", len(text))]
    if kind == "boolean":
        return rng.random() < true_share
    if kind == "integer" and quoted:
        return rng.choice([int(word) for word in words[-400:] if re.fullmatch("[1-9][0-9]?", word)]
                          or [1])
    if kind == "integer":
        return rng.randint(schema.get("minimum", 0), schema.get("maximum", 9))
    return round(rng.random(), 3) if kind == "number" else None


class Chat:
    """One request, understood."""

    def __init__(self, body, ignore_format):
        self.body = body
        self.system = "".join(m["content"] for m in body["messages"] if m["role"] == "system")
        self.user = "".join(m["content"] for m in body["messages"] if m["role"] == "user")
        self.schema = None
        wanted = body.get("response_format", {})
        self.form = "none"
        if wanted.get("type") == "json_schema":
            self.schema = wanted["json_schema"]["schema"]
            self.form = "strict" if wanted["json_schema"].get("strict") else "schema"
        elif wanted.get("type") == "json_object":
            self.form = "object"
        if self.schema is None and SCHEMA_MARK in self.user:
            self.user, _, told = self.user.rpartition(SCHEMA_MARK)
            self.schema = json.loads(told.partition("JSON Schema:\n")[2])
        elif ignore_format:
            self.schema = None
        self.most = body.get("max_tokens", body.get("max_completion_tokens", 1 << 30))
        # Independent of how the schema was asked for.
        self.identity = json.dumps([body["model"], self.system, self.user, self.schema,
                                    body.get("seed"), self.most])

    def words(self):
        return re.findall(r"\w+", self.user) or ["nothing"]

    def answer(self, true_share, quoted):
        """(text, finish_reason, tokens)"""
        rng = draws("answer", self.identity)
        self.pairs = 0
        if self.schema is not None:
            value = instance(self.schema, rng, self.words(), true_share, quoted)
            self.pairs = count_pairs(self.schema, value)
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if self.form == "none":
                text = f"```json\n{text}\n```"
        else:
            digest = hashlib.sha256(self.identity.encode("utf-8", "surrogatepass")).hexdigest()
            text = f"answer {digest[:16]} " + " ".join(self.words()[:8])
        pieces = re.findall(r"\S+\s*", text)
        if len(pieces) > self.most:
            return "".join(pieces[:self.most]), "length", self.most
        return text, "stop", len(pieces)


class Server:
    def __init__(self, o):
        self.o = o
        self.tries = {}  # identity: faulty tries in a row
        self.not_before = {}  # identity: monotonic time
        self.at_once = 0
        self.statistics = {"requests": 0, "answers": 0, "modes": {}, "most_at_once": 0, "early": 0,
                           "refused": 0, "keys": [], "connections": 0, "pairs": 0}

    def choose_mode(self, chat):
        number = self.statistics["requests"] - 1
        if number < len(self.o.script):
            return self.o.script[number]
        before = self.tries.get(chat.identity, 0)
        rng = draws("fault", self.o.seed, chat.identity, before)
        if before >= self.o.most_faults or rng.random() >= self.o.faults:
            return "ok"
        return rng.choice(self.o.modes)

    def note_try(self, chat, mode):
        now = time.monotonic()
        if now < self.not_before.pop(chat.identity, 0):
            self.statistics["early"] += 1
        if mode in ("429-after", "429-date"):
            # a date has whole seconds, and lies up to one second earlier than now + seconds
            self.not_before[chat.identity] = now + self.o.retry_after - (mode == "429-date")
        modes = self.statistics["modes"]
        modes[mode] = modes.get(mode, 0) + 1
        self.tries[chat.identity] = 0 if mode == "ok" else self.tries.get(chat.identity, 0) + 1

    def refusal(self, chat, key):
        """(status, message, param) of a request that the server never answers; or None"""
        if self.o.key and key != self.o.key:
            return 401, f"Incorrect API key provided: {key}.", None
        for field in filter(None, self.o.refuse_fields.split(",")):
            if field in chat.body:
                return 400, f"Unrecognized request argument supplied: {field}", field
        if FORMS.index(chat.form) < FORMS.index(self.o.forms):
            self.statistics["refused"] += 1
            return 400, f"This response_format ({chat.form}) is not supported.", "response_format"
        length = len(chat.words()) + len(chat.system.split())
        if self.o.context and length > self.o.context:
            return 400, (f"This model's maximum context length is {self.o.context} tokens. However,"
                         f" your messages resulted in {length} tokens."), "messages"
        return None

    def completion(self, chat):
        text, reason, tokens = chat.answer(self.o.true_share, self.o.quote)
        prompt = len(chat.words()) + len(chat.system.split())
        return {"id": "chatcmpl-scripted", "object": "chat.completion", "model": chat.body["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                             "finish_reason": reason}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": tokens,
                          "total_tokens": prompt + tokens,
                          "prompt_tokens_details": {"cached_tokens": len(chat.system.split())}}}

    async def reply_chat(self, reader, writer, body, key):
        self.statistics["requests"] += 1
        if key not in self.statistics["keys"]:
            self.statistics["keys"].append(key)
        chat = Chat(json.loads(body), self.o.ignore_format)
        mode = self.choose_mode(chat)
        refusal = self.refusal(chat, key)
        if refusal:
            status, message, param = refusal
            return await send_error(writer, status, message, param)
        if self.o.limit and self.at_once > self.o.limit:
            mode = "429"
        self.note_try(chat, mode)
        delay = self.o.delay_ms + self.o.jitter_ms * draws("jitter", chat.identity).random()
        await asyncio.sleep(delay / 1000)
        if mode != "ok":
            return await self.misbehave(mode, chat, reader, writer, key)
        self.statistics["answers"] += 1
        text = json.dumps(self.completion(chat)).encode()
        self.statistics["pairs"] += chat.pairs
        return await send(writer, 200, text)

    async def misbehave(self, mode, chat, reader, writer, key):
        """Whether the connection goes on."""
        text = json.dumps(self.completion(chat)).encode()
        if mode == "429":
            return await send_error(writer, 429, "slow down")
        if mode == "429-after":
            return await send_error(writer, 429, "slow down",
                                    header=f"Retry-After: {self.o.retry_after}")
        if mode == "429-date":
            date = email.utils.formatdate(time.time() + self.o.retry_after, usegmt=True)
            return await send_error(writer, 429, "slow down", header=f"Retry-After: {date}")
        if mode in ("500", "503"):
            return await send_error(writer, int(mode), "the scripted server failed")
        if mode == "echo-key":
            return await send_error(writer, 500, f"worker died with Authorization: Bearer {key}")
        if mode == "redirect":
            return await send_error(writer, 307, "elsewhere", header="Location: /v1/chat/completions")
        if mode == "error-200":
            return await send(writer, 200, b'{"error": {"message": "upstream failed", "code": 502}}')
        if mode == "html":
            return await send(writer, 200, b"<html>please log in</html>", kind="text/html")
        if mode == "malformed":
            return await send(writer, 200, text[:len(text) // 2])
        await self.break_connection(mode, text, reader, writer)
        return False

    async def break_connection(self, mode, text, reader, writer):
        if mode == "hang":
            await reader.read()  # until the client gives up
        elif mode == "reset":
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif mode == "truncated":
            writer.write(head(200, len(text)) + text[:len(text) // 2])
        elif mode == "chunk-cut":
            writer.write(head(200, None) + b"%x\r\n" % len(text) + text[:len(text) // 2])
        elif mode == "drip":
            writer.write(head(200, len(text)))
            for i in range(len(text)):
                writer.write(text[i:i + 1])
                await writer.drain()
                await asyncio.sleep(0.1)
        elif mode == "huge":
            writer.write(head(200, None))
            while True:
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await writer.drain()

    async def serve_one(self, reader, writer):
        """One request; whether the connection goes on."""
        request = await reader.readuntil(b"\r\n\r\n")
        lines = request.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {name.lower(): value.strip()
                   for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        length = int(headers.get("content-length", 0))
        if length > BODY_LIMIT:
            return await send_error(writer, 413, "too large")
        body = await reader.readexactly(length)
        path = path.partition("?")[0]
        if method == "GET" and path == "/statistics":
            return await send(writer, 200, json.dumps(self.statistics).encode())
        if method == "GET" and path == "/v1/models":
            return await send(writer, 200, b'{"object": "list", "data": [{"id": "scripted"}]}')
        if method != "POST" or not path.endswith("/chat/completions"):
            return await send_error(writer, 404, f"there is no {path}")
        key = headers.get("authorization", "").removeprefix("Bearer ")
        self.at_once += 1
        self.statistics["most_at_once"] = max(self.at_once, self.statistics["most_at_once"])
        try:
            return await self.reply_chat(reader, writer, body, key)
        finally:
            self.at_once -= 1

    async def serve(self, reader, writer):
        self.statistics["connections"] += 1
        try:
            while await self.serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()


def head(status, length, kind="application/json", header=""):
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Type: {kind}"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    if header:
        lines.append(header)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def send(writer, status, body, kind="application/json", header=""):
    writer.write(head(status, len(body), kind, header) + body)
    await writer.drain()
    return True


async def send_error(writer, status, message, param=None, header=""):
    error = {"message": message, "type": "scripted", "param": param, "code": None}
    return await send(writer, status, json.dumps({"error": error}).encode(), header=header)


async def until_input_closes():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def main():
    o = options()
    server = Server(o)
    tls = None
    if o.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(o.tls)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", o.port, limit=BODY_LIMIT,
                                           backlog=1024, reuse_address=True, ssl=tls)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await until_input_closes()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
