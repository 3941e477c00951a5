"""A real chat server on loopback that does to each request what it is told to, and keeps what it was asked."""

import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Act = Callable[["Handler"], None]
KEY = "sk-very-secret"


@dataclass
class Server:
    """acts: what happens to the first requests, one each, then `afterwards` to all others."""

    url: str = ""
    acts: list[Act] = field(default_factory=list)
    afterwards: Act = field(default_factory=lambda: says("first"))
    requests: list[dict[str, object]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    told: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = self.told
        with told.lock:
            told.requests.append(body)
            told.headers.append(dict(self.headers))
            told.times.append(time.monotonic())
            told.under_way += 1
            told.most_under_way = max(told.most_under_way, told.under_way)
            act = told.acts.pop(0) if told.acts else told.afterwards
        try:
            act(self)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client did not wait
        finally:
            with told.lock:
                told.under_way -= 1

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def completion(
    content: object, prompt_tokens: int = 1000, answer_tokens: int = 1, finish: str = "stop", **message: object
) -> bytes:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens}
    choice = {"message": {"role": "assistant", "content": content} | message, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def says(content: object, finish: str = "stop", **message: object) -> Act:
    return lambda handler: handler.reply(200, completion(content, finish=finish, **message))


def refuses(http_status: int, message: str, **error: object) -> Act:
    """An error object as OpenAI's servers send it."""
    return status(http_status, json.dumps({"error": {"message": message} | error}).encode())


def status(code: int, content: bytes = b"", **headers: str) -> Act:
    return lambda handler: handler.reply(code, content, **headers)


def slowly(seconds: float) -> Act:
    def act(handler: Handler) -> None:
        time.sleep(seconds)
        handler.reply(200, completion("first"))

    return act


def silent(handler: Handler) -> None:
    """No answer, for as long as the client waits for one."""
    handler.connection.recv(1)
    handler.close_connection = True


def in_a_trickle(seconds: float) -> Act:
    """Byte by byte, each in time, all of them not."""

    def act(handler: Handler) -> None:
        content = completion("first")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for byte in content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(seconds / len(content))

    return act


def torn(handler: Handler) -> None:
    """JSON that breaks off, in a response that is whole."""
    handler.reply(200, completion("first")[:-20])


def cut_off(handler: Handler) -> None:
    """A response that is shorter than it says."""
    handler.reply(200, completion("first")[:30], Content_Length="400")
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """The connection is torn down without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.wfile = handler.rfile = io.BytesIO()


@contextmanager
def serving() -> Iterator[Server]:
    told = Server()
    handler = type("ToldHandler", (Handler,), {"told": told})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        told.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
