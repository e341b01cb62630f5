"""Open Inference Protocol questions as finished bytes, and the check that an answer is right."""

import json
import socket
from collections.abc import Mapping

import numpy as np

from bench.loadgen import connect, receive_reply
from bench.models import Array, Model, session


def infer_request(
    model: Model, *, binary: bool, parameters: Mapping[str, int] | None = None
) -> bytes:
    """Build the whole HTTP request for `model`'s question, tensors binary or in JSON."""
    tensor: dict[str, object] = {
        "name": model.input_name,
        "shape": model.question.shape,
        "datatype": "FP32",
    }
    head: dict[str, object] = {"parameters": dict(parameters or {}), "inputs": [tensor]}
    payload = b""
    if binary:
        payload = model.question.tobytes()
        tensor["parameters"] = {"binary_data_size": len(payload)}
        head["outputs"] = [{"name": model.output_name, "parameters": {"binary_data": True}}]
    else:
        tensor["data"] = model.question.ravel().tolist()
    text = json.dumps(head, separators=(",", ":")).encode()
    headers = [
        f"POST /v2/models/{model.name}/infer HTTP/1.1",
        "Host: bench",
        f"Content-Type: application/{'octet-stream' if binary else 'json'}",
        f"Content-Length: {len(text) + len(payload)}",
    ]
    if binary:
        headers.append(f"Inference-Header-Content-Length: {len(text)}")
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + text + payload


def check_answer(address: str, model: Model, request: bytes) -> None:
    """Ask once and compare with `session.run`: a fast wrong answer is no figure."""
    expected = session(model.path).run(None, {model.input_name: model.question})[0]
    with connect(address) as sock:
        answer = _ask(sock, request)
    if not np.allclose(answer, expected.ravel(), rtol=1e-4, atol=1e-6):
        raise SystemExit(f"{address} answers {model.name} wrongly: {answer[:4]}, not {expected}")


def _ask(sock: socket.socket, request: bytes) -> Array:
    sock.sendall(request)
    reply = receive_reply(sock)
    head, _, body = reply.partition(b"\r\n\r\n")
    if reply[9:12] != b"200":
        raise SystemExit(f"the server refused a question: {reply[:500]!r}")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"inference-header-content-length:"):
            return np.frombuffer(body[int(line.split(b":")[1]) :], np.float32)
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32).ravel()
