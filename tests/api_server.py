"""Stand-in for the servers of APIs, on this machine: it answers with what a test has put into `responses`."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def gemini(text, input_tokens=271, output_tokens=3, thoughts=None):
    """A response of Gemini; text None = it was blocked."""
    usage = {"promptTokenCount": input_tokens, "candidatesTokenCount": output_tokens, "thoughtsTokenCount": thoughts}
    if text is None:
        return 200, {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": input_tokens}}
    content = {"role": "model", "parts": [{"text": text}]}
    return 200, {"candidates": [{"content": content, "finishReason": "STOP"}], "usageMetadata": usage}


def openai(text, input_tokens=271, output_tokens=3):
    """A response of chat completions; text None = without content."""
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


class Server:
    """The running server.

    Attributes:
        url: Its address.
        responses: (status, JSON value or text, headers such as {"retry-after": "2"}) of the next requests; a number is
            a time in seconds to sleep before a response, None closes the connection.
        requests: (path, headers, body) of the requests so far.
        most: Largest number of requests at the same time.
    """

    def __init__(self, url):
        self.url, self.responses, self.requests, self.most = url, [], [], 0
        self.running, self.mutex = 0, threading.Lock()

    def next(self, request):
        with self.mutex:
            self.requests.append(request)
            self.running += 1
            self.most = max(self.most, self.running)
            return self.responses.pop(0)

    def ended(self):
        with self.mutex:
            self.running -= 1


@contextmanager
def running():
    """Run a server until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            response = server.next((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            if isinstance(response, tuple) and isinstance(response[0], float):
                time.sleep(response[0])
                response = response[1:]
            server.ended()
            if response is None:
                self.connection.close()
                return
            status, value, *headers = response
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            for name, text in {"content-length": str(len(content)), **(headers[0] if headers else {})}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a client that does not wait for its response

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_port}")
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        http.shutdown()
