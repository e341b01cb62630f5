"""The peer's side: an ONNX Runtime session, set as ours is, inside Triton's python backend."""

from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb  # type: ignore[import-not-found]


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session that lies beside this file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run each request by itself: batch 1, as everywhere in this comparison."""
        responses = []
        for request in requests:
            question = pb.get_input_tensor_by_name(request, self._input).as_numpy()
            (answer,) = self._session.run([self._output], {self._input: question})
            responses.append(pb.InferenceResponse([pb.Tensor(self._output, answer)]))
        return responses
